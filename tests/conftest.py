"""A data set of a few kilobytes with the shape of a real one, and a recipe that runs on it in seconds."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import nibabel
import numpy as np
import pytest
import torch
import yaml

from uda.config.loading import load_card, load_recipe
from uda.config.recipe import Recipe
from uda.data.synthetic.phantom import dataset as phantom

FEW_PEOPLE = {
    "mr": {"train": ["1001", "1002"], "validate": ["1010"]},
    "ct": {"adapt": ["1001", "1002"], "test": ["1003"]},
}
CLASSES = ["background", "disk", "ring"]
SIZE, SLICES = 32, 4


@dataclass(frozen=True)
class Tiny:
    """Paths of a small world: cards and recipe under ``home``, NIfTI files under ``root``."""

    home: Path
    root: Path

    @property
    def recipe(self) -> str:
        return str(self.home / "tiny.yaml")

    @property
    def overrides(self) -> list[str]:
        return [f"data.root={self.root}"]

    def load(self, *overrides: str) -> Recipe:
        return load_recipe(self.recipe, [*self.overrides, "compute.device=cpu", *overrides])


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.5, 1.5, 4.0, 1.0]) if affine is None else affine
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def make_case(seed: int, inverted: bool) -> tuple[np.ndarray, np.ndarray]:
    """An image of a bright disk in a dark ring (or the reverse) with its labels, both [h, w, slices]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    label = np.zeros((SIZE, SIZE, SLICES), np.uint8)
    for s in range(SLICES):
        centre = SIZE / 2 + rng.uniform(-3, 3, 2)
        distance = np.hypot(rows - centre[0], columns - centre[1])
        radius = rng.uniform(5, 7)
        label[..., s] = np.where(distance < radius, 1, np.where(distance < radius + 4, 2, 0))
    level = np.array([0.4, 0.1, 0.9] if inverted else [0.4, 0.9, 0.1])
    image = level[label] + rng.normal(0, 0.05, label.shape)
    return np.round(image * 1000).astype(np.int16), label


def card(name: str, folder: str, splits: dict[str, list[str]], **extra: Any) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"small {name}",
        "images": f"{folder}/images/{{case}}.nii.gz",
        "labels": f"{folder}/labels/{{case}}.nii.gz",
        "classes": CLASSES,
        "label_values": {"background": [0], "disk": [10], "ring": [20]},
        "prepare": {"orientation": "RAS", "size": [SIZE, SIZE]},
        "splits": splits,
        **extra,
    }


def recipe(home: Path) -> dict[str, Any]:
    ratio = {"term": "class_ratio_kl", "direction": "prediction_to_prior"}
    short = {"steps": 6, "batch": 4, "lr": 1e-3, "save_every": 2, "log_every": 2}
    return {
        "name": "tiny",
        "title": "a recipe for tests",
        "data": {"source": str(home / "source.yaml"), "target": str(home / "target.yaml")},
        "network": {"channels": [4, 8], "res_units": 1, "dropout": 0.1},
        "pretrain": {
            **short,
            "steps": 10,
            "ema": 0.5,
            "objective": [{"term": "cross_entropy"}, {"term": "dice"}],
            "augment": {"rotate": 20, "scale": 0.1, "flip": True, "noise": 0.1, "gamma": 0.2},
        },
        "prior": {"ratio": {"kind": "source_labels"}, "tags": {"kind": "target_tags"}},
        "adapt": {
            "minent": {**short, "objective": [{"term": "entropy"}], "snapshot_every": 3},
            "adami_tags": {**short, "prior": "tags", "objective": [{"term": "entropy"}, ratio]},
        },
    }


def make_tiny(folder: Path) -> Tiny:
    """Write the small world into a folder."""
    home, root = folder / "home", folder / "data"
    for number in range(3):
        for folder, inverted in (("s", False), ("t", True)):
            image, label = make_case(number + 10 * inverted, inverted)
            write_nifti(root / folder / "images" / f"c{number}.nii.gz", image)
            write_nifti(root / folder / "labels" / f"c{number}.nii.gz", label * np.uint8(10))
    tags = [f"c{c},{s},1,{int(s != 0)}" for c in (0, 1) for s in range(SLICES)]
    (root / "t" / "tags.csv").write_text("case,slice,disk,ring\n" + "\n".join(tags) + "\n")
    home.mkdir()
    source = card("source", "s", {"train": ["c0", "c1"], "validate": ["c2"]})
    target = card("target", "t", {"adapt": ["c0", "c1"], "test": ["c2"]}, tags="t/tags.csv")
    for name, raw in (("source", source), ("target", target), ("tiny", recipe(home))):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return Tiny(home, root)


def load_script(path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script as a module; it finds its neighbours as when it is run."""
    monkeypatch.syspath_prepend(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A fresh copy for each test, so that a test may damage it."""
    return make_tiny(tmp_path)


Once = Callable[[str, Callable[[Path], None]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Fills a folder of that name once for all workers, and returns it; tests only read it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def filled(name: str, fill: Callable[[Path], None]) -> Path:
        folder, done = root / f"once-{name}", root / f"once-{name}.done"
        with (root / f"once-{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                fill(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def finished_once(once: Once) -> Path:
    """A small world (:func:`make_tiny`) and, in ``run``, a whole run of its recipe."""

    def fill(folder: Path) -> None:
        from uda.pipeline.run import run

        run(make_tiny(folder).load(), folder / "run")

    return once("finished", fill)


@pytest.fixture
def finished(finished_once: Path, tmp_path: Path) -> Path:
    """A copy of a whole run of the tiny recipe for each test: with its own ``tiny`` all of it is skipped."""
    return Path(shutil.copytree(finished_once / "run", tmp_path / "run"))


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes end without drawing their report, half the time of a small run."""
    from uda.pipeline import plan

    monkeypatch.setattr(plan, "write_report", lambda out, folder: None)


render_once = cache(phantom.render_subject)


@pytest.fixture
def few_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose own cards are small; cards there go before the shipped ones. Each person is drawn once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(phantom, "render_subject", render_once)
    (tmp_path / "datasets").mkdir()
    for name in ("mmwhs_mr", "mmwhs_ct", "phantom_mr", "phantom_ct"):
        card = load_card(name).model_dump(mode="json")
        card["prepare"] |= {"size": [64, 64], "spacing": 3.2, "slice_spacing": 10.0}
        card["splits"] = FEW_PEOPLE[name[-2:]]
        (tmp_path / "datasets" / f"{name}.yaml").write_text(yaml.safe_dump(card))
    return tmp_path


LONGEST = ("test_street_recipes", "test_tutorials", "test_readme", "test_extending", "test_wheel")
"""files that go first, so that no worker is left alone with one of them at the end"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors are slower on several threads, and test machines are shared."""
    torch.set_num_threads(1)


@pytest.fixture
def as_users_see() -> Iterator[None]:
    """Without the shape checks of the test run, which refuse a wrong shape before our own message can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
