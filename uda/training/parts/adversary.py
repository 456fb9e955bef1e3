"""AdvEnt's adversary: a discriminator of source and target that learns in the network's own loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uda import losses
from uda.config.terms import AdversarialTerm
from uda.data.seeds import mix
from uda.files.atomic import grouped, load_optimizer, optimizer_tensors, prefixed
from uda.losses import Discriminator
from uda.training.parts.part import Part, StepInputs, TrainingContext, present


class Adversary(Part):
    """The network's term: its target maps pass for source. After its update the discriminators' own, one a head.

    Source: Vu et al., ADVENT, CVPR 2019.
    """

    term: AdversarialTerm

    def setup(self, context: TrainingContext) -> None:
        classes, heads = _classes(context), ("main", "auxiliary") if self.term.aux else ("main",)
        self.sides = {head: _Side(self.term, context, classes, head) for head in heads}

    def value(self, inputs: StepInputs) -> Tensor:
        return self.sides["auxiliary" if inputs.auxiliary else "main"].value(inputs)

    def after(self, step: int) -> None:
        for side in self.sides.values():
            side.learn()

    def state(self) -> dict[str, Tensor]:
        return {
            name: tensor
            for head, side in self.sides.items()
            for name, tensor in prefixed(head, side.state()).items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for head, tensors in grouped(state).items():
            self.sides[head].load(tensors)


class _Side:
    """The discriminator of one head's predictions."""

    def __init__(
        self, term: AdversarialTerm, context: TrainingContext, classes: int, head: str
    ) -> None:
        self.fabric = context.fabric
        self.maps: tuple[Tensor, Tensor] | None = None
        names = ("discriminator",) if head == "main" else ("discriminator", head)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(context.seed, *names))
            network = Discriminator(classes, term.width)
        weights = network.parameters()
        optimizer = torch.optim.Adam(weights, lr=term.lr, betas=(0.9, 0.99), fused=True)
        self.forward, self.optimizer = self.fabric.setup(network, optimizer)
        self.network: nn.Module = self.forward.module

    def value(self, inputs: StepInputs) -> Tensor:
        source, _ = inputs.labelled
        source_maps = losses.self_information(source).detach()
        self.maps = (source_maps, losses.self_information(inputs.unlabelled).detach())
        with self.fabric.autocast():  # the bare network: Fabric's wrapper holds it under two names
            return losses.adversarial_loss(self.network, inputs.unlabelled)

    def learn(self) -> None:
        self.fabric.backward(losses.discriminator_loss(self.forward, *present(self.maps)))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.maps = None

    def state(self) -> dict[str, Tensor]:
        weights = prefixed("network", self.network.state_dict())
        return weights | prefixed("optimizer", optimizer_tensors(self.optimizer))

    def load(self, state: Mapping[str, Tensor]) -> None:
        groups = grouped(state)
        self.network.load_state_dict(groups["network"])
        load_optimizer(self.optimizer, groups.get("optimizer", {}))


@torch.no_grad()
def _classes(context: TrainingContext) -> int:
    """Classes that the network predicts, asked of the network itself."""
    image = next(iter(context.images()))[:1].to(context.fabric.device)
    training = context.student.training
    context.student.eval()
    classes = int(context.student(image).shape[1])
    context.student.train(training)
    return classes
