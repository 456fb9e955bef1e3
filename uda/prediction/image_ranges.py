"""Add the ranges of image and prediction measures over the last domain's images to a trained model file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from torch import nn

from uda.config.card import PhotoPrepare
from uda.data.geometry import nearest
from uda.data.items import items_of
from uda.data.store import Store, StoredCase
from uda.networks.image_ranges import ranges_over
from uda.networks.model_file import ModelInfo, load_model, save_model
from uda.prediction.confidence import CaseStatistics
from uda.prediction.volumes import logit_planes

PREDICTED = 50
"""number of cases that the model predicts, evenly spread; more cases change the ranges little"""


def describe_images(path: Path, store: Store, fabric: Fabric, known: nn.Module) -> None:
    """Rewrite a finished model file with the ranges of the images of its last domain.

    Args:
        known: the model that was trained, whose program the file holds if it is foreign.

    Raises:
        ModelError: the file cannot be read.
        RunError: the disk refuses; the file stays unchanged.
    """
    model, info = load_model(path, known=known)
    save_model(path, model, with_ranges(model.to(fabric.device), info, store, fabric))


def with_ranges(model: nn.Module, info: ModelInfo, store: Store, fabric: Fabric) -> ModelInfo:
    """The description with the ranges of the traits of all cases, and of the predictions in some of them.

    Args:
        model: on the fabric's device.
        store: the images of its training or adaptation; their labels are not read.
    """
    cases = [dict(case.traits) for case in store.cases]
    for number in nearest(len(cases), min(PREDICTED, len(cases))):
        cases[number] |= _found(model, info, store, store.cases[number], fabric)
    return replace(info, images=ranges_over(cases))


def _found(
    model: nn.Module, info: ModelInfo, store: Store, case: StoredCase, fabric: Fabric
) -> dict[str, float]:
    statistics = CaseStatistics(case.geometry)
    image = store.images[case.start : case.stop]
    if isinstance(info.prepare, PhotoPrepare):
        items = items_of(store, info.network.patch)
        image = items.image(np.arange(case.start, case.stop)).numpy()
    for _ in statistics.watch(logit_planes(model, info, image, fabric)):
        pass
    return statistics.measures(info)
