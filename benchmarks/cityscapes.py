"""One evaluation of a fake Cityscapes: where its time goes, what the metric costs, whether memory stays flat.

    python benchmarks/cityscapes.py                 # 500 images of 2048×1024: minutes on a CPU
    python benchmarks/cityscapes.py --images 20     # a try

Writes few distinct images and links them under the other names, as a download has them. A process of its own then
evaluates them one by one with the package's own functions and Cityscapes' card: image decoded and halved, network at
1024×512, its logits brought to the full size, argmax, labels decoded, confusion matrix. Afterwards the matrix is
compared with the usual one – a mask, then int64 pairs – which must be the same. Prints Markdown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from measure import clock, judged, resident_bytes
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from uda.config.loading import load_card
from uda.config.networks import DeepLab
from uda.config.recipe import Compute
from uda.data.cases import Case
from uda.data.sources import photo_classes
from uda.devices.device import make_fabric
from uda.evaluation.miou import Confusion, summarise_iou
from uda.networks.build import build
from uda.pipeline.environment import environment
from uda.prediction.photos import classes_of, photo_logits, read_prepared
from uda.types import IGNORE

CARD = load_card("cityscapes")
CLASSES, PREPARE = CARD.classes, CARD.prepare
IDS = tuple(CARD.label_values[name][0] for name in CLASSES)
CITIES = ("frankfurt", "lindau", "munster")
DECODE, NETWORK, ARGMAX = "decode image and halve it", "network", "upsample, argmax"
LABELS, METRIC = "decode labels", "metric"
PARTS = (DECODE, NETWORK, ARGMAX, LABELS, METRIC)
LIMIT = 0.05
"""Share of the time that the metric may take."""
SHARES = (0.1, 0.5, 1.0)

T = TypeVar("T")
Pair = tuple[Path, Path]


def stand_in(classes: int) -> nn.Module:
    """Logits at an eighth of the image, as a network of stride 8 gives them, for next to nothing."""
    return nn.Sequential(nn.Conv2d(3, 32, 8, stride=8), nn.ReLU(), nn.Conv2d(32, classes, 1))


def deeplab(backbone: str) -> Callable[[int], nn.Module]:
    settings = DeepLab(kind="deeplab_v2", backbone=backbone)
    return lambda classes: build(settings, classes, 3)


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "stand-in": stand_in,
    "small": deeplab("small"),
    "resnet101": deeplab("resnet101"),
}


def write_cityscapes(
    folder: Path, images: int, distinct: int, size: tuple[int, int], seed: int = 0
) -> list[Pair]:
    """The val split in the layout and with the file names of the download; image and label ids of each."""
    pairs: list[Pair] = []
    for number in range(images):
        city = CITIES[number * len(CITIES) // images]
        stem = f"{city}_{number:06d}_000019"
        image = folder / "leftImg8bit" / "val" / city / f"{stem}_leftImg8bit.png"
        label = folder / "gtFine" / "val" / city / f"{stem}_gtFine_labelIds.png"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        if number < distinct:
            picture, ids = street(size, np.random.default_rng([seed, number]))
            Image.fromarray(picture).save(image)
            Image.fromarray(ids).save(label)
        else:
            for path, first in zip((image, label), pairs[number % distinct], strict=True):
                os.link(first, path)
        pairs.append((image, label))
    return pairs


def street(
    size: tuple[int, int], draw: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Regions with uneven borders in smooth shades with sensor noise, ``[h, w, 3]``, and their label ids."""
    height, width = size
    ids = np.array([*IDS, 1], np.uint8)  # the last one, the ego vehicle, is ignored
    region = _smooth(draw.normal(size=(len(ids), 12, 24)), size).argmax(0).numpy()
    shade = draw.integers(40, 200, (len(ids), 3))[region].astype(np.float32)
    shade += 25 * _smooth(draw.normal(size=(1, 40, 80)), size)[0].numpy()[..., None]
    shade += draw.normal(0, 1.2, (height, width, 3))
    return shade.round().clip(0, 255).astype(np.uint8), ids[region]


def _smooth(knots: NDArray[np.float64], size: tuple[int, int]) -> Tensor:
    coarse = torch.from_numpy(knots.astype(np.float32))[None]
    return functional.interpolate(coarse, size, mode="bicubic", align_corners=True)[0]


@dataclass
class Run:
    """What one evaluation took."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Seconds of each part, all images together."""
    peaks: list[int] = field(default_factory=list)
    """Peak resident bytes after each of ``SHARES`` of the images."""
    usual: float = 0.0
    """Seconds an image of the usual confusion matrix."""
    summary: dict[str, Any] = field(default_factory=dict)


