"""The adversary: two players in one loop, each moved by its own loss alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from scene import SIZE, batch_of, network, set_up, term, train
from torch import Tensor, nn

from uda import losses
from uda.training.objective import Objective
from uda.training.parts.adversary import Adversary
from uda.types import Batch, SourceBatch, TargetBatch


def adversary_of(student: nn.Module, **settings: Any) -> tuple[Objective, Adversary]:
    return set_up(student, term("adversarial", width=4, **settings), Adversary)


def predicted(student: nn.Module) -> tuple[Batch, Tensor, Tensor]:
    """A batch, and the logits of its source and its target."""
    batch = batch_of(0)
    assert batch.source is not None
    assert batch.target is not None
    return batch, student(batch.source.image), student(batch.target.image)


def test_the_networks_loss_leaves_no_gradient_in_the_discriminator_and_the_reverse() -> None:
    student = network()
    objective, part = adversary_of(student)
    batch, source, target = predicted(student)
    loss, _ = objective(batch, source, target, 0)
    loss.backward()
    assert all(weight.grad is None for weight in part.sides["main"].network.parameters())
    felt = [weight.grad.clone() for weight in student.parameters() if weight.grad is not None]
    assert any(bool((gradient != 0).any()) for gradient in felt)
    before = [weight.detach().clone() for weight in part.sides["main"].network.parameters()]
    objective.after(0)
    now = [weight.grad for weight in student.parameters() if weight.grad is not None]
    assert all(map(torch.equal, felt, now))
    assert not all(map(torch.equal, before, part.sides["main"].network.parameters()))


def test_the_value_is_the_published_loss_of_the_target_maps() -> None:
    student = network()
    objective, part = adversary_of(student)
    batch, source, target = predicted(student)
    _, values = objective(batch, source, target, 0)
    assert float(values["adversarial"]) == float(
        losses.adversarial_loss(part.sides["main"].network, target).detach()
    )


def test_it_starts_from_the_seed_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    _, first = adversary_of(network())
    torch.set_rng_state(state)
    student = network()
    torch.manual_seed(77)
    expected = torch.rand(1)
    torch.manual_seed(77)
    _, second = adversary_of(student)
    assert torch.equal(torch.rand(1), expected)
    pairs = zip(
        first.sides["main"].network.parameters(),
        second.sides["main"].network.parameters(),
        strict=True,
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def sure_and_unsure(step: int) -> Batch:
    """Source images are bright all over, target images dark: any network's maps differ."""
    image = torch.full((2, 1, SIZE, SIZE), 3.0)
    label = torch.zeros(2, SIZE, SIZE, dtype=torch.long)
    return Batch(SourceBatch(image, label), TargetBatch(-image, torch.tensor([0, 1])))


def test_against_a_network_that_stands_still_the_discriminator_wins(tmp_path: Path) -> None:
    made = [term("adversarial", width=8, lr=1e-3)]
    student, objective = train(
        tmp_path, made, batches=sure_and_unsure, steps=150, lr=1e-12, save_every=150
    )
    part = objective.parts[0]
    assert isinstance(part, Adversary)
    batch = sure_and_unsure(0)
    assert batch.source is not None
    assert batch.target is not None
    with torch.no_grad():
        maps = [
            losses.self_information(student.train()(image))
            for image in (batch.source.image, batch.target.image)
        ]
        assert float(losses.discriminator_loss(part.sides["main"].network, *maps)) < 0.1
