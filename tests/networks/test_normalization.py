"""Training of scales and shifts alone: of which layers, in whose networks, and where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from foreign_networks import Plain, exported, scripted, traced, used
from torch import nn

from uda.config.networks import ForeignNetwork, Network
from uda.devices.sync_batchnorm import SyncedBatchNorm
from uda.errors import ModelError
from uda.networks.build import build
from uda.networks.foreign import kind_of
from uda.networks.foreign.adapter import build_foreign
from uda.networks.normalization import normalization_only


def trained(model: nn.Module) -> set[str]:
    normalization_only(model)
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_of_our_network_scales_and_shifts_are_left(norm: Any) -> None:
    model = build(Network(channels=(4, 8), res_units=1, norm=norm), 3)
    kinds = (nn.BatchNorm2d, nn.InstanceNorm2d)
    wanted = {
        f"{name}.{key}"
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and layer.affine
        for key in ("weight", "bias")
    }
    if wanted:
        assert trained(model) == wanted
    else:
        with pytest.raises(ModelError, match="no normalisation layer"):
            normalization_only(model)


def test_every_kind_of_normalisation_counts_and_a_layer_without_weights_does_not() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 1),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 8, 8]),
        nn.InstanceNorm2d(4),
        nn.InstanceNorm2d(4, affine=True),
        SyncedBatchNorm.of(nn.BatchNorm2d(4)),
    )
    assert trained(model) == {f"{n}.{key}" for n in (1, 2, 4, 5) for key in ("weight", "bias")}


class Grouped(nn.Module):
    """Group and layer normalisation, which an exported program holds as operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.group = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.layer, self.last = nn.LayerNorm([4, 16, 16]), nn.Conv2d(4, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(self.layer(self.group(self.first(image))))
        return answer


@pytest.mark.parametrize("form", [scripted, traced, exported])
@pytest.mark.parametrize("original", [Plain, Grouped])
def test_of_a_foreign_program_the_same_weights_are_left_as_of_its_module(
    form: Any, original: Any
) -> None:
    torch.manual_seed(0)
    module = used(original()) if original is Plain else original().eval()
    data = form(module)
    settings = ForeignNetwork(kind=kind_of(data, "plain"), name="plain")
    model = build_foreign(settings, 3, data, trust_code=True)
    wanted = trained(module)
    assert wanted
    assert trained(model) == {f"network.{name}" for name in wanted}


def test_what_is_frozen_already_stays_frozen() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    model[0].requires_grad_(False)
    assert trained(model) == {"2.weight", "2.bias"}
    model[2].requires_grad_(False)
    with pytest.raises(ModelError, match="no normalisation layer") as caught:
        normalization_only(model)
    assert caught.value.fix == "set train: all"
