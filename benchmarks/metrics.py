"""3-D scores of a five-class heart against medpy's, on the same volumes in the same run; and what they need of memory.

    uv pip install --target FOLDER --no-deps medpy==0.5.2
    python benchmarks/metrics.py --medpy FOLDER              # 256×256×256, some ten minutes
    python benchmarks/metrics.py --memory                    # ours alone: the peak on 512×512×300

Ours is one ``score_case``; medpy's are ``dc``, ``hd95`` and ``assd`` of each structure. They take turns; the ratio is
the median over the rounds. The run stops when a value differs by more than 1e-6. medpy pools all distances in its ASSD
since 0.5, ours is the mean of the two directed means: it is compared with that of medpy's ``asd``. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from measure import resident_bytes, seconds, spread
from torch.nn import functional

from uda.config.recipe import Compute
from uda.evaluation.dice_hd95 import score_case
from uda.pipeline.environment import environment

CLASSES = ("background", "myo", "la", "lv", "aa")
TOLERANCE = 1e-6
LARGE = (512, 512, 300)
Labels = npt.NDArray[np.uint8]
# Centre and half-axes in shares of the volume: the ventricle lies in its wall, atrium and aorta touch it.
SHAPES = {
    "myo": ((0.52, 0.42, 0.40), (0.19, 0.17, 0.21)),
    "la": ((0.36, 0.62, 0.50), (0.15, 0.15, 0.17)),
    "lv": ((0.52, 0.42, 0.40), (0.14, 0.12, 0.16)),
    "aa": ((0.40, 0.42, 0.66), (0.12, 0.12, 0.16)),
}


def heart(shape: Sequence[int], seed: int) -> tuple[Labels, Labels]:
    """Reference and prediction: ellipsoids with uneven walls, and the same with other walls."""
    draw = torch.Generator().manual_seed(seed)
    fixed = [_uneven(shape, 8, draw) for _ in SHAPES]
    reference, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for field, (name, (centre, axes)) in zip(fixed, SHAPES.items(), strict=True):
        radius = torch.zeros(*shape)
        for axis in range(3):
            line = (torch.arange(shape[axis]) / shape[axis] - centre[axis]) / axes[axis]
            radius += (line**2).view([-1 if a == axis else 1 for a in range(3)])
        radius.sqrt_().add_(field, alpha=0.06)
        index = CLASSES.index(name)
        reference[(radius < 1).numpy()] = index
        radius.add_(_uneven(shape, 20, draw), alpha=0.05)
        radius.add_(torch.randn(shape, generator=draw), alpha=0.004)
        prediction[(radius < 1).numpy()] = index
    return reference, prediction


def _uneven(shape: Sequence[int], knots: int, draw: torch.Generator) -> torch.Tensor:
    """Smooth noise of unit sd at its knots."""
    coarse = torch.randn(1, 1, knots, knots, knots, generator=draw)
    return functional.interpolate(coarse, tuple(shape), mode="trilinear", align_corners=True)[0, 0]


def stray(prediction: Labels) -> Labels:
    """With one voxel of the ventricle in the far corner."""
    out = prediction.copy()
    out[-1, -1, -1] = CLASSES.index("lv")
    return out


def ours(prediction: Labels, reference: Labels, spacing: Sequence[float]) -> npt.NDArray[Any]:
    scores = score_case(prediction, reference, CLASSES, spacing, "row", "case")
    return np.array([(s.dice, s.hd95, s.assd) for s in scores])


def of_medpy(
    binary: Any, prediction: Labels, reference: Labels, spacing: Sequence[float], same: bool = False
) -> npt.NDArray[Any]:
    """medpy's three; with ``same`` the ASSD by our definition."""
    rows = []
    for k in range(1, len(CLASSES)):
        a, b = prediction == k, reference == k
        hd95 = binary.hd95(a, b, voxelspacing=spacing)
        if same:
            ways = [binary.asd(*pair, voxelspacing=spacing) for pair in ((a, b), (b, a))]
            assd = statistics.fmean(ways)
        else:
            assd = binary.assd(a, b, voxelspacing=spacing)
        rows.append((binary.dc(a, b), hd95, assd))
    return np.array(rows)


