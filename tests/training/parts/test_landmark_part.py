"""Landmarks in the loop: each image's own superpixels and classes, on the pixels where augmentation put them."""

from __future__ import annotations

import torch
from scene import CLASSES, IMAGES, SIZE, batch_of, objective_of, prior_of_scene, target_images, term

from uda import losses
from uda.config.augment import Augment
from uda.data.augment import augment
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.training.parts.part import present
from uda.types import Batch, TargetBatch


def logits(seed: int = 0, images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, CLASSES, SIZE, SIZE, generator=generator)


def test_notes_are_the_superpixels_at_the_size_of_the_image() -> None:
    target = present(batch_of(3).target)
    (notes,) = objective_of(term("landmarks")).annotate(batch_of(3))
    assert notes is not None
    assert notes.shape == (2, 1, SIZE, SIZE)
    assert torch.equal(
        notes[:, :, ::4, ::4].short()[:, 0], present(prior_of_scene().segments)[target.index]
    )


def test_an_image_is_asked_about_its_own_superpixels_and_classes() -> None:
    """Images drawn in any order, each with other superpixels and classes: by the loss, image for image."""
    generator = torch.Generator().manual_seed(2)
    segments = torch.randint(5, (IMAGES, 8, 8), generator=generator).short()
    classes = torch.randint(CLASSES, (IMAGES, 5), generator=generator).to(torch.uint8)
    objective = Objective([term("landmarks")], PriorTensors(segments=segments, landmarks=classes))
    index = torch.tensor([4, 1, 4])
    batch = Batch(target=TargetBatch(target_images()[index], index))
    predicted = logits(images=3)
    _, values = objective(batch, None, predicted, 0, objective.annotate(batch))
    fine = segments[index].repeat_interleave(4, 1).repeat_interleave(4, 2).long()
    expected = losses.landmark_cross_entropy(predicted, fine, classes[index])
    assert float(values["landmarks"]) == float(expected)


def test_superpixels_move_with_the_image() -> None:
    """Mirrored notes on a mirrored prediction give what the unmoved ones give."""
    objective, batch = objective_of(term("landmarks")), batch_of(0)
    (notes,) = objective.annotate(batch)
    flipped = present(notes).flip(2)
    _, still = objective(batch, None, logits(), 0, [notes])
    _, moved = objective(batch, None, logits().flip(2), 0, [flipped])
    assert float(still["landmarks"]) == float(moved["landmarks"])
    _, wrong = objective(batch, None, logits().flip(2), 0, [notes])
    assert abs(float(still["landmarks"] - wrong["landmarks"])) > 1e-3


def test_notes_stay_numbers_of_superpixels_under_every_warp() -> None:
    batch = batch_of(0)
    (notes,) = objective_of(term("landmarks")).annotate(batch)
    settings = Augment(rotate=45, scale=0.5, shift=0.3, flip=True)
    _, warped = augment(
        present(batch.target).image, notes, settings, torch.Generator().manual_seed(0)
    )
    assert set(present(warped).unique().tolist()) <= set(present(notes).unique().tolist())
    assert not torch.equal(present(warped), present(notes))
