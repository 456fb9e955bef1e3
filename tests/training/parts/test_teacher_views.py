"""Views of an image: predictions come back to the pixels they belong to, and say how sure a label is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scene import (
    CPU,
    SIZE,
    Killed,
    all_images,
    batch_of,
    dying,
    network,
    same,
    set_up,
    target_images,
    term,
    train,
)
from scipy import ndimage
from torch import Tensor, nn

from uda import losses
from uda.config.terms import View
from uda.data.seeds import mix
from uda.devices.device import make_fabric
from uda.errors import ConfigError
from uda.losses import ConfidenceHistogram
from uda.training.objective import Objective
from uda.training.parts.components import outside_largest
from uda.training.parts.consistency import ViewConsistency
from uda.training.parts.part import present
from uda.training.parts.teacher import PseudoLabels
from uda.training.parts.views import mean_of_views, predicted_views, size_variation, taken_for
from uda.types import IGNORE, TargetBatch

STILL = View(rotate=0, scale=0, gamma=0, contrast=0, brightness=0)
MOVING = View(rotate=30, scale=0.2, shift=0.1, gamma=0, contrast=0, brightness=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(images: int = 2, axes: int = 2) -> Tensor:
    """Smooth images of one off-centre blob, ``[b, 1, *s]``."""
    at = [torch.arange(float(n)) for n in (6, SIZE, SIZE)[-axes:]]
    grid = torch.stack(torch.meshgrid(*at, indexing="ij"))
    centre = torch.tensor([3.0, 12.0, 19.0][-axes:]).view(-1, *[1] * axes)
    far = (((grid - centre) / 5) ** 2).sum(0)
    return torch.exp(-far).expand(images, 1, *far.shape).contiguous()


def pointwise(image: Tensor) -> Tensor:
    """Logits of two classes from the pixel's own value, as a network that ignores the place would give."""
    return torch.cat([torch.zeros_like(image), 6 * image - 3], 1)


@pytest.mark.parametrize("axes", [2, 3])
def test_a_prediction_comes_back_to_the_pixels_it_belongs_to(axes: int) -> None:
    """A network of single pixels predicts the same from every view, up to interpolation."""
    image = discs(axes=axes)
    p, seen = predicted_views(pointwise, image, 4, MOVING, generator())
    assert p.shape == (4, 2, 2, *image.shape[2:])
    assert seen.shape == (4, 2, 1, *image.shape[2:])
    expected = pointwise(image).softmax(1)
    assert float(((p - expected).abs() * seen).max()) < 0.08
    assert 0.6 < float(seen.float().mean()) < 1
    assert not bool(p.masked_select(~seen).any())
    moved = predicted_views(lambda x: pointwise(x.roll(4, -1)), image, 4, MOVING, generator())[0]
    assert float(((moved - expected).abs() * seen).max()) > 0.5


def test_a_mirrored_view_comes_back_unmirrored() -> None:
    image, seen_images = discs(8), []

    def look(moved: Tensor) -> Tensor:
        seen_images.append(moved)
        return pointwise(moved)

    mirror = STILL.model_copy(update={"mirror": True})
    p, seen = predicted_views(look, image, 1, mirror, generator())
    mirrored = [
        bool(torch.allclose(x, y.flip(-1), atol=1e-5))
        for x, y in zip(seen_images[0], image, strict=True)
    ]
    assert 0 < sum(mirrored) < 8
    torch.testing.assert_close(p[0], pointwise(image).softmax(1), atol=1e-4, rtol=0)
    assert bool(seen.all())


def test_intensities_change_and_nothing_else() -> None:
    image, given = discs(), []

    def look(moved: Tensor) -> Tensor:
        given.append(moved)
        return pointwise(moved)

    bright = STILL.model_copy(update={"brightness": 1.0})
    predicted_views(look, image, 3, bright, generator())
    shifts = (given[0].view(3, *image.shape) - image).flatten(2)
    assert len(shifts.mean(2).unique()) == 6
    torch.testing.assert_close(shifts, shifts[:, :, :1].expand_as(shifts), atol=1e-5, rtol=0)


