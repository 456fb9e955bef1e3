"""Peak memory and time of `uda predict` on one large CT at full resolution, with a 2-D and with a 3-D network.

    python benchmarks/volume.py                                   # 512×512×300, five classes: minutes on a CPU
    python benchmarks/volume.py --shape 96 96 40 --patch 16 48 48 # a try

Prints Markdown. Each network runs in a process of its own, from the command line's start to the written label
map; its peak is what the kernel counted as resident. The weights are fresh: what they find does not matter here.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch

from uda.config.card import Prepare
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.pipeline.environment import environment

CLASSES = ("background", "myocardium", "left_atrium", "left_ventricle", "aorta")
LIMIT = 4.0
"""GB"""


def write_ct(path: Path, shape: tuple[int, int, int]) -> None:
    """Hounsfield units: a body of soft tissue with blood and bone in it, in air, with noise; int16."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]] / np.array(shape[:2])[:, None, None] - 0.5
    body = np.where(np.hypot(rows / 0.42, columns / 0.34) < 1, 40, -1000)
    body[np.hypot(rows + 0.05, columns - 0.05) < 0.12] = 350
    body[np.hypot(rows, columns + 0.28) < 0.04] = 900
    volume = np.empty(shape, np.int16)
    for index in range(shape[2]):
        volume[..., index] = body + rng.integers(-40, 40, shape[:2])
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([0.4, 0.4, 0.6, 1.0])), path)


def write_model(path: Path, network: Network, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    prepare = Prepare(size=size, normalize=(-150.0, 550.0))
    info = ModelInfo(network, CLASSES, prepare, ("source_labels",))
    save_model(path, build(network, len(CLASSES)), info)


def predict(model: Path, images: Path, out: Path, device: str) -> tuple[float, float]:
    """Peak resident GB and seconds of one command."""
    command = [sys.executable, "-m", "uda", "predict", "--device", device]
    command += ["--model", str(model), "--images", str(images), "--out", str(out)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * unit / 1e9, seconds


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--patch", type=int, nargs=3, default=(64, 128, 128), help="s h w")
    parser.add_argument("--channels", type=int, nargs="+", default=(8, 16, 32))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+", choices=("2-D", "3-D"), default=("2-D", "3-D"))
    given = parser.parse_args(arguments)
    shape, patch = tuple(given.shape), tuple(given.patch)
    shown = "×".join(map(str, shape))
    told = environment(Compute(device=given.device))
    print(
        f"CPU {told['cpu']}, {told['threads']} threads, {told['device']}, torch {told['torch']}\n"
    )
    print(f"| int16 CT {shown}, {len(CLASSES)} classes | peak memory | time |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_ct(root / "images" / "ct.nii.gz", shape)
        for name in given.networks:
            three = {"spatial_dims": 3, "patch": patch} if name == "3-D" else {}
            network = Network(channels=tuple(given.channels), **three)
            write_model(root / f"{name}.safetensors", network, shape[:2])
            peak, seconds = predict(
                root / f"{name}.safetensors", root / "images", root / name, given.device
            )
            verdict = f"≤ {LIMIT:g} GB" if peak <= LIMIT else f"over {LIMIT:g} GB"
            where = f", patch {'×'.join(map(str, patch))}" if three else ""
            print(
                f"| {name} U-Net {given.channels}{where} | {peak:.2f} GB ({verdict}) | {seconds:.0f} s |"
            )
        written = nibabel.load(root / given.networks[0] / "ct.nii.gz")
        if written.shape != shape:
            raise SystemExit(f"the label map has shape {written.shape}, not {shape}")
    whole = 4 * len(CLASSES) * math.prod(shape) / 1e9
    print(f"\nAll classes of the whole volume in float32 would be {whole:.2f} GB alone.")


if __name__ == "__main__":
    main()
