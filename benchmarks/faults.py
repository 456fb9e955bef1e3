"""What is lost when work is killed, starved of disk, disturbed or handed damaged files: counts, over every verb.

    python benchmarks/faults.py                       # hours on one busy core
    python benchmarks/faults.py --runs 20 --every 30  # a try: fewer draws, every thirtieth moment
    python benchmarks/faults.py --parts disturbances --only predict

Prints Markdown. In each run something goes wrong once; then the same command is given again. `exact`: it ends with
the bytes of a run in which nothing happened and leaves nothing else behind; `refused`: exit code and message name
what to do; anything else is lost, is listed, and makes the exit code 1. A foreign file or an input that is not as it
was before is lost too. Moments are taken in order, all of them or every n-th; times, bits and sizes are drawn with
`--seed`. The part `kills` kills and starves every stage; `disturbances` (tests/disturbances.py) does to every verb
that writes what disks, editors, terminals and other processes do.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from conftest import Tiny, make_tiny
from disturbances import everything
from disturbances.disks import may_mount
from fault_injection import (
    ORDER,
    Fault,
    Work,
    command,
    command_works,
    ended,
    gone_on,
    moments,
    rendering_work,
    stage_works,
    started,
)
from verbs import VERBS, make_world

from uda.files.atomic import _checksum, save_tensors

SHARES = {"SIGTERM": 0.2, "full": 0.3, "flips": 0.4, "ranks": 0.05}
"""of the number of kills"""
PARTS = ("kills", "disturbances")


class Table:
    """Rows of counts, and what was lost."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.lost: list[str] = []

    def add(self, fault: str, verdict: str) -> None:
        known = verdict if verdict in ("exact", "refused") else "lost"
        self.counts.setdefault(fault, Counter())[known] += 1
        if known == "lost":
            self.lost.append(f"{fault}: {verdict}")
            print(self.lost[-1], file=sys.stderr, flush=True)
        if self.counts[fault].total() % 5 == 0:
            print(f"{fault}: {dict(self.counts[fault])} …", file=sys.stderr, flush=True)

    def show(self) -> None:
        print("| fault | runs | went on exactly | refused clearly | lost |\n|---|---|---|---|---|")
        total: Counter[str] = Counter()
        for fault, counts in self.counts.items():
            total += counts
            self._row(fault, counts)
        self._row("all", total)
        for what in self.lost:
            print(f"\nlost: {what}")

    @staticmethod
    def _row(name: str, counts: Counter[str]) -> None:
        numbers = [str(counts[verdict]) for verdict in ("exact", "refused", "lost")]
        print(f"| {name} | {counts.total()} | {' | '.join(numbers)} |", flush=True)


def straight(work: Work, out: Path) -> tuple[dict[str, bytes], float]:
    """What a run without faults leaves, and its seconds."""
    begin = time.monotonic()
    work.place(out)
    out.mkdir(exist_ok=True)
    work.life(out)
    return work.expected(out), time.monotonic() - begin


def by_the_clock(
    works: list[Work], out: Path, runs: int, draw: random.Random, number: int
) -> Iterator[str]:
    """A signal at a random time of a random work; one that came too late is tried again."""
    known = {work.name: straight(work, out) for work in works}
    done = 0
    while done < runs:
        work = works[done % len(works)]
        expected, seconds = known[work.name]
        work.place(out)
        out.mkdir(exist_ok=True)
        function, arguments = work.run(out, Fault(out))
        child = started(function, *arguments)
        child.join(draw.uniform(0, seconds))
        if child.exitcode is None:
            os.kill(child.pid or 0, number)
        child.join(120)
        if child.exitcode == 0:
            continue
        done += 1
        if child.exitcode not in (-number, 128 + number):
            yield f"{work.name} ended with {child.exitcode}"
        else:
            yield gone_on(work, out, expected)


def as_user(tiny: Tiny, out: Path, *changes: str) -> list[str]:
    given = ["run", tiny.recipe, *tiny.overrides, *changes, "--device=cpu", f"--out={out}"]
    return [*given, "--allow-fallback", "--quiet"]


def refusal(errors: Path, code: int) -> str:
    """Whether a message of ours ended it."""
    told = errors.read_text()
    errors_told = sum(line.startswith("error: ") for line in told.splitlines())
    clear = errors_told == 1 and "Traceback" not in told and "fault of uda" not in told
    return "refused" if code in (1, 2) and clear else f"exit code {code}: {told}"


def full_disks(tiny: Tiny, home: Path, runs: int, draw: random.Random) -> Iterator[str]:
    """A small disk of its own that becomes larger when a run has been refused."""
    disk, errors = home / "disk", home / "errors.txt"
    whole = Work("run", None, lambda out, fault: (command, (as_user(tiny, out), errors, fault)))
    expected, _ = straight(whole, home / "roomy")
    size = sum(path.stat().st_size for path in (home / "roomy").rglob("*") if path.is_file())
    disk.mkdir()
    for _ in range(runs):
        room = draw.randint(8192, 2 * size)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "none", disk], check=True)
        try:
            out = disk / "run"
            code = whole.life(out)
            verdict = refusal(errors, code) if code else "refused"
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            yield gone_on(whole, out, expected) if verdict == "refused" else verdict
        finally:
            subprocess.run(["umount", disk], check=True)