def load_medpy(folder: Path | None) -> Any:
    """medpy's module of binary measures; a clear word where it is not installed."""
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("medpy.metric.binary")
    except ImportError as error:
        raise SystemExit(
            f"medpy is not here ({error}); it is no dependency of uda. Get it with\n"
            "  uv pip install --target FOLDER --no-deps medpy==0.5.2\nand add --medpy FOLDER"
        ) from None


def speed_line(
    name: str, binary: Any, pair: tuple[Labels, Labels], spacing: Sequence[float], rounds: int
) -> str:
    """One row of the table, after the values have been found equal."""
    prediction, reference = pair
    gap = np.abs(
        ours(prediction, reference, spacing)
        - of_medpy(binary, prediction, reference, spacing, same=True)
    ).max()
    if not gap <= TOLERANCE:
        raise SystemExit(f"{name}: a value differs from medpy's by {gap:.3g}")
    taken: list[tuple[float, float]] = []
    for _ in range(rounds):
        mine = seconds(lambda: ours(prediction, reference, spacing), time.perf_counter)
        theirs = seconds(
            lambda: of_medpy(binary, prediction, reference, spacing), time.perf_counter
        )
        taken.append((mine, theirs))
    middle = [statistics.median(column) for column in zip(*taken, strict=True)]
    ratio = spread([theirs / mine for mine, theirs in taken], ".0f")
    return f"| {name} | {middle[0]:.2f} s | {middle[1]:.1f} s | {ratio} | {gap:.1g} |"


def _peak(folder: str, queue: Any) -> None:
    pair = [np.load(Path(folder) / f"{name}.npy") for name in ("prediction", "reference")]
    start = resident_bytes("VmRSS")
    spent = seconds(lambda: ours(pair[0], pair[1], (0.5, 0.5, 1.0)), time.perf_counter)
    queue.put((start, resident_bytes("VmHWM"), spent))


def memory_line(name: str, prediction: Labels, reference: Labels) -> str:
    """Peak resident memory of a process that scores one case, libraries and both label maps included."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "prediction.npy", prediction)
        np.save(Path(folder) / "reference.npy", reference)
        queue = context.Queue()
        process = context.Process(target=_peak, args=(folder, queue))
        process.start()
        start, peak, spent = queue.get()
        process.join()
    return f"| {name} | {start / 1e9:.2f} GB | {peak / 1e9:.2f} GB | {spent:.1f} s |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--medpy", type=Path, help="folder that medpy was installed into")
    parser.add_argument("--memory", action="store_true", help="measure memory, not speed")
    parser.add_argument("--size", type=int, nargs=3, help="of the volume, voxels")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    binary = None if given.memory else load_medpy(given.medpy)
    told = environment(Compute(device="cpu"))
    print(", ".join(f"{key} {value}" for key, value in told.items()))
    size = tuple(given.size or (LARGE if given.memory else (256, 256, 256)))
    reference, prediction = heart(size, seed=0)
    shown = "×".join(map(str, size))
    if binary is None:
        print(f"\n| {shown}, five classes | before | peak | time |\n|---|---|---|---|")
        print(memory_line("heart", prediction, reference))
        print(memory_line("heart and a stray voxel", stray(prediction), reference))
        return
    print(f"\n| {shown}, five classes | uda | medpy | ratio | largest difference |\n|{'---|' * 5}")
    spacing, pair = (1.6, 0.8, 0.7), (prediction, reference)
    print(speed_line("spacing 1.6×0.8×0.7", binary, pair, spacing, given.rounds))
    pair = (stray(prediction), reference)
    print(speed_line("spacing 1, a stray voxel", binary, pair, (1.0, 1.0, 1.0), given.rounds))


if __name__ == "__main__":
    main()
