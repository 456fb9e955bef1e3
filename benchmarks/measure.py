"""What the benchmarks measure with: seconds in turns, live bytes at the peak, kernel calls."""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

Clock = Callable[[], float]


def clock(device: torch.device, cpu_time: bool) -> Clock:
    """Seconds, read when the device has done what was asked of it."""
    if cpu_time:
        return time.process_time
    if device.type == "cpu":
        return time.perf_counter

    def after_device() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return after_device


def seconds(work: Callable[[], object], now: Clock) -> float:
    start = now()
    work()
    return now() - start


def times_in_turn(
    works: Mapping[str, Callable[[], object]], rounds: int, now: Clock
) -> dict[str, list[float]]:
    """Seconds of each work in each round; two rounds before them warm up."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 2):
        for name, work in works.items():
            spent = seconds(work, now)
            if number >= 2:
                taken[name].append(spent)
    return taken


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """High-water mark of live bytes during a work, over those at its start."""
    work()
    if device.type == "cuda":
        start = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - start
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it reports every start and stop
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        work()
    if profile.kineto_results is None:
        raise SystemExit("this build of PyTorch has no Kineto, which records allocations")
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def spread(ratios: list[float], digits: str) -> str:
    """Median (least–most)."""
    middle = statistics.median(ratios)
    return f"{middle:{digits}} ({min(ratios):{digits}}–{max(ratios):{digits}})"


def judged(text: str, value: float, limit: float | None, shown: str) -> str:
    """A cell and its limit: "≤ 10%" where the value keeps it, "over 10%" where not."""
    if limit is None:
        return f"{text} | –"
    return f"{text} | {'over' if value > limit else '≤'} {shown}"


class Calls(TorchDispatchMode):
    """Counts how often each kernel is called."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def resident_bytes(entry: str) -> int:
    """VmRSS or VmHWM of this process; ru_maxrss would keep its parent's over exec."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024
