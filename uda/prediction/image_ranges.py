"""What a model learns of its own images at the end of a training: the ranges by which others are judged."""

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
from uda.prediction.confidence import Tally
from uda.prediction.volumes import logit_planes

PREDICTED = 50
"""cases that the model is run on, evenly spread: their ranges change little with more"""


def describe_images(path: Path, store: Store, fabric: Fabric) -> None:
    """Write a finished model file once more, with the ranges of the images of its last domain.

    Raises:
        ModelError: it cannot be read.
        RunError: the disk refuses; the file is as it was.
    """
    model, info = load_model(path)
    save_model(path, model, with_ranges(model.to(fabric.device), info, store, fabric))


def with_ranges(model: nn.Module, info: ModelInfo, store: Store, fabric: Fabric) -> ModelInfo:
    """The description with the ranges of every case's traits, and of what the model finds in some of them.

    Args:
        model: on the fabric's device.
        store: the images it was trained on or adapted to; their labels are not read.
    """
    cases = [dict(case.traits) for case in store.cases]
    for number in nearest(len(cases), min(PREDICTED, len(cases))):
        cases[number] |= _found(model, info, store, store.cases[number], fabric)
    return replace(info, images=ranges_over(cases))


def _found(
    model: nn.Module, info: ModelInfo, store: Store, case: StoredCase, fabric: Fabric
) -> dict[str, float]:
    tally = Tally(case.geometry)
    image = store.images[case.start : case.stop]
    if isinstance(info.prepare, PhotoPrepare):
        items = items_of(store, info.network.patch)
        image = items.image(np.arange(case.start, case.stop)).numpy()
    for _ in tally.watch(logit_planes(model, info, image, fabric)):
        pass
    return tally.measures(info)
