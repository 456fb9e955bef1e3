"""Losses: pure functions of logits ``[b, k, *s]``, computed in float32, one file an idea."""

from uda.losses.class_ratio import class_ratio, class_ratio_kl
from uda.losses.entropy import entropy
from uda.losses.supervised import cross_entropy, dice

__all__ = ["class_ratio", "class_ratio_kl", "cross_entropy", "dice", "entropy"]
