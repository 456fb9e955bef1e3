"""Running a network without training it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

BATCH = 16
"""Slices that go through a 2-D network at once; fewer where they are large."""


PIXELS = 2**20


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode without gradients; its mode returns afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(training)