def test_every_process_draws_the_views_of_all_images_and_predicts_its_own() -> None:
    image = target_images()
    whole, seen = predicted_views(pointwise, image, 3, View(), generator())
    for own in (slice(0, 3), slice(3, 6)):
        part, part_seen = predicted_views(pointwise, image, 3, View(), generator(), own)
        assert torch.equal(part, whole[:, own])
        assert torch.equal(part_seen, seen[:, own])


def test_the_mean_leaves_out_what_a_view_does_not_see() -> None:
    p = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.0, 0.0]]).view(3, 1, 2, 1, 1)
    seen = torch.tensor([True, True, False]).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(mean_of_views(p, seen).flatten(), torch.tensor([0.6, 0.4]))
    assert not bool(mean_of_views(0 * p, seen & False).any())


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """``[v, b, k, *s]`` of labels ``[v, b, *s]``."""
    return nn.functional.one_hot(labels, classes).movedim(-1, 2).float()


def test_variation_of_size_equals_a_float64_reference_over_the_common_pixels() -> None:
    labels = torch.randint(4, (5, 3, 8, 9), generator=generator(1)).clamp_min(1)
    labels[:, 0][labels[:, 0] == 3] = 2  # class 3 is nowhere in image 0
    seen = torch.rand(5, 3, 1, 8, 9, generator=generator(2)) < 0.9
    found = size_variation(one_hot(labels, 4) * seen, seen)
    common = seen.all(0)[:, 0].numpy()
    for image in range(3):
        for c in range(4):
            sizes = np.array(
                [((view == c) & common[image]).sum() for view in labels[:, image].numpy()]
            )
            if not sizes.any():
                assert math.isnan(float(found[image, c]))
                continue
            expected = sizes.astype(np.float64).std() / sizes.mean()
            assert float(found[image, c]) == pytest.approx(expected, rel=1e-5)


def test_a_pixel_is_taken_for_every_class_that_some_view_gives_it() -> None:
    labels = torch.tensor([[[0, 1, 2]], [[0, 2, 2]]])
    seen = torch.tensor([[[[True, True, True]]], [[[True, True, False]]]])
    found = taken_for(one_hot(labels, 3), seen)[0].int()
    assert found.tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


def notes_of(objective: Any, part: Any, step: int = 0) -> Tensor:
    part.begin(step)
    (notes,) = objective.annotate(batch_of(0))
    return present(notes)


def teacher_of(**settings: Any) -> tuple[Any, PseudoLabels]:
    return set_up(network(), term("pseudo_labels", **settings), PseudoLabels)


ALL: dict[str, Any] = {"portion": 1.0, "portion_limit": 1.0, "confidence": "pixel"}


