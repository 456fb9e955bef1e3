"""Perturbations of a judged model: the family that students are trained under, and one that is held out.

A student that is trained to predict the same under rotations, grey-value changes and noise is consistent under these
whether it is right or not. The held-out family has what no student's ``augment`` has by default.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.config.augment import Augment, Bezier, Bias, Convolve, Elastic, LowResolution
from uda.data.augment import augment, random_affine
from uda.data.augment.geometry import inverse_affine, resampled
from uda.errors import ModelError
from uda.losses.prediction import most_likely
from uda.networks.heads import head
from uda.selection.stability import Pair

INTENSITY = Augment(gamma=0.2, contrast=0.1, brightness=0.1, noise=0.05)
GEOMETRY = Augment(rotate=10, scale=0.1, shift=0.05)
DROPPED = 0.3
"""Probability of dropping a feature map."""
HELD_OUT = {
    "low_resolution": Augment(low_resolution=LowResolution(p=1, factor=2.0)),
    "bias": Augment(bias=Bias(p=1)),
    "bezier": Augment(bezier=Bezier(p=1)),
    "convolve": Augment(convolve=Convolve(p=1)),
    "elastic": Augment(elastic=Elastic(p=1)),
}
"""Perturbations that no student of a published method is trained under."""


def trained_kinds(model: nn.Module, mirrored: bool) -> tuple[str, ...]:
    """The perturbations that students are trained under and this model allows.

    Args:
        mirrored: whether a mirrored image is plausible.
    """
    kinds = ["intensity", "geometry"]
    try:
        head(model)
        kinds.append("features")
    except ModelError:
        pass  # without a known last layer there is no feature perturbation
    return tuple([*kinds, "mirror"] if mirrored else kinds)


def log_probabilities(model: nn.Module, image: Tensor, fabric: Fabric) -> Tensor:
    """``[b, k, *s]`` float32."""
    with fabric.autocast():
        logits: Tensor = model(image)
    return logits.float().log_softmax(1)


def perturbed(
    kind: str,
    model: nn.Module,
    image: Tensor,
    labels: Tensor,
    fabric: Fabric,
    generator: torch.Generator,
) -> Pair:
    """Labels ``[b, *s]`` without and with a perturbation, pixel by pixel; -1 outside of a moved image.

    Args:
        kind: of :func:`trained_kinds` or :data:`HELD_OUT`.
        labels: predicted on the images as they are; those of a deformed image are deformed with it.
        generator: on the image's device.
    """
    if kind in HELD_OUT:
        changed, moved = augment(image, labels, HELD_OUT[kind], generator)
        found = most_likely(log_probabilities(model, changed, fabric))
        return labels if moved is None else moved, found
    if kind == "intensity":
        image = augment(image, None, INTENSITY, generator)[0]
        return labels, most_likely(log_probabilities(model, image, fabric))
    if kind == "mirror":
        return labels, most_likely(log_probabilities(model, image.flip(-1), fabric).flip(-1))
    if kind == "features":
        with _dropping(model, generator):
            return labels, most_likely(log_probabilities(model, image, fabric))
    affine = random_affine(image, GEOMETRY, generator)
    log_p = log_probabilities(model, resampled(image, affine, "border"), fabric)
    back = inverse_affine(affine)
    inside = resampled(torch.ones_like(image[:, :1]), back, "zeros") > 0.99
    found = most_likely(resampled(log_p.exp(), back, "border"))
    return labels, torch.where(inside[:, 0], found, -1)


@contextmanager
def _dropping(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Inside the block each pass drops random maps of the last features and scales the others up."""

    def drop(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        features, *others = inputs
        draw = torch.rand(features.shape[:2], device=features.device, generator=generator)
        kept = (draw >= DROPPED).to(features.dtype) / (1 - DROPPED)
        return (features * kept.view(*kept.shape, *[1] * (features.dim() - 2)), *others)

    handle = head(model).register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()
