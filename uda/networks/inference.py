"""Run a network in evaluation mode without gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

BATCH = 16
"""Slices of a batch for a 2-D network; fewer where they are large."""
PIXELS = 2**20
"""Pixels of a batch above which it has fewer slices."""


@contextmanager
def inference(model: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients inside the block; the previous mode returns afterwards."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield model
    finally:
        model.train(training)