def seen_by(part: PseudoLabels, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What the random views give, each time the part asks for them."""
    found: list[tuple[Tensor, Tensor]] = []
    kept = predicted_views

    def noted(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        found.append(kept(*given, **named))
        return found[-1]

    monkeypatch.setattr("uda.training.parts.teacher.predicted_views", noted)
    return found


def test_labels_come_from_the_mean_over_the_image_and_its_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    objective, part = teacher_of(views=4, **ALL)
    found = seen_by(part, monkeypatch)
    notes = notes_of(objective, part)
    image = present(batch_of(0).target).image
    with torch.no_grad():
        first = part.teacher(image).softmax(1)
    ((p, seen),) = found
    assert len(p) == 3
    mean = (first + (p * seen).sum(0)) / (1 + seen.sum(0))
    torch.testing.assert_close(notes[:, 0], mean.amax(1), atol=1e-5, rtol=0)
    assert torch.equal(notes[:, 1].long(), mean.argmax(1))
    assert not torch.equal(notes[:, 1].long(), first.argmax(1))


def test_views_are_drawn_from_the_step_alone() -> None:
    objective, part = teacher_of(views=3, **ALL)
    part.begin(0)
    torch.manual_seed(1)
    first = notes_of(objective, part, 3)
    torch.manual_seed(2)
    assert torch.equal(notes_of(objective, part, 3), first)
    assert not torch.equal(notes_of(objective, part, 4), first)


def test_views_are_predicted_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, part = teacher_of(views=5, **ALL)
    part.begin(0)
    passes: list[int] = []
    part.teacher.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    objective.annotate(batch_of(0))
    assert passes == [2, 8]


def test_thresholds_are_those_of_the_mean_over_views() -> None:
    _, part = teacher_of(views=3, portion=0.4)
    part.begin(0)
    histogram = ConfidenceHistogram(3)
    with torch.no_grad():
        for number, images in enumerate(all_images()):
            histogram.add(part._mean(images, number)[0])
    assert torch.equal(present(part.log_thresholds), histogram.log_thresholds(0.4))
    _, single = teacher_of(portion=0.4)
    single.begin(0)
    assert not torch.equal(present(part.log_thresholds), present(single.log_thresholds))


def test_a_threshold_keeps_the_sure_pixels_and_both_losses_count_them_alone() -> None:
    objective, part = teacher_of(threshold=0.45, dice=0.7, cross_entropy=0.5, **ALL)
    plain = notes_of(*teacher_of(**ALL))
    notes = notes_of(objective, part)
    sure = plain[:, 0] > 0.45
    assert 0.1 < float(sure.float().mean()) < 0.9
    labels = notes[:, 1].long()
    assert torch.equal(labels, plain[:, 1].long().where(sure, IGNORE))
    batch = batch_of(0)
    logits = torch.randn(2, 3, SIZE, SIZE, generator=generator(3))
    _, values = objective(batch, None, logits, 0, [notes])
    p, y = logits.softmax(1), nn.functional.one_hot(plain[:, 1].long(), 3).movedim(-1, 1)
    p, y = (x * sure.unsqueeze(1) for x in (p, y))
    dice = 1 - (2 * p * y).sum((0, 2, 3)) / (p.sum((0, 2, 3)) + y.sum((0, 2, 3)))
    expected = (
        0.5 * losses.partial_cross_entropy(logits, labels, notes[:, 0]) + 0.7 * dice[1:].mean()
    )
    assert float(values["pseudo_labels"]) == pytest.approx(float(expected), rel=1e-5)


def test_portions_leave_more_unlabelled_outside_a_small_structure_and_one_threshold_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = torch.arange(SIZE) - 16.0
    distance = (at[:, None] ** 2 + at**2).sqrt() - 6  # from a border at 6 pixels, in logits
    logits = torch.stack([distance, -distance])

    def farthest(**settings: Any) -> tuple[float, float]:
        """How far inside and outside the border a pixel has no label."""
        objective, part = teacher_of(**settings)
        monkeypatch.setattr(part, "_predict", lambda image: logits.expand(len(image), -1, -1, -1))
        unlabelled = distance[notes_of(objective, part)[0, 1] == IGNORE]
        return -float(unlabelled.min()), float(unlabelled.max())

    inside, outside = farthest(portion=0.6, portion_limit=0.6)
    assert outside > 2 * inside > 0
    inside, outside = farthest(threshold=0.99, portion=1.0, portion_limit=1.0)
    assert outside == pytest.approx(inside, abs=0.5)  # the grid's distances are half a pixel apart
    assert inside > 1


@pytest.mark.parametrize("soft", [0.0, 0.5])
@pytest.mark.parametrize("prune", [0.3, "median"])
def test_a_structure_whose_size_varies_loses_every_pixel_that_a_view_takes_for_it(
    prune: Any, soft: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective, part = teacher_of(views=4, prune=prune, soft=soft, **ALL)
    labels = torch.zeros(4, 2, SIZE, SIZE, dtype=torch.long)
    labels[:, :, :8, :8] = 2  # steady in both images
    for view in range(4):
        labels[view, 0, 20:30, 20 : 22 + 2 * view] = 1  # 20, 40, 60, 80 pixels
        labels[view, 1, 20:30, 20 : 25 + view % 2] = 1  # 50 or 60
    p = 0.9 * one_hot(labels, 3) + 0.1 / 3
    seen = torch.ones_like(p[:, :, :1]) > 0
    variation = size_variation(p, seen)
    assert variation[0, 1] > 0.3 > variation[1, 1] > 0
    monkeypatch.setattr("uda.training.parts.teacher.predicted_views", lambda *a: (p[1:], seen[1:]))
    monkeypatch.setattr(part, "_predict", lambda image: p[0].log())
    notes = notes_of(objective, part)
    labelled = notes[:, 1:].sum(1) > 0 if soft else notes[:, 1] != IGNORE
    dropped = torch.zeros_like(labelled)
    dropped[0, 20:30, 20:28] = True
    assert torch.equal(labelled, ~dropped)


def test_background_is_never_pruned() -> None:
    objective, part = teacher_of(views=3, prune=1e-9, **ALL)
    notes = notes_of(objective, part)
    image = present(batch_of(0).target).image
    assert bool((notes[:, 1] == 0).any())
    assert set(notes[:, 1].unique().tolist()) <= {0.0, float(IGNORE)}
    assert len(image) == 2


@pytest.mark.parametrize("axes", [2, 3])
def test_all_but_the_largest_component_of_each_structure_are_found(axes: int) -> None:
    space = (5, 24, 24)[-axes:]
    labels = torch.randint(3, (3, *space), generator=generator(5))
    labels[0] = IGNORE
    found = outside_largest(labels, 3)
    for image, outside in zip(labels.numpy(), found.numpy(), strict=True):
        for c in (1, 2):
            parts, count = ndimage.label(image == c)
            sizes = sorted(((parts == n).sum() for n in range(1, count + 1)), reverse=True)
            kept = (image == c) & ~outside
            assert kept.sum() == (sizes[0] if sizes else 0)
            assert ndimage.label(kept)[1] <= 1
        assert not outside[(image == 0) | (image == IGNORE)].any()


@pytest.mark.parametrize(("largest", "value"), [("ignore", IGNORE), ("background", 0)])
def test_smaller_components_become_unlabelled_or_background(largest: str, value: int) -> None:
    plain = notes_of(*teacher_of(**ALL))
    notes = notes_of(*teacher_of(largest=largest, **ALL))
    labels = plain[:, 1].long()
    outside = outside_largest(labels, 3)
    assert bool(outside.any())
    assert torch.equal(notes[:, 1].long(), labels.masked_fill(outside, value))
    assert torch.equal(notes[:, 0], plain[:, 0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prune": 0.2}, "views must be 2 or more"),
        ({"largest": "ignore", "soft": 1.0}, "soft must be 0"),
        ({"cross_entropy": 0.0}, "one must be above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        term("pseudo_labels", **settings)


# agreement between views


def consistency_of(student: nn.Module, **settings: Any) -> tuple[Any, ViewConsistency]:
    return set_up(student, term("view_consistency", **settings), ViewConsistency)


def test_it_compares_with_the_students_own_prediction_of_other_views() -> None:
    student = network().train()
    objective, part = consistency_of(student, views=2)
    notes = notes_of(objective, part)
    image = present(batch_of(0).target).image
    with torch.no_grad():
        student.eval()
        own = generator(mix(part.context.seed, "views", 0))
        p, seen = predicted_views(student, image, 2, View(), own)
    seen_once = seen.any(0)
    torch.testing.assert_close(notes[:, :1] > 0, seen_once)
    mean = mean_of_views(p, seen)
    torch.testing.assert_close(notes[:, 1:], mean)
    logits = torch.randn(2, 3, SIZE, SIZE, generator=generator(4))
    _, values = objective(batch_of(0), None, logits, 0, [notes])
    expected = losses.dice_consistency(logits, mean, seen_once[:, 0])
    assert float(values["view_consistency"]) == float(expected)


def test_the_entropy_is_that_of_the_mean_of_all_predictions() -> None:
    objective, part = consistency_of(network(), views=3, loss="mean_entropy")
    notes = notes_of(objective, part)
    logits = torch.randn(2, 3, SIZE, SIZE, generator=generator(4)).double().requires_grad_()
    loss, values = objective(batch_of(0), None, logits, 0, [notes.double()])
    mean = (logits.softmax(1) + 3 * notes[:, 1:].double()) / 4
    pixel = -(mean * mean.log()).sum(1) / math.log(3)
    expected = pixel[notes[:, 0] > 0].mean()
    assert float(values["view_consistency"]) == pytest.approx(float(expected.detach()), rel=1e-6)
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(found, wanted, atol=1e-9, rtol=1e-5)


def test_the_gradient_runs_through_the_student_alone_and_its_mode_stays() -> None:
    student = network().train()
    before = {name: value.clone() for name, value in student.named_buffers()}
    objective, part = consistency_of(student)
    notes = notes_of(objective, part)
    assert student.training
    assert not notes.requires_grad
    for name, value in student.named_buffers():
        assert torch.equal(value, before[name]), name
    image = present(batch_of(0).target).image
    loss, _ = objective(batch_of(0), None, student(image), 0, [notes])
    loss.backward()
    assert any(bool(present(weight.grad).any()) for weight in student.parameters())
    assert all(weight.grad is None for weight in part.copy.parameters())


def test_the_views_are_predicted_by_the_weights_of_this_step() -> None:
    student = network()
    objective, part = consistency_of(student)
    first = notes_of(objective, part, 1)
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(0.1)
    assert not torch.equal(notes_of(objective, part, 1), first)
    assert objective.state() == {}


def test_training_for_agreement_makes_views_agree(tmp_path: Path) -> None:
    made = [term("view_consistency", view={"rotate": 20, "scale": 0.2})]
    before, _ = train(tmp_path / "0", made, steps=0)
    after, _ = train(tmp_path / "40", made, steps=40, save_every=40)

    def disagreement(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            p, seen = predicted_views(model, target_images(), 1, View(rotate=20), generator(9))
            return float(losses.dice_consistency(model(target_images()), p[0], seen[0, :, 0]))

    assert disagreement(after) < 0.7 * disagreement(before)


@pytest.mark.parametrize("loss", ["dice", "mean_entropy"])
def test_killed_and_resumed_agreement_ends_with_the_same_bits(loss: str, tmp_path: Path) -> None:
    both = [term("cross_entropy"), term("view_consistency", loss=loss)]
    whole, _ = train(tmp_path / "whole", both, steps=8)
    with pytest.raises(Killed):
        train(tmp_path / "cut", both, steps=8, batches=dying)
    resumed, _ = train(tmp_path / "cut", both, steps=8)
    assert same(whole, resumed)


def neighbours(index: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Target images 0–2 are one case, 3–5 another."""
    moved = index + offset
    there = (moved >= 0) & (moved < len(target_images())) & (moved // 3 == index // 3)
    return target_images()[torch.where(there, moved, index)], there


def test_a_teacher_smooths_over_the_slices_before_and_after_in_the_case() -> None:
    settings = term("pseudo_labels", smooth=0.8, **ALL)
    objective = Objective([settings], images=all_images, neighbours=neighbours)
    objective.setup(make_fabric(CPU), network())
    (part,) = objective.parts
    part.begin(0)
    index = torch.tensor([0, 1, 2, 3])
    notes = part.annotate(TargetBatch(target_images()[index], index))
    with torch.no_grad():
        p = part.teacher(target_images()).softmax(1).double()
    w = math.exp(-1 / (2 * 0.8**2))
    expected = torch.stack(
        [
            (p[0] + w * p[1]) / (1 + w),
            (p[1] + w * p[0] + w * p[2]) / (1 + 2 * w),
            (p[2] + w * p[1]) / (1 + w),
            (p[3] + w * p[4]) / (1 + w),
        ]
    )
    torch.testing.assert_close(notes[:, 0].double(), expected.amax(1), atol=1e-5, rtol=0)
    assert torch.equal(notes[:, 1].long(), expected.argmax(1))
    assert not torch.equal(notes[:, 1].long(), p[:4].argmax(1))


def test_images_without_neighbours_cannot_be_smoothed() -> None:
    objective = Objective([term("pseudo_labels", smooth=0.8, **ALL)], images=all_images)
    with pytest.raises(ConfigError, match=r"no neighbouring slices(.|\n)*pseudo_labels\.smooth"):
        objective.setup(make_fabric(CPU), network())