def evaluate(pairs: Sequence[Pair], name: str, device_name: str, threads: int) -> Run:
    """The whole set through a network, part by part."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    fabric = make_fabric(Compute(device=device_name))
    device = fabric.device
    network = NETWORKS[name](len(CLASSES)).eval().to(device)
    run, now = Run(), clock(device, cpu_time=False)
    confusion = Confusion(len(CLASSES), len(pairs), device)
    marks = [max(1, round(share * len(pairs))) for share in SHARES]

    def timed(part: str, work: Callable[[], T]) -> T:
        start = now()
        result = work()
        run.spent[part] += now() - start
        return result

    with torch.inference_mode():
        for number, pair in enumerate(pairs):
            prediction, reference = _predict(pair, network, fabric, timed)
            timed(METRIC, lambda: confusion.add(number, prediction, reference))  # noqa: B023
            run.peaks += [resident_bytes("VmHWM")] * marks.count(number + 1)
        matrices = timed(METRIC, confusion.matrices)
        run.summary = timed(METRIC, lambda: summarise_iou(matrices, CLASSES))
        run.usual = _compare(pairs[:5], network, fabric, confusion)
    return run


def _predict(
    pair: Pair, network: nn.Module, fabric: Fabric, timed: Callable[..., Any]
) -> tuple[Tensor, Tensor]:
    case = Case(pair[0].stem, *pair)
    photo = timed(DECODE, lambda: read_prepared(case, PREPARE))
    logits = timed(NETWORK, lambda: photo_logits(network, fabric, photo, PREPARE))
    prediction = timed(ARGMAX, lambda: classes_of(logits, photo.size))
    reference = timed(LABELS, lambda: photo_classes(case, photo.geometry, CARD))
    return prediction, torch.from_numpy(reference).to(fabric.device)


def usual(prediction: Tensor, reference: Tensor, classes: int) -> Tensor:
    """Confusion matrix in the usual way: labelled pixels picked out, pairs in int64."""
    labelled = reference != IGNORE
    index = reference[labelled].long() * classes + prediction[labelled].long()
    return torch.bincount(index, minlength=classes**2).view(classes, classes)


def _compare(
    pairs: Sequence[Pair], network: nn.Module, fabric: Fabric, confusion: Confusion
) -> float:
    """Seconds of the usual confusion matrix, after it has been found equal."""
    now, spent = clock(fabric.device, cpu_time=False), []
    for number, pair in enumerate(pairs):
        prediction, reference = _predict(pair, network, fabric, lambda _, work: work())
        start = now()
        matrix = usual(prediction, reference, len(CLASSES))
        spent.append(now() - start)
        if not torch.equal(matrix, confusion.counts[number]):
            raise SystemExit(f"{pair[0]}: the confusion matrix differs from the usual one")
    return statistics.median(spent)


def report(run: Run, title: str, images: int) -> None:
    whole = sum(run.spent.values())
    print(f"\n| {title} | ms an image | share | limit |\n|---|---|---|---|")
    for part, spent in run.spent.items():
        share = f"{spent / whole:.2%}"
        limit = LIMIT if part == METRIC else None
        print(
            f"| {part} | {1e3 * spent / images:.2f} | {judged(share, spent / whole, limit, '5%')} |"
        )
    print(f"| all | {1e3 * whole / images:.2f} | 100% | – |")
    print(f"\nThe usual confusion matrix, with the same counts: {1e3 * run.usual:.2f} ms an image.")
    heads = " | ".join(f"{share:.0%} of the images" for share in SHARES)
    cells = " | ".join(f"{peak / 1e9:.3f} GB" for peak in run.peaks)
    print(f"\n| peak memory after | {heads} |\n|---|---|---|---|\n| resident | {cells} |")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--distinct", type=int, default=20, help="images written, not linked")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), help="rows, columns")
    parser.add_argument("--network", choices=NETWORKS, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    told = environment(Compute(device=given.device))
    print(", ".join(f"{key} {value}" for key, value in told.items()))
    height, width = given.size
    context = multiprocessing.get_context("spawn")  # its memory is not that of who made the images
    with tempfile.TemporaryDirectory() as folder:
        pairs = write_cityscapes(Path(folder), given.images, given.distinct, (height, width))
        bytes_each = statistics.fmean(image.stat().st_size for image, _ in pairs[: given.distinct])
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            job = pool.submit(evaluate, pairs, given.network, given.device, given.threads)
            run = job.result()
    shown = f"{given.images} images of {width}×{height}, PNG of {bytes_each / 1e6:.2f} MB"
    report(run, f"{shown}, {given.network}", given.images)


if __name__ == "__main__":
    main()
