"""Random draws of augmentation: each kind of change has its own stream, whether or not others are on."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from uda.data.seeds import mix


class Draws:
    """The draws of one kind of change in one step, on the device; nothing here waits for it.

    Args:
        count: images of the batch.
    """

    def __init__(self, seed: int, kind: str, count: int, device: torch.device) -> None:
        own = mix(seed, kind)
        self._host = random.Random(own)  # noqa: S311
        self._device, self.count = torch.Generator(device), count
        self._device.manual_seed(own)

    def uniform(self, *size: int) -> Tensor:
        """Values in [0, 1)."""
        return torch.rand(size, device=self._device.device, generator=self._device)

    def normal(self, *size: int) -> Tensor:
        """Values with mean 0 and variance 1."""
        return torch.randn(size, device=self._device.device, generator=self._device)

    def chosen(self, p: float, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Numbers of a share ``p`` of the images at random, and those of the others.

        The count is ``p`` times the images, rounded up or down at random so that it is right on average.

        Args:
            among: numbers to choose from; default all.
        """
        count = self.count if among is None else len(among)
        number = int(p * count + self._host.random())
        order = torch.randperm(count, device=self._device.device, generator=self._device)
        order = order if among is None else among[order]
        return order[:number], order[number:]
