"""A small world of rendered streets in the folders of GTA5 and Cityscapes, read through the real cards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.config.networks import DeepLab
from uda.config.recipe import Data
from uda.data.synthetic.streets.dataset import write_streets
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.pipeline.domains import sized

SIZE = (48, 96)
NETWORK = DeepLab(kind="deeplab_v2", backbone="small", stride=16)


def write_world(folder: Path, game: int = 4, train: int = 3, val: int = 3) -> Path:
    write_streets(
        folder, game=game, camera_train=train, camera_val=val, size=(72, 128), camera_size=(64, 128)
    )
    return folder


def card_of(name: str, size: tuple[int, int] = SIZE) -> DatasetCard:
    return sized(load_card(name), Data(source="gta5", target="cityscapes", size=size))


def write_model(path: Path, card: DatasetCard, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    info = ModelInfo(NETWORK, card.classes, card.prepare, ("source_labels",))
    save_model(path, build(NETWORK, len(card.classes), 3), info)
    return path


def colors_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))
