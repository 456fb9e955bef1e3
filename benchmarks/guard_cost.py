"""What the guard costs: its time over that of the training it guards, both in one run on the CPU.

    OMP_NUM_THREADS=1 python benchmarks/guard_cost.py
    OMP_NUM_THREADS=1 python benchmarks/guard_cost.py --rule '{ranked: [held_out, nuclear_norm]}' --every

Training and judgements take turns, so that a busy minute hits both alike. No checkpoint is rejected, which would cost
less. A training of ``--steps`` steps has eight judgements and those of the two models before adaptation; the pass that
estimates AdaBN is a line of its own, because methods with warmed statistics make it anyway. Images are noise: their
content does not change the time. Prints Markdown with medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from uda.config.card import Prepare
from uda.config.guard import SLICES, Guard, Rule
from uda.config.loading import parse
from uda.config.networks import Network
from uda.config.recipe import Adapt, Compute
from uda.data.items import Numbers
from uda.data.sampling import batch_indices, shuffled_batches
from uda.devices.device import deterministic, make_fabric
from uda.networks.batchnorm import BATCHNORM_BATCH, estimate_batchnorm, set_mode
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.pipeline.stages import ADABN_BATCHES
from uda.selection import Judge, UnlabelledImages, needed
from uda.selection.guard import JUDGEMENTS, snapshot_file
from uda.training.loop import Run, fit
from uda.training.objective import Objective
from uda.types import Batch, TargetBatch

NETWORK = Network(channels=(16, 32, 64, 128, 256))
CLASSES = ("background", "myo", "lv", "rv")
DEPTH = 15
"""slices of a case"""
BLOCK = 5
"""steps between two judgements"""


@dataclass(frozen=True)
class Noise:
    """Slices of noise, so many a case."""

    count: int
    size: int
    depth: int = 1

    def __len__(self) -> int:
        return self.count

    def places(self, numbers: Numbers, seeds: Sequence[int] | None = None) -> Numbers:
        return numbers

    def cases(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places // DEPTH)

    def image(self, places: Numbers) -> Tensor:
        draws = [np.random.default_rng(place).standard_normal((1, self.size, self.size), np.float32)
                 for place in places]  # fmt: skip
        return torch.from_numpy(np.stack(draws))

    def seen(self, places: Numbers, seeds: Sequence[int]) -> Tensor:
        return self.image(places)

    def labelled(self, places: Numbers, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("these images have no labels")

    def index(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places)


@dataclass(frozen=True)
class Seconds:
    """Medians."""

    step: float
    before: float
    """the source model and AdaBN, together"""
    judgement: float
    """a checkpoint, from the network in memory to its scores"""
    adabn: float
    """the pass that estimates statistics"""

    def guard(self) -> float:
        """Of a whole training, but for AdaBN."""
        return self.before + JUDGEMENTS * self.judgement


def measure(method: str, rule: Rule, every: bool, given: argparse.Namespace) -> Seconds:
    """Train and judge in turns."""
    items, fabric = Noise(given.images, given.size), make_fabric(Compute(device="cpu"))
    raw = {"preset": method, "steps": BLOCK * given.rounds, "batch": 8, "lr": 1e-9}
    settings = parse(Adapt, {**raw, "snapshot_every": BLOCK, "save_every": 10**6}, method)
    torch.manual_seed(0)
    source, info = (
        build(NETWORK, len(CLASSES)),
        ModelInfo(NETWORK, CLASSES, Prepare(size=(given.size, given.size)), ("none",)),
    )
    adabn, model = (build(NETWORK, len(CLASSES)) for _ in range(2))
    for one in (adabn, model):
        one.load_state_dict(source.state_dict())
    for one in (source, adabn, model):
        one.to(memory_format=torch.channels_last)
    ready = [
        Batch(target=TargetBatch(items.image(numbers), torch.from_numpy(numbers)))
        for numbers in (batch_indices(len(items), 8, step, 0) for step in range(4))
    ]
    marks: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, deterministic():
        start = time.perf_counter()
        images = partial(shuffled_batches, items, BATCHNORM_BATCH, 0)
        estimate_batchnorm(adabn, islice(images(), ADABN_BATCHES), fabric.device)
        estimated = time.perf_counter()
        guard, ratio = Guard(factor=1e9, overlap=0, rule=rule), torch.full((len(CLASSES),), 0.25)
        judge = Judge(
            UnlabelledImages(items, guard.images), CLASSES, (1, 2, 3), ratio,
            source, adabn, guard, fabric, 0, torch.channels_last, every,
        )  # fmt: skip
        judged = time.perf_counter()

        def snapshot(kept: nn.Module, step: int) -> bool:
            begun = time.perf_counter()
            path = snapshot_file(Path(folder), step)
            save_model(path, kept, info)
            judge.judge(path, step)
            judge.scores()
            marks.append((begun, time.perf_counter()))
            return False

        fit(
            fabric,
            model,
            Objective(settings.objective, None, images, 0),
            settings,
            lambda step: ready[step % len(ready)],
            Run(0, "benchmark", Path(folder)),
            set_mode=lambda trained: set_mode(trained, settings.batchnorm),
            snapshot=snapshot,
        )
    steps = [(b[0] - a[1]) / BLOCK for a, b in pairwise(marks)]
    return Seconds(
        statistics.median(steps),
        judged - estimated,
        statistics.median(end - begun for begun, end in marks),
        estimated - start,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", default="mean_teacher,minent")
    parser.add_argument("--rule", help="settings of guard.rule, as YAML; default: that for slices")
    parser.add_argument("--every", action="store_true", help="also with every score")
    parser.add_argument("--size", type=int, default=192)
    parser.add_argument("--images", type=int, default=375, help="of the target")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5, help="judgements measured")
    given = parser.parse_args()
    rule = SLICES if given.rule is None else parse(Rule, yaml.safe_load(given.rule), "--rule")
    print(f"| method, {given.steps} steps of 8 | scores | step | judgement | guard | AdaBN |")
    print("|---|---|---|---|---|---|")
    for method in given.methods.split(","):
        for every in (False, True) if given.every else (False,):
            s = measure(method, rule, every, given)
            training = given.steps * s.step
            scores = "every one" if every else ", ".join(needed(rule))
            print(
                f"| {method} | {scores} | {s.step:.2f} s | {s.judgement:.1f} s | "
                f"{100 * s.guard() / training:.1f} % | {100 * s.adabn / training:.1f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
