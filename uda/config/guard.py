"""Settings of the guard, which judges an adaptation's checkpoints without labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from uda.config.fields import Frozen, Positive, Share

Factor = Annotated[float, Field(gt=1)]


class Guard(Frozen):
    """Limits and effort of ``select: guarded``."""

    images: Positive = 64
    """Target images that every checkpoint is judged on, evenly spread over the target."""
    factor: Factor = 3.0
    """A checkpoint is unsafe if a structure's predicted ratio is more than ``factor`` times below or above the
    expected range."""
    overlap: Share = 0.7
    """A checkpoint is unsafe if a structure's Dice with the source model's prediction and that with AdaBN's are both
    below this share of the Dice between those two."""
    patience: Positive = 3
    """The training ends after so many judgements without improvement."""
    unsafe: Positive = 2
    """Unsafe checkpoints in a row after which the training ends."""
