"""Terms of annotations at work: which images they see, boxes in 2-D and 3-D, DeepCut's labels, pasted annotations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scene import CLASSES, SIZE, annotation_of, batch_of, network, objective_of, set_up, term
from torch import Tensor

from uda import losses
from uda.errors import ConfigError
from uda.training.parts.annotated import in_planes
from uda.training.parts.deepcut import DeepCut, inside_boxes
from uda.training.parts.teacher import PseudoLabels
from uda.types import IGNORE, OTHER, Annotation, Batch, TargetBatch


def logits(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "settings", "loss"),
    [
        ("mutual_information", {}, losses.mutual_information),
        ("class_ratio_kl", {"direction": "prior_to_prediction"}, None),
        ("entropy", {}, losses.entropy),
    ],
)
def test_terms_that_compare_with_all_images_see_none_that_was_drawn_for_its_marks(
    name: str, settings: dict[str, Any], loss: Any
) -> None:
    batch = batch_of(0)
    assert batch.target is not None
    assert batch.annotation is not None
    target = logits(0, 2, CLASSES, SIZE, SIZE)
    one = term(name, **settings)
    _, mixed = objective_of(one)(
        replace(batch, annotation=replace(batch.annotation, drawn=1)), None, target, 0
    )
    first = TargetBatch(batch.target.image[:1], batch.target.index[:1])
    seen, images = (target[:1], first) if one.compares else (target, batch.target)
    _, alone = objective_of(one)(Batch(target=images), None, seen, 0)
    torch.testing.assert_close(mixed[name], alone[name])
    if loss is not None:
        torch.testing.assert_close(alone[name], loss(seen))


def test_a_term_of_annotations_without_any_says_so() -> None:
    batch = replace(batch_of(0), annotation=None)
    with pytest.raises(ConfigError, match="does not have"):
        objective_of(term("partial_labels"))(batch, None, logits(0, 2, CLASSES, SIZE, SIZE), 0)


def volume(first: int, depth: int = 3) -> tuple[Tensor, Annotation]:
    """Logits of one patch of three slices from slice ``first`` on, and boxes in two of its slices."""
    boxes = torch.tensor([[[0, 1, 1, 1, 3, 4], [2, 2, 0, 2, 5, 5], [-1] * 6]])
    boxed = torch.tensor([[[False, True, True], [False] * 3, [False, True, True]]])
    axes = (torch.arange(float(depth)) + first, torch.arange(6.0), torch.arange(7.0))
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
    label = torch.full((1, depth, 6, 7), IGNORE)
    return logits(1, 1, 3, depth, 6, 7), Annotation(
        label, torch.ones(1, 3, dtype=torch.bool), 1, boxes, boxed, place
    )


def test_slices_of_volumes_get_their_own_boxes() -> None:
    values, annotation = volume(0)
    planes = in_planes(values, annotation)
    torch.testing.assert_close(planes.logits, values[0].movedim(1, 0))
    assert planes.boxes.tolist() == [[0, 1, 1, 1, 3, 4], [2, 2, 0, 2, 5, 5]]
    assert planes.boxed.tolist() == annotation.boxed[0].tolist()  # type: ignore[index]
    torch.testing.assert_close(planes.place[:, 0], torch.arange(6.0)[None, :, None].expand(3, 6, 7))


def test_a_volume_turned_upside_down_takes_its_boxes_along() -> None:
    values, annotation = volume(0)
    flipped = replace(annotation, place=annotation.place.flip(2))  # type: ignore[union-attr]
    planes = in_planes(values.flip(2), flipped)
    assert sorted(planes.boxes.tolist()) == [[0, 2, 0, 2, 5, 5], [2, 1, 1, 1, 3, 4]]
    assert planes.boxed.tolist() == annotation.boxed[0].flip(0).tolist()  # type: ignore[index]
    straight = in_planes(values, annotation)

    def loss(given: Any) -> Tensor:
        return losses.boxes(given.logits, given.boxes, given.boxed, given.place)

    torch.testing.assert_close(loss(planes), loss(straight))


def test_photographs_and_slices_are_planes_already() -> None:
    annotation = annotation_of(0)
    planes = in_planes(logits(0, 2, CLASSES, SIZE, SIZE), annotation)
    assert planes.boxes[:, 0].tolist() == [0, 0, 1]
    assert planes.boxed.tolist() == [[False, True, True]] * 2


def test_a_class_is_possible_in_its_boxes_and_what_has_no_boxes_everywhere() -> None:
    boxes = torch.tensor([[0, 1, 1, 1, 2, 3], [0, 1, 3, 0, 3, 0], [0, 2, 0, 4, 0, 4]])
    boxed = torch.tensor([[False, True, True], [False, False, False]])
    place = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij"))
    allowed = inside_boxes(boxes, boxed, place.expand(2, -1, -1, -1))
    assert allowed[0, 0].all()
    expected = torch.zeros(4, 5, dtype=torch.bool)
    expected[1:3, 1:4] = True
    expected[3, 0] = True
    torch.testing.assert_close(allowed[0, 1], expected)
    assert allowed[0, 2].nonzero().tolist() == [[0, 4]]
    assert allowed[1].all()
    moved = inside_boxes(boxes, boxed, (place - 1).expand(2, -1, -1, -1))
    torch.testing.assert_close(moved[0, 1, 1:, 1:], expected[:3, :4])


def square(annotation: Annotation) -> Tensor:
    """Images that are bright in a square inside of the box of class 1."""
    image = torch.zeros(2, 1, SIZE, SIZE)
    image[0, 0, 6:19, 7:20] = 3.0
    return image


def boxed_square() -> Batch:
    annotation = annotation_of(0)
    boxes = torch.full((2, 1, 6), -1)
    boxes[0, 0] = torch.tensor([0, 1, 4, 5, 20, 21])
    boxed = torch.tensor([[[False, True, True]], [[False, False, False]]])
    annotation = replace(annotation, boxes=boxes, boxed=boxed)
    return Batch(
        target=TargetBatch(square(annotation), torch.tensor([0, 1])), annotation=annotation
    )


def test_deepcut_cuts_what_the_image_shows_out_of_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, _ = set_up(network(), term("deepcut", first="boxes", sigma_space=6.0), DeepCut)
    objective.begin(0)
    batch = boxed_square()
    found: list[Tensor] = []
    cross_entropy = losses.partial_cross_entropy

    def watch(prediction: Any, labels: Tensor) -> Tensor:
        found.append(labels)
        return cross_entropy(prediction, labels)

    monkeypatch.setattr(losses, "partial_cross_entropy", watch)
    _, values = objective(batch, None, logits(2, 2, CLASSES, SIZE, SIZE), 0)
    (labels,) = found
    assert (labels[1] == IGNORE).all()
    assert values["deepcut"].isfinite()
    inside = labels[0] == 1
    assert not inside[:4].any()
    assert not inside[21:].any()
    shown = batch.target.image[0, 0] > 1  # type: ignore[union-attr]
    overlap = float(2 * (inside & shown).sum() / (inside.sum() + shown.sum()))
    box = torch.zeros_like(shown)
    box[4:21, 5:22] = True
    assert overlap > 0.9 > float(2 * (box & shown).sum() / (box.sum() + shown.sum()))


def test_deepcut_asks_its_copy_from_the_second_round_on(monkeypatch: pytest.MonkeyPatch) -> None:
    student = network()
    objective, part = set_up(student, term("deepcut", first="boxes", round_steps=2), DeepCut)
    calls: list[int] = []
    forward = part.copy.forward
    monkeypatch.setattr(part.copy, "forward", lambda x: calls.append(len(x)) or forward(x))
    for step in range(4):
        objective.begin(step)
        objective(boxed_square(), None, logits(2, 2, CLASSES, SIZE, SIZE), step)
        assert len(calls) == max(0, step - 1)
        with torch.no_grad():
            next(student.parameters()).add_(1.0)
    whole = {name: tensor.clone() for name, tensor in part.state().items()}
    with torch.no_grad():
        next(part.copy.parameters()).zero_()
    part.load(whole)
    assert all(torch.equal(whole[name], tensor) for name, tensor in part.state().items())


@pytest.mark.parametrize("source", ["target", "source"])
def test_classmix_pastes_annotations_with_their_images(source: str) -> None:
    one = term("pseudo_labels", classmix=source, portion=1.0, portion_limit=1.0)
    objective, _ = set_up(network(), one, PseudoLabels)
    objective.begin(0)
    batch = batch_of(0)
    assert batch.annotation is not None
    assert batch.target is not None
    assert batch.source is not None
    label = batch.annotation.label
    notes = objective.annotate(batch)
    mixed, _ = objective.mix(batch, notes, torch.Generator().manual_seed(0))
    assert mixed.annotation is not None
    assert mixed.target is not None
    pasted = (mixed.target.image != batch.target.image)[:, 0]
    assert pasted.any()
    assert torch.equal(mixed.annotation.label[~pasted], label[~pasted])
    under = label.roll(1, 0)
    under = under.masked_fill(under == OTHER, IGNORE) if source == "target" else IGNORE
    expected = (
        under[pasted] if isinstance(under, Tensor) else torch.full_like(label, IGNORE)[pasted]
    )
    assert torch.equal(mixed.annotation.label[pasted], expected)
