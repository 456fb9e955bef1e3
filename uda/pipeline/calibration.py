"""Calibrate the flags of predictions on the source's validation images, as they are and perturbed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import nn

from uda.data.augment import augment
from uda.data.geometry import nearest
from uda.data.seeds import mix
from uda.data.store import Store
from uda.losses.prediction import most_likely
from uda.networks.limits import Limits, limits_from
from uda.networks.model_file import ModelInfo
from uda.pipeline.validation import PERTURBED
from uda.prediction.confidence import CaseStatistics, worse
from uda.prediction.volumes import logit_planes

CASES = 20
"""cases of a store at most, evenly spread"""
STRENGTHS, DRAWS = 3, 3
"""How often the perturbation is repeated on its own result, from 1 on, and draws of each. Repeated, it also makes
poor predictions of a network that stands it once."""


def calibrated(
    model: nn.Module, info: ModelInfo, train: Store, validation: Store, fabric: Fabric, seed: int
) -> Limits:
    """Limits of the measures of a volume's prediction, from the labelled volumes of the source.

    The training volumes, as they are, show how much people differ; the validation volumes, perturbed, which
    predictions are poor.

    Args:
        model: on the fabric's device.
        train, validation: stores with labels.
        seed: of the perturbations.
    """
    found = list(_predictions(model, info, train, fabric, None))
    found += _predictions(model, info, validation, fabric, seed)
    known = [one for one in found if not math.isnan(one[1])]
    measures, dice = [one[0] for one in known], [one[1] for one in known]
    return limits_from(measures, dice, [one[2] for one in known], worse)


def _predictions(
    model: nn.Module, info: ModelInfo, store: Store, fabric: Fabric, seed: int | None
) -> Iterator[tuple[dict[str, float], float, str]]:
    """Measures, mean Dice and case of each prediction; ``seed`` None: of the images as they are alone."""
    for number in nearest(len(store.cases), min(CASES, len(store.cases))):
        case = store.cases[number]
        image = np.array(store.images[case.start : case.stop])
        label = np.asarray(store.labels[case.start : case.stop])
        for seen in [image] if seed is None else [image, *_perturbed(image, seed, case.name)]:
            statistics = CaseStatistics(case.geometry)
            planes = statistics.watch(logit_planes(model, info, seen, fabric))
            labels = torch.cat([most_likely(part).cpu() for part in planes]).numpy()
            dice = mean_dice(labels, label, len(info.classes))
            yield statistics.calibrated(info), dice, case.name


def _perturbed(image: NDArray[np.float32], seed: int, case: str) -> Iterator[NDArray[np.float32]]:
    """Perturbations of a volume ``[s, h, w]`` or ``[s, c, h, w]``."""
    whole = torch.from_numpy(image if image.ndim == 4 else image[:, None]).movedim(0, 1)[None]
    for draw in range(DRAWS):
        changed = whole
        for strength in range(STRENGTHS):
            generator = torch.Generator().manual_seed(mix(seed, "calibrate", case, draw, strength))
            changed = augment(changed, None, PERTURBED, generator)[0]
            yield changed[0].movedim(0, 1).reshape(image.shape).contiguous().numpy()


def mean_dice(found: NDArray[np.integer], label: NDArray[np.uint8], classes: int) -> float:
    """Mean Dice over the structures in either of two label maps ``[s, h, w]``; NaN where there is none.

    Labels of ``classes`` and above do not count.
    """
    counted = label < classes
    dice = []
    for k in range(1, classes):
        ours, theirs = (found == k) & counted, label == k
        if total := int(ours.sum() + theirs.sum()):
            dice.append(2 * int((ours & theirs).sum()) / total)
    return float(np.mean(dice)) if dice else float("nan")
