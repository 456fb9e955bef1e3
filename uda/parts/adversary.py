"""AdvEnt's adversary: a discriminator of source and target that learns in the network's own loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from uda import losses
from uda.checkpoint import grouped, load_optimizer, optimizer_tensors, prefixed
from uda.data.seeds import mix
from uda.losses import Discriminator
from uda.parts.part import Ground, Part, View, present
from uda.terms import AdversarialTerm


class Adversary(Part):
    """The network's term: its target maps pass for source. After its update the discriminator's own.

    Source: Vu et al., ADVENT, CVPR 2019.
    """

    def __init__(self, term: AdversarialTerm) -> None:
        self.term = term
        self.maps: tuple[Tensor, Tensor] | None = None

    def setup(self, ground: Ground) -> None:
        self.fabric, classes = ground.fabric, _classes(ground)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix(ground.seed, "discriminator"))
            network = Discriminator(classes, self.term.width)
        weights, rate = network.parameters(), self.term.lr
        optimizer = torch.optim.Adam(weights, lr=rate, betas=(0.9, 0.99), fused=True)
        self.forward, self.optimizer = self.fabric.setup(network, optimizer)
        self.network: nn.Module = self.forward.module

    def value(self, view: View) -> Tensor:
        source, _ = view.labelled
        source_maps = losses.self_information(source).detach()
        self.maps = (source_maps, losses.self_information(view.unlabelled).detach())
        with self.fabric.autocast():  # the bare network: Fabric's wrapper holds it under two names
            return losses.adversarial_loss(self.network, view.unlabelled)

    def after(self, step: int) -> None:
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
def _classes(ground: Ground) -> int:
    """Classes that the network predicts, asked of the network itself."""
    image = next(iter(ground.images()))[:1].to(ground.fabric.device)
    training = ground.student.training
    ground.student.eval()
    classes = int(ground.student(image).shape[1])
    ground.student.train(training)
    return classes