def flips(
    works: list[Work], tiny: Tiny, home: Path, runs: int, draw: random.Random
) -> Iterator[tuple[str, str]]:
    """One bit of what a stage reads: a checkpoint, a store, a complete stage before it."""
    by_name = {work.name: work for work in works}
    kinds: tuple[tuple[str, str, str, int], ...] = (
        ("checkpoint", "pretrain", ".pretrain.*/resume*.safetensors", 58),
        ("store", "adapt-tags", "store/*/*", 0),
        ("complete stage", "adapt-tags", "pretrain/model.safetensors", 0),
        ("complete stage", "adapt-tags", "prior-tags/prior.json", 0),
        ("complete stage", "evaluate", "adapt-tags/model.safetensors", 0),
    )
    out, errors = home / "flipped", home / "errors.txt"
    known = {name: straight(by_name[name], out)[0] for name in {kind[1] for kind in kinds}}
    for number in range(runs):
        what, name, pattern, moment = kinds[number % len(kinds)]
        work = by_name[name]
        work.place(out)
        if moment and work.life(out, Fault(out, draw.randint(moment, moment + 45))) == 0:
            continue
        if not (files := sorted(out.glob(pattern))):
            continue
        path = draw.choice(files)
        held = bytearray(path.read_bytes())
        held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
        path.write_bytes(held)
        function, (recipe, overrides, _, until, _) = work.run(out, Fault(out))
        code = ended(function, recipe, overrides, out, until, Fault(out), errors)
        if code:
            verdict = refusal(errors, code)
        else:
            verdict = "exact" if work.found(out) == known[name] else f"{path.name}: other bits"
        yield f"one flipped bit, {what}", verdict


def launched(tiny: Tiny, home: Path, runs: int, draw: random.Random) -> Iterator[str]:
    """torchrun with two processes, of which one is killed; then in one go."""
    out, environ = home / "ranks", {**os.environ, "OMP_NUM_THREADS": "1"}
    changes = ("pretrain.steps=400", "pretrain.save_every=20")
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = str(one.getsockname()[1])
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        verb = [*as_user(tiny, out, *changes)]
        launcher += ["--master-port", port, "-m", "uda", "pretrain", *verb[1:-2], "-q"]
        agent = subprocess.Popen(launcher, env=environ, stderr=subprocess.PIPE, text=True)
        while agent.poll() is None and not list(out.glob(".pretrain.*/resume.safetensors")):
            time.sleep(0.05)
        workers = [pid for pid in alive(out) if pid != agent.pid]
        if len(workers) == 2:
            os.kill(draw.choice(workers), signal.SIGKILL)
        told = agent.communicate(timeout=180)[1]
        left = alive(out)
        if len(workers) != 2 or agent.returncode == 0 or left:
            yield f"workers {len(workers)}, exit code {agent.returncode}, left {left}: {told[-300:]}"
        else:
            yield "exact" if list(out.glob(".pretrain.*/resume.safetensors")) else "no checkpoint"


def alive(out: Path) -> list[int]:
    """Processes whose command names the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            if f"--out={out}".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def checksum_line(folder: Path) -> str:
    """What the checksum adds to writing a checkpoint of 200 MB: its processor time, on the clock when it is idle."""
    tensors = {f"w{number}": torch.randn(1000, 1000) for number in range(50)}

    def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
        taken = []
        for _ in range(9):
            begin = clock()
            work()
            taken.append(clock() - begin)
        return min(taken)

    whole = seconds(lambda: save_tensors(folder / "x.safetensors", tensors, {}), time.perf_counter)
    alone = seconds(lambda: _checksum(tensors, {}), time.process_time)
    return f"Checksum of a 200 MB checkpoint: {1e3 * alone:.0f} of {1e3 * whole:.0f} ms."


def kills(home: Path, given: argparse.Namespace, draw: random.Random, table: Table) -> None:
    """Whatever ends a run, or damages what it left."""
    tiny = make_tiny(home)
    works = [*stage_works(tiny, home), rendering_work(home)]
    works += command_works(tiny, home, home / "straight" / "pretrain" / "model.safetensors")
    chosen = [work for work in works if work.name in given.only or not given.only]
    several = {name: round(share * given.runs) for name, share in SHARES.items()}
    clock = home / "clock"
    for verdict in by_the_clock(chosen, clock, given.runs, draw, signal.SIGKILL):
        table.add("SIGKILL at a random time", verdict)
    for verdict in by_the_clock(chosen, clock, several["SIGTERM"], draw, signal.SIGTERM):
        table.add("SIGTERM at a random time", verdict)
    if may_mount(home / "mount"):
        for verdict in full_disks(tiny, home, several["full"], draw):
            table.add("full disk, then room", verdict)
    if not given.only:
        for fault, verdict in flips(works[: len(ORDER)], tiny, home, several["flips"], draw):
            table.add(fault, verdict)
        for verdict in launched(tiny, home, several["ranks"], draw):
            table.add("torchrun, one of two processes killed: no process left", verdict)
    for work in chosen:
        for _, verdict in moments(work, home / "moments", given.every):
            table.add(f"SIGKILL between two file operations: {work.name}", verdict)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--runs", type=int, default=120, help="SIGKILLs by the clock, and pairs of writers"
    )
    parser.add_argument("--every", type=int, default=1, help="take every n-th moment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="stages, commands and verbs, by name")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    given = parser.parse_args(argv)
    draw, table = random.Random(given.seed), Table()  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="uda-faults-") as folder:
        home = Path(folder)
        if "kills" in given.parts:
            kills(home, given, draw, table)
        if "disturbances" in given.parts:
            names = [name for name in VERBS if name in given.only or not given.only]
            mounts = may_mount(home / "mount")
            if not mounts:
                print("no right to mount: full and read-only disks were skipped", flush=True)
            world = make_world(home / "verbs")
            for fault, verdict in everything(world, draw, given.every, given.runs, names, mounts):
                table.add(fault, verdict)
        table.show()
        if "kills" in given.parts:
            print(f"\n{checksum_line(home)}")
    return 1 if table.lost else 0


if __name__ == "__main__":
    sys.exit(main())
