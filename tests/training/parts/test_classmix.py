"""ClassMix: what is pasted, where, and what the notes say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import batch_of, network, objective_of, target_images, train
from torch import Tensor

from uda import losses
from uda.config.recipe import Compute
from uda.config.terms import CrossEntropyTerm, PseudoLabelTerm
from uda.devices.device import make_fabric
from uda.errors import ConfigError
from uda.training.parts.teacher import PseudoLabels
from uda.types import IGNORE, Batch, SourceBatch, TargetBatch


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**30), classes=st.integers(1, 6))
def test_half_of_the_classes_of_each_image_are_cut_out_whole(seed: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (3, 6, 7), generator=generator)
    labels[0, 0, 0] = IGNORE
    mask = losses.class_mask(labels, generator)
    for label, cut in zip(labels, mask, strict=True):
        shown = set(label.unique().tolist()) - {IGNORE}
        chosen = {c for c in shown if bool(cut[label == c].all())}
        assert len(chosen) == (len(shown) + 1) // 2
        assert not any(bool(cut[label == c].any()) for c in (shown - chosen) | {IGNORE})


def part_of(**settings: Any) -> PseudoLabels:
    objective = objective_of(CrossEntropyTerm(), PseudoLabelTerm(teacher="ema", **settings))
    objective.setup(make_fabric(Compute(device="cpu")), network())
    objective.begin(0)
    part = objective.parts[1]
    assert isinstance(part, PseudoLabels)
    return part


def mixed(part: PseudoLabels, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert batch.target is not None
    notes = part.annotate(batch.target)
    after, moved = part.mix(batch, notes, torch.Generator().manual_seed(0))
    assert after.target is not None
    assert moved is not None
    assert after.source is batch.source
    return batch.target.image, after.target.image, notes, moved


def test_source_pixels_bring_their_labels_and_full_weight() -> None:
    batch = batch_of(0)
    assert batch.source is not None
    before, image, notes, moved = mixed(part_of(classmix="source", confidence="pixel"), batch)
    pasted = (image == batch.source.image)[:, 0] & (image != before)[:, 0]
    assert 0 < pasted.sum() < pasted.numel()
    torch.testing.assert_close(image[:, 0][~pasted], before[:, 0][~pasted])
    assert torch.equal(moved[:, 1][pasted].long(), batch.source.label[pasted])
    assert (moved[:, 0][pasted] == 1).all()
    assert torch.equal(moved[:, 1][~pasted], notes[:, 1][~pasted])


def test_without_source_images_each_image_is_pasted_onto_the_next() -> None:
    batch = Batch(target=batch_of(0).target)
    before, image, notes, moved = mixed(part_of(classmix="target", confidence="pixel"), batch)
    pasted = (image == before.roll(1, 0))[:, 0] & (image != before)[:, 0]
    assert 0 < pasted.sum() < pasted.numel()
    for channel in range(2):
        assert torch.equal(moved[:, channel][pasted], notes.roll(1, 0)[:, channel][pasted])


def test_off_it_changes_nothing() -> None:
    batch = batch_of(0)
    before, image, notes, moved = mixed(part_of(), batch)
    assert image is before
    assert moved is notes


def test_images_of_two_sizes_are_refused() -> None:
    batch = batch_of(0)
    assert batch.target is not None
    small = SourceBatch(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))
    with pytest.raises(ConfigError, match="classmix pastes"):
        mixed(part_of(classmix="source"), Batch(small, batch.target))


def test_every_pixel_is_labelled_with_a_portion_of_1() -> None:
    """No pass over the data set is needed then, and the label is the most likely class."""
    part = part_of(portion=1.0, portion_limit=1.0)
    target = TargetBatch(target_images(), torch.arange(len(target_images())))
    labels = part.annotate(target)[:, 1].long()
    likeliest = part.teacher(target.image).argmax(1)
    assert (labels == likeliest).float().mean() > 0.999  # the thresholds cost the last bit


def test_it_trains_in_the_loop_and_repeats_bit_for_bit(tmp_path: Path) -> None:
    terms = [
        CrossEntropyTerm(),
        PseudoLabelTerm(teacher="ema", classmix="source", portion=1.0, portion_limit=1.0),
    ]
    runs = [train(tmp_path / str(n), terms, augment={"blur": 1.0, "color": 0.2})[0] for n in (0, 1)]
    for a, b in zip(*(run.state_dict().values() for run in runs), strict=True):
        assert torch.equal(a, b)
