"""Reading and changing photographs, against a plain torchvision loader, in turns in one run.

    python benchmarks/loader.py [--workers 2] [--rounds 7]

The plain loader: PIL opens a file, torchvision resizes, jitters, mirrors and normalises it, a DataLoader's worker
processes put batches together. Ours does the same by threads: from the files, and from the store, which holds the
resized images. Each gives float batches. Prints Markdown: medians (least–most), the ratio round by round; the files
(PNGs of 1 to 2 MB, smooth with noise) lie in the disk cache. Two more tables compare decoding alone, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from measure import spread, times_in_turn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from uda.config.augment import PhotoAugment
from uda.config.recipe import Compute
from uda.data.images import ordered, processors, read_photo, resize_photo
from uda.data.photo_augment import changed
from uda.errors import UdaError
from uda.pipeline.environment import environment

MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILL = (124, 116, 104)
CHANGE = PhotoAugment(mirror=True, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05)
DISTINCT = 16
"""images; the other files repeat them"""

Bytes = NDArray[np.uint8]


def scene(seed: int, rows: int, columns: int) -> Bytes:
    """Smooth areas, coarse texture and fine noise: a PNG of 1 to 2 MB at 1280×720, as a game's."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (rows // 60 + 1, columns // 60 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC))
    texture = draw.normal(0, 6, (rows // 2 + 1, columns // 2 + 1, 3)).repeat(2, 0).repeat(2, 1)
    noise = draw.normal(0, 1.5, (rows, columns, 1))
    mixed: Bytes = np.clip(smooth + texture[:rows, :columns] + noise, 0, 255).astype(np.uint8)
    return mixed


def write_scenes(folder: Path, count: int, size: tuple[int, int], suffix: str) -> list[Path]:
    paths = [folder / f"{number:04}.{suffix}" for number in range(count)]
    for number, path in enumerate(paths):
        if number < DISTINCT:
            Image.fromarray(scene(number, *size)).save(path)
        else:
            path.write_bytes(paths[number % DISTINCT].read_bytes())
    return paths


class Plain(Dataset[Tensor]):
    """A folder of images as most people read one."""

    def __init__(self, paths: Sequence[Path], size: tuple[int, int]) -> None:
        self.paths = paths
        self.transform = v2.Compose(
            [
                v2.Resize(size, antialias=True),
                v2.ColorJitter(CHANGE.brightness, CHANGE.contrast, CHANGE.saturation, CHANGE.hue),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, SD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as file:
            image: Tensor = self.transform(file.convert("RGB"))
        return image


def normal(images: Bytes) -> Tensor:
    """uint8 ``[b, 3, h, w]`` as the network takes it."""
    mean, sd = (torch.tensor(v).view(3, 1, 1) * 255 for v in (MEAN, SD))
    return torch.from_numpy(images).float().sub_(mean).div_(sd)


def from_files(
    paths: Sequence[Path], size: tuple[int, int], batch: int, workers: int
) -> Iterable[Tensor]:
    label = np.zeros((1, *size), np.uint8)

    def load(item: tuple[int, Path]) -> Bytes:
        seed, path = item
        image = resize_photo(read_photo(path), size).transpose(2, 0, 1)[None]
        found, _ = changed(image, label, CHANGE, [seed], FILL, workers=1)
        return found

    waiting: list[Bytes] = []
    for image in ordered(load, list(enumerate(paths)), workers):
        if isinstance(image, UdaError):
            raise image
        waiting.append(image)
        if len(waiting) == batch:
            yield normal(np.concatenate(waiting))
            waiting = []


def from_store(store: Bytes, batch: int, workers: int) -> Iterable[Tensor]:
    labels = np.zeros((batch, *store.shape[2:]), np.uint8)
    for first in range(0, len(store), batch):
        part = store[first : first + batch]
        seeds = range(first, first + len(part))
        yield normal(changed(part, labels[: len(part)], CHANGE, seeds, FILL, workers)[0])


def consumed(batches: Callable[[], Iterable[Tensor]], count: int) -> Callable[[], None]:
    """Every batch taken, as a training loop would."""

    def work() -> None:
        seen = sum(len(part) for part in batches())
        if seen != count:
            raise SystemExit(f"{seen} images of {count}")

    return work


def loaders(
    folder: Path, count: int, size: tuple[int, int], batch: int, workers: int
) -> dict[str, Callable[[], None]]:
    small = (size[0] // 2, size[1] // 2)
    paths = write_scenes(folder, count, size, "png")
    plain = DataLoader(
        Plain(paths, small), batch, num_workers=workers, persistent_workers=workers > 0
    )
    store = np.memmap(folder / "store", np.uint8, "w+", shape=(count, 3, *small))
    for slot, path in zip(store, paths, strict=True):
        slot[...] = resize_photo(read_photo(path), small).transpose(2, 0, 1)
    works: dict[str, Callable[[], Iterable[Tensor]]] = {
        "plain torchvision loader": lambda: plain,
        "ours from the files": lambda: from_files(paths, small, batch, workers),
        "ours from the store": lambda: from_store(store, batch, workers),
    }
    return {name: consumed(work, count) for name, work in works.items()}


def _pil(path: Path) -> Bytes:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


DECODERS: dict[str, Callable[[Path], object]] = {
    "PIL": _pil,
    "`read_photo`": read_photo,
}


def decoders(paths: Sequence[Path]) -> dict[str, Callable[[], None]]:
    def all_of(decode: Callable[[Path], object]) -> Callable[[], None]:
        def work() -> None:
            for path in paths:
                decode(path)

        return work

    return {name: all_of(decode) for name, decode in DECODERS.items()}


def table(head: str, works: dict[str, Callable[[], None]], count: int, rounds: int) -> list[str]:
    """One row a work; the first is what the others are compared with."""
    taken = times_in_turn(works, rounds, time.perf_counter)
    first = next(iter(taken.values()))
    lines = [f"| {head} | images/s | times the first |", "|---|---|---|"]
    for name, spent in taken.items():
        speed = spread([count / s for s in spent], ".1f")
        ratio = spread([a / b for a, b in zip(first, spent, strict=True)], ".2f")
        lines.append(f"| {name} | {speed} | {ratio} |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(720, 1280))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=processors())
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in environment(Compute()).items()) + "\n")
    size, count = (given.size[0], given.size[1]), given.images // given.batch * given.batch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        works = loaders(folder, count, size, given.batch, given.workers)
        head = f"{count} PNGs of {size[0]}×{size[1]} to half, {given.workers} workers"
        print("\n".join(table(head, works, count, given.rounds)))
        for suffix in ("png", "jpg"):
            paths = write_scenes(folder, min(count, 8), size, suffix)
            head = f"decoding a {suffix.upper()}, 1 thread"
            print("\n" + "\n".join(table(head, decoders(paths), len(paths), given.rounds)))


if __name__ == "__main__":
    main()
