"""Speed and memory of the training loop and the store, each against its plain alternative in the same run.

    python benchmarks/loop.py                          # on a few phantom subjects
    python benchmarks/loop.py --data FOLDER            # on the real data of cards cmrseg_bssfp / cmrseg_lge

Prints Markdown. Ratios are medians; the two loops take turns step by step. With a CUDA device the loop is
measured there, and the share of a step that is the network's forward and backward is measured by CUDA events.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import nn

from uda.config.loading import load_card
from uda.config.networks import Network
from uda.config.recipe import Compute, Pretrain
from uda.data.cases import cases_of
from uda.data.items import Slices
from uda.data.sampling import batch_indices, source_batch
from uda.data.store import Store, open_store
from uda.data.synthetic.phantom.dataset import write_phantom
from uda.devices.device import deterministic, make_fabric
from uda.losses import cross_entropy, dice
from uda.networks.build import build
from uda.pipeline.environment import environment
from uda.pipeline.pretraining import set_mode_train
from uda.training.loop import Run, fit
from uda.training.objective import Objective
from uda.types import Batch

NETWORK = Network(channels=(16, 32, 64, 128, 256))
OBJECTIVE = [{"term": "cross_entropy"}, {"term": "dice"}]
CLASSES = 5  # of phantom_mr; cmrseg_bssfp has labels of the first four
BLOCK = 20


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def fresh_model() -> nn.Module:
    torch.manual_seed(0)
    return build(NETWORK, CLASSES).to(memory_format=torch.channels_last)


def ours(batches: Callable[[int], Batch], settings: Pretrain, folder: Path) -> None:
    """uda.training.loop.fit, logging and prefetching included."""
    with deterministic():
        fit(
            make_fabric(Compute()),
            fresh_model(),
            Objective(settings.objective),
            settings,
            batches,
            Run(0, "benchmark", folder),
            set_mode=set_mode_train,
            snapshot=lambda model, step: False,
        )


def bare(settings: Pretrain) -> Callable[[Batch], None]:
    """A step of the shortest PyTorch loop that does the same arithmetic."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = fresh_model().to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )

    def step(batch: Batch) -> None:
        source = batch.to(device).source
        logits = model(source.image)
        loss = cross_entropy(logits, source.label) + dice(logits, source.label)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


@dataclass(frozen=True)
class AfterTurn(Batch):
    """A batch that lets the other loop take a step before our step starts."""

    turn: Callable[[Batch], None] = lambda batch: None

    def to(self, device: torch.device) -> Batch:
        self.turn(Batch(self.source))
        return super().to(device)


def step_times(ready: list[Batch], settings: Pretrain) -> tuple[list[float], list[float]]:
    """Seconds of our steps and of the bare loop's, taken in turns so that a busy minute hits both alike."""
    step = bare(settings)
    marks: list[tuple[float, float]] = []

    def turn(batch: Batch) -> None:
        start = _now()
        torch.use_deterministic_algorithms(False)
        step(batch)
        torch.use_deterministic_algorithms(True)
        marks.append((start, _now()))

    def in_memory(number: int) -> Batch:
        return AfterTurn(source=ready[number % len(ready)].source, turn=turn)

    with tempfile.TemporaryDirectory() as folder:
        ours(in_memory, settings, Path(folder))
    theirs = [end - start for start, end in marks[:-1]]
    own = [after[0] - before[1] for before, after in itertools.pairwise(marks)]
    return own, theirs


def loop_lines(store: Store, batch: int, blocks: int) -> list[str]:
    """Steps per second over blocks of BLOCK steps, each with one row of the log; the first block warms up."""
    steps = BLOCK * (blocks + 1) + 1
    settings = Pretrain(
        steps=steps, batch=batch, lr=1e-3, objective=OBJECTIVE, save_every=10**6, log_every=BLOCK
    )

    items = Slices(store)

    def from_store(step: int) -> Batch:
        indices = batch_indices(len(store), batch, step, 0)
        return Batch(
            source=source_batch(items, indices, [step] * len(indices), torch.cuda.is_available())
        )

    own, theirs = step_times([from_store(step) for step in range(8)], settings)
    first, second = (
        [BLOCK / sum(times[i : i + BLOCK]) for i in range(BLOCK, BLOCK * (blocks + 1), BLOCK)]
        for times in (own, theirs)
    )
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    rate = statistics.median(first)
    size = "×".join(map(str, store.images.shape[1:]))
    lines = [
        f"| loop, batch {batch} of {size}, {blocks} blocks of {BLOCK} steps | {rate:.2f} steps/s | bare PyTorch "
        f"{statistics.median(second):.2f} steps/s | {statistics.median(ratios):.3f} "
        f"({ratios[0]:.3f}–{ratios[-1]:.3f}) |"
    ]
    if torch.cuda.is_available():
        lines.append(f"| images/s on the device | {rate * batch:.0f} | | |")
        lines.append(
            f"| forward + backward, share of a step | {network_share(from_store):.3f} | | |"
        )
    return lines


