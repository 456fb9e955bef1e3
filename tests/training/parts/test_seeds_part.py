"""Seeds in the loop: each image's own, on the pixels where augmentation put them."""

from __future__ import annotations

import torch
from scene import CLASSES, IMAGES, SIZE, batch_of, objective_of, prior_of_scene, target_images, term

from uda import losses
from uda.config.augment import Augment
from uda.data.augment import augment
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.training.parts.part import present
from uda.types import IGNORE, Batch, TargetBatch


def logits(seed: int = 0, images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, CLASSES, SIZE, SIZE, generator=generator)


def test_notes_are_the_seeds_at_the_size_of_the_image() -> None:
    target = present(batch_of(3).target)
    (notes,) = objective_of(term("seeds")).annotate(batch_of(3))
    assert notes is not None
    expected = present(prior_of_scene().seeds)[target.index]
    fine = expected.repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert torch.equal(notes[:, 0], fine.float())


def test_an_image_is_compared_with_its_own_seeds() -> None:
    """Images drawn in any order, each with other seeds: by the definition, pixel by pixel."""
    generator = torch.Generator().manual_seed(2)
    seeds = torch.randint(CLASSES + 1, (IMAGES, 8, 8), generator=generator).to(torch.uint8)
    seeds[seeds == CLASSES] = IGNORE
    objective = Objective([term("seeds")], PriorTensors(seeds=seeds))
    index = torch.tensor([4, 1, 4])
    batch = Batch(target=TargetBatch(target_images()[index], index))
    predicted = logits(images=3)
    _, values = objective(batch, None, predicted, 0, objective.annotate(batch))
    log_p, total, count = predicted.double().log_softmax(1), 0.0, 0
    for b, number in enumerate(index.tolist()):
        for y in range(SIZE):
            for x in range(SIZE):
                if (known := int(seeds[number, y // 4, x // 4])) != IGNORE:
                    total, count = total - float(log_p[b, known, y, x]), count + 1
    assert abs(float(values["seeds"]) - total / count) < 1e-5


def test_images_without_a_seed_cost_nothing() -> None:
    nothing = torch.full((IMAGES, 8, 8), IGNORE, dtype=torch.uint8)
    objective = Objective([term("seeds")], PriorTensors(seeds=nothing))
    predicted = logits().requires_grad_()
    total, values = objective(batch_of(0), None, predicted, 0, objective.annotate(batch_of(0)))
    total.backward()
    assert float(values["seeds"]) == 0
    assert float(present(predicted.grad).abs().max()) == 0


def test_seeds_move_with_the_image() -> None:
    """Mirrored notes on a mirrored prediction give what the unmoved ones give."""
    objective, batch = objective_of(term("seeds")), batch_of(0)
    (notes,) = objective.annotate(batch)
    _, still = objective(batch, None, logits(), 0, [notes])
    _, moved = objective(batch, None, logits().flip(2), 0, [present(notes).flip(2)])
    assert abs(float(still["seeds"] - moved["seeds"])) < 1e-6
    _, wrong = objective(batch, None, logits().flip(2), 0, [notes])
    assert abs(float(still["seeds"] - wrong["seeds"])) > 1e-3


def test_notes_stay_class_numbers_under_every_warp() -> None:
    batch = batch_of(0)
    (notes,) = objective_of(term("seeds")).annotate(batch)
    settings = Augment(rotate=45, scale=0.5, shift=0.3, flip=True)
    _, warped = augment(
        present(batch.target).image, notes, settings, torch.Generator().manual_seed(0)
    )
    assert set(present(warped).unique().tolist()) <= set(present(notes).unique().tolist())
    assert not torch.equal(present(warped), present(notes))


def test_seeds_teach_a_network_the_pixels_around_them() -> None:
    """Bright pixels have the class of the one bright seed: five steps on one seed a class lower the loss of all."""
    image = torch.where(torch.arange(SIZE) < SIZE // 2, -1.0, 1.0).expand(2, 1, SIZE, SIZE)
    seeds = torch.full((2, SIZE, SIZE), IGNORE, dtype=torch.uint8)
    seeds[:, 3, 3], seeds[:, 3, -3] = 0, 1
    objective = Objective([term("seeds")], PriorTensors(seeds=seeds))
    batch = Batch(target=TargetBatch(image, torch.arange(2)))
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=2.0)
    truth = (image[:, 0] > 0).long()
    before = float(losses.cross_entropy(network(image), truth).detach())
    for step in range(5):
        optimizer.zero_grad()
        total, _ = objective(batch, None, network(image), step, objective.annotate(batch))
        total.backward()
        optimizer.step()
    assert float(losses.cross_entropy(network(image), truth).detach()) < 0.2 * before
