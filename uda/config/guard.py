"""How an adaptation is judged without labels, and what makes a checkpoint unsafe."""

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
    """A structure's predicted ratio lies within [1/factor, factor] of the expected one."""
    overlap: Share = 0.7
    """Least Dice of a structure with where the source model, or AdaBN, finds it, as a share of the Dice of those two
    with each other; below it the model has drifted away."""
    patience: Positive = 3
    """Judgements after which the training ends when none of them was better."""
    unsafe: Positive = 2
    """Unsafe checkpoints in a row after which the training ends."""