def network_share(batches: Callable[[int], Batch]) -> float:
    """Time of the network's forward and backward over the time of a bare step, by CUDA events."""
    model = fresh_model().cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    shares = []
    for step in range(40):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(4)]
        marks[0].record()
        batch = batches(step).to(torch.device("cuda")).source
        marks[1].record()
        loss = cross_entropy(model(batch.image), batch.label)
        loss.backward()
        marks[2].record()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks[3].record()
        torch.cuda.synchronize()
        if step >= 10:
            shares.append(marks[1].elapsed_time(marks[2]) / marks[0].elapsed_time(marks[3]))
    return statistics.median(shares)


def store_line(store: Store, paths: dict[str, tuple[Path, Path]], batch: int) -> str:
    """Batches from the store against the same slices read from NIfTI one by one."""
    places, items = store.places(), Slices(store)

    def from_files(step: int) -> None:
        for index in batch_indices(len(store), batch, step, 0):
            case, at = places[index]
            for path in paths[case]:
                axis = store.cases[0].geometry.slice_axis
                np.take(np.asanyarray(nibabel.load(path).dataobj), at, axis=axis)

    def from_store(step: int) -> None:
        source_batch(items, batch_indices(len(store), batch, step, 0), [step] * batch, pin=False)

    ratios, times = [], []
    for step in range(6):
        start = time.perf_counter()
        from_store(step)
        middle = time.perf_counter()
        from_files(step)
        end = time.perf_counter()
        times.append((middle - start, end - middle))
        ratios.append((end - middle) / (middle - start))
    a, b = (statistics.median(t[i] for t in times) * 1000 for i in (0, 1))
    return (
        f"| store, a batch of {batch} image+label slices | {a:.2f} ms | NIfTI per item {b:.1f} ms | "
        f"{statistics.median(ratios):.0f}× faster (least {min(ratios):.0f}×) |"
    )


def peak_resident_mib() -> float:
    """High-water mark of this process's own memory; ru_maxrss would keep its parent's over exec."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _peak(folder: str, batch: int, real: bool, queue: multiprocessing.Queue) -> None:
    items = Slices(Store(Path(folder)))
    torch.set_num_threads(1)
    fixed = source_batch(items, np.arange(batch), [0] * batch, pin=False)

    def batches(step: int) -> Batch:
        if not real:
            return Batch(source=fixed)
        indices = batch_indices(len(items), batch, step, 0)
        return Batch(source=source_batch(items, indices, [step] * batch, pin=False))

    settings = Pretrain(steps=40, batch=batch, lr=1e-3, objective=OBJECTIVE)
    if real:
        with tempfile.TemporaryDirectory() as run:
            ours(batches, settings, Path(run))
    else:
        step = bare(settings)
        for number in range(settings.steps):
            step(batches(number))
    queue.put(peak_resident_mib())


def memory_line(store: Store, batch: int) -> str:
    """Peak resident memory of the whole loop on the store beyond a bare loop on one batch, each in a process."""
    context = multiprocessing.get_context("spawn")
    peaks = []
    for real in (True, False):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(str(store.folder), batch, real, queue))
        process.start()
        peaks.append(queue.get())
        process.join()
    mega = store.images.nbytes / 2**20
    return (
        f"| peak memory, store of {len(store)} slices ({mega:.0f} MiB of images) | {peaks[0]:.0f} MiB | "
        f"bare loop on one batch {peaks[1]:.0f} MiB | +{peaks[0] - peaks[1]:.0f} MiB |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real cardiac data")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=10, help=f"of {BLOCK} steps each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, card = arguments.data, load_card("cmrseg_bssfp")
        if root is None:
            root, card = Path(folder) / "phantom", load_card("phantom_mr")
            subjects = [int(case) for case in card.splits["validate"]]
            write_phantom(root, mr=subjects, ct=[])
        split = "train" if arguments.data else "validate"
        cases = cases_of(card, root, split, labels=True)
        store = open_store(card, cases, Path(folder) / "store")
        paths = {case.name: (case.image, case.label) for case in cases}
        told = environment(Compute())
        print(", ".join(f"{key} {value}" for key, value in told.items()))
        print(f"\n| {card.name} | uda | alternative | ratio |\n|---|---|---|---|")
        for line in loop_lines(store, arguments.batch, arguments.blocks):
            print(line)
        print(store_line(store, paths, arguments.batch))
        print(memory_line(store, arguments.batch))


if __name__ == "__main__":
    main()
