"""The teacher: whose weights it has, what it labels, and that labels move along with their images."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from scene import (
    CPU,
    IMAGES,
    batch_of,
    network,
    objective_of,
    prior_of_scene,
    target_images,
    term,
    train,
)
from torch import Tensor, nn

from uda import losses
from uda.config.recipe import Training
from uda.data.augment import augment_batch
from uda.devices.device import make_fabric
from uda.losses import ConfidenceHistogram, PseudoLabeler
from uda.priors import relative_maps
from uda.training.objective import Objective
from uda.training.parts.teacher import PseudoLabels
from uda.types import IGNORE, TargetBatch


def set_up(objective: Objective, student: nn.Module) -> PseudoLabels:
    objective.setup(make_fabric(CPU), student)
    part = objective.parts[0]
    assert isinstance(part, PseudoLabels)
    return part


def nudge(model: nn.Module) -> None:
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1)


def weights(model: nn.Module) -> list[Tensor]:
    return [weight.detach().clone() for weight in model.parameters()]


def test_a_round_teacher_is_the_student_of_the_rounds_beginning() -> None:
    student = network()
    part = set_up(objective_of(term("pseudo_labels", round_steps=4)), student)
    part.begin(0)
    first = weights(student)
    nudge(student)
    for step in (1, 2, 3):
        part.begin(step)
        part.after(step)
        assert all(map(torch.equal, weights(part.teacher), first))
    part.begin(4)
    assert all(map(torch.equal, weights(part.teacher), weights(student)))


def test_an_average_teacher_follows_by_the_hand_formula() -> None:
    student = network()
    objective = objective_of(term("pseudo_labels", teacher="ema", decay=0.9))
    part = set_up(objective, student)
    part.begin(0)
    old = weights(part.teacher)
    nudge(student)
    part.after(0)
    for before, new, mean in zip(old, weights(student), weights(part.teacher), strict=True):
        torch.testing.assert_close(mean, 0.9 * before + 0.1 * new)


def test_the_teacher_never_learns_and_is_always_in_evaluation_mode() -> None:
    student = network().train()
    part = set_up(objective_of(term("pseudo_labels")), student)
    part.begin(0)
    assert not part.teacher.training
    assert student.training
    assert not any(weight.requires_grad for weight in part.teacher.parameters())


def test_thresholds_come_from_all_target_images_and_the_rounds_portion() -> None:
    student = network()
    made = term("pseudo_labels", round_steps=2, portion=0.3, portion_step=0.2, portion_limit=0.6)
    part = set_up(objective_of(made), student)
    histogram = ConfidenceHistogram(3)
    with torch.no_grad():
        histogram.add(copy.deepcopy(student).eval()(target_images()))
    assert int(histogram.counts.sum()) == IMAGES * 32 * 32
    for step, portion in ((0, 0.3), (2, 0.5), (4, 0.6), (6, 0.6)):
        part.begin(step)
        assert part.log_thresholds is not None
        assert torch.equal(part.log_thresholds, histogram.log_thresholds(portion))


def test_labels_are_the_labelers_and_weights_the_teachers_confidence() -> None:
    student = network()
    part = set_up(objective_of(term("pseudo_labels", confidence="pixel", spatial=True)), student)
    part.begin(0)
    image = target_images()[:2]
    notes = part.annotate(TargetBatch(image, torch.arange(len(image))))
    with torch.no_grad():
        logits = part.teacher(image)
    assert part.log_thresholds is not None
    maps = prior_of_scene().maps
    assert maps is not None
    labels = PseudoLabeler(part.log_thresholds, relative_maps(maps)).hard(logits)
    assert torch.equal(notes[:, 1].long(), labels)
    torch.testing.assert_close(notes[:, 0], logits.softmax(1).amax(1))
    kept = float((labels != IGNORE).float().mean())
    assert 0.05 < kept < 0.6


def test_the_value_is_the_loss_of_the_notes() -> None:
    objective = objective_of(term("pseudo_labels", mrkld=0.5))
    student = network()
    part = set_up(objective, student)
    part.begin(0)
    batch = batch_of(0)
    assert batch.target is not None
    notes = objective.annotate(batch)
    target = student(batch.target.image)
    _, values = objective(batch, None, target, 0, notes)
    assert notes[0] is not None
    labels = notes[0][:, 1].long()
    expected = losses.partial_cross_entropy(target, labels) + 0.5 * losses.mrkld(
        target, labels != IGNORE
    )
    assert float(values["pseudo_labels"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_dice_of_the_labels_stands_beside_their_cross_entropy() -> None:
    objective = objective_of(term("pseudo_labels", dice=0.7))
    student = network()
    set_up(objective, student).begin(0)
    batch = batch_of(0)
    assert batch.target is not None
    notes = objective.annotate(batch)
    assert notes[0] is not None
    target, labels = student(batch.target.image), notes[0][:, 1].long()
    _, values = objective(batch, None, target, 0, notes)
    expected = losses.partial_cross_entropy(target, labels) + 0.7 * losses.dice(target, labels)
    assert float(values["pseudo_labels"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_dice_does_not_go_with_soft_labels() -> None:
    with pytest.raises(ValueError, match="soft must be 0"):
        term("pseudo_labels", dice=1.0, soft=2.0)


def test_soft_labels_are_learnt_as_probabilities() -> None:
    objective = objective_of(term("pseudo_labels", soft=0.5))
    student = network()
    part = set_up(objective, student)
    part.begin(0)
    batch = batch_of(0)
    assert batch.target is not None
    notes = objective.annotate(batch)
    assert notes[0] is not None
    soft = notes[0][:, 1:]
    sums = soft.sum(1)
    labelled = sums > 0
    assert bool(labelled.any())
    assert bool((~labelled).any())
    torch.testing.assert_close(sums[labelled], torch.ones_like(sums[labelled]))
    target = student(batch.target.image)
    _, values = objective(batch, None, target, 0, notes)
    expected = losses.soft_cross_entropy(target, soft)
    assert float(values["pseudo_labels"]) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_notes_move_along_with_their_images() -> None:
    """A note that is the image itself stays the image, whatever the augmentation does to its geometry."""
    batch = batch_of(0)
    assert batch.target is not None
    image = batch.target.image
    notes = [None, image.round(), None, torch.cat([image, 2 * image], 1).round()]
    settings = Training(
        steps=1,
        lr=1.0,
        objective=[{"term": "entropy"}],
        augment={"flip": True, "rotate": 90, "shift": 0.2},
    )
    generator = torch.Generator().manual_seed(1)
    moved, carried = augment_batch(batch, notes, settings.augment, generator)
    assert moved.target is not None
    assert carried[0] is carried[2] is None
    assert carried[1] is not None
    assert carried[3] is not None
    assert carried[1].shape == (2, 1, 32, 32)
    assert not torch.equal(carried[1], notes[1])  # type: ignore[arg-type]
    assert torch.equal(carried[3][:, :1], carried[1])
    # nearest against bilinear: equal where the image is smooth, close on average
    difference = (carried[1] - moved.target.image).abs().mean()
    unrelated = (image.round() - moved.target.image).abs().mean()
    assert float(difference) < 0.6 * float(unrelated)


def test_self_training_alone_sharpens_the_classes_it_has_labelled(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"batches": fixed, "lr": 1e-2}
    made = [term("pseudo_labels", portion=0.5, portion_limit=0.5, round_steps=1000)]
    before, _ = train(tmp_path / "0", made, steps=0, **plain)
    after, _ = train(tmp_path / "60", made, steps=60, **plain)
    images = target_images()
    assert sureness(after, images) > sureness(before, images) + 0.2


def fixed(step: int) -> Any:
    return batch_of(step % 6)


def sureness(model: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        return float(model.train()(images).softmax(1).amax(1).mean())
