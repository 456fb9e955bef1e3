"""Lives that end where a test wants it: at a moment between two file operations, by the clock, on a full disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from conftest import Tiny

from uda.files.ledger import LEDGER

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

# Children are forked from one server that has imported everything, so a life costs no import, and no
# thread of this process is copied. This file imports nothing heavy: every child imports it again.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        *(
            "uda.cli.main",
            "uda.pipeline.run",
            "uda.api",
            "uda.networks.importing",
            "uda.data.convert",
            "uda.networks",
        ),
        *("uda.report.pictures", "uda.report.sections", "uda.report.photos", "uda.selection"),
        *("torch.utils.tensorboard", "monai.networks.nets.unet", "matplotlib.figure", "pytest"),
    ]
)
NOT_PROMISED = ("stage.json", "report.html", ".uda.lock", ".uda-files")
"""files that tell the time"""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Fault:
    """What happens at the ``at``-th operation that changes files below ``root``; 0: nothing."""

    root: Path
    at: int = 0
    kind: str | Callable[[], object] = "kill"
    """``kill``, the errno with which that operation and all later ones that need room fail, or what is done then"""
    reads: Path | None = None
    """folder whose files' openings count too"""


def strike(fault: Fault) -> Callable[[], int]:
    """Let the fault come, in the process that calls this, until that ends.

    Returns:
        how many operations there were so far.
    """
    count, busy, sync, root = 0, False, os.fsync, str(fault.root)
    reads = "\0" if fault.reads is None else str(fault.reads)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal count, busy
        opens = event == "open" and str(given[0]).startswith(reads)
        if busy or not (opens or _changes(event, given, root)):
            return
        count += 1
        if isinstance(fault.kind, str):
            if count >= fault.at:
                _fail(fault.kind, event, given)
        elif count == fault.at:
            busy = True  # what it does to files itself does not count
            fault.kind()
            busy = False

    def told(descriptor: Any) -> None:
        if fault.kind not in ("EROFS", "ENOSPC"):
            sys.audit("fsync", root)
        sync(descriptor)

    if fault.at:
        os.fsync = told
        sys.addaudithook(hook)
    return lambda: count


def _fail(kind: str, event: str, given: tuple[Any, ...]) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "EROFS" or event in ("open", "os.mkdir"):
        raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), str(given[0]))


def _changes(event: str, given: tuple[Any, ...], root: str) -> bool:
    if event == "open":
        return str(given[0]).startswith(root) and bool((given[2] or 0) & WRITES)
    if event in ("os.remove", "os.rmdir") and given[1] != -1:
        return True  # rmtree, relative to an open folder
    names = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "fsync")
    return event in names and any(str(one).startswith(root) for one in given)


def command(arguments: list[str], errors: Path, fault: Fault, before: Any = None) -> None:
    """``uda …`` with what it says on stderr in a file.

    Args:
        before: called first, to change the process.
    """
    import torch

    from uda.__main__ import main

    torch.set_num_threads(1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if before is not None:
        before()
    count = strike(fault)
    sys.argv = ["uda", *arguments]
    try:
        main()
    finally:
        if counted := getattr(fault.kind, "counted", None):
            counted(count())


def stages(
    recipe: str,
    overrides: list[str],
    out: Path,
    until: str,
    fault: Fault,
    errors: Path | None = None,
) -> None:
    """A recipe up to any of its stages, ending as the command line does.

    Args:
        until: empty for all of it.
        errors: takes what would be said on stderr.
    """
    import torch

    from uda.cli import main as cli
    from uda.config.loading import load_recipe
    from uda.pipeline import run as pipeline

    torch.set_num_threads(1)
    if errors is not None:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    strike(fault)
    changes = [*overrides, "compute.device=cpu"]
    cli.app = lambda: pipeline.run(load_recipe(recipe, changes), out, until=until or None)
    cli.main()


def started(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    child = FORK.Process(target=function, args=arguments)
    child.start()
    return child


def ended(function: Callable[..., None], *arguments: Any) -> int:
    child = started(function, *arguments)
    child.join(300)
    if child.exitcode is None:
        child.kill()
        raise TimeoutError("it hangs")
    return child.exitcode


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run, so that nothing may be missing or left over; without what tells the time."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.parent.name != "tensorboard"
        and path.name not in (*NOT_PROMISED, LEDGER)
    }


def hidden(folder: Path) -> list[Path]:
    """What is left of unfinished work; a ledger stays."""
    return [path for path in folder.rglob(".*") if path.name != LEDGER]


# A world with every stage ---------------------------------------------------------------------------

SHORT = {"steps": 3, "batch": 2, "lr": 1e-3, "save_every": 1, "log_every": 2, "ema": 0.5}


def write_everything(tiny: Tiny) -> str:
    """A recipe with every kind of stage that a user's files can have; returns its path."""
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    raw["name"] = "everything"
    raw["pretrain"] |= SHORT
    raw["prior"] = {
        "tags": {"kind": "target_tags"},
        "predicted": {"kind": "predicted"},
        "spatial": {"kind": "spatial", "sigma": 1},
        "landmarks": {"kind": "landmarks", "segments": 6},
        "cam": {"kind": "cam", "min_accuracy": 0},
    }
    raw["adapt"] = {
        "tags": {**SHORT, "prior": "tags", "objective": raw["adapt"]["adami_tags"]["objective"]},
    }
    raw["adapt"]["tags"]["snapshot_every"] = 2
    raw["target_supervised"] = True
    path = tiny.home / "everything.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


def write_streets_recipe(home: Path) -> str:
    """A recipe that renders its data."""
    raw = {
        "name": "rendered",
        "title": "streets",
        "data": {
            "source": "gta5",
            "target": "cityscapes",
            "size": [16, 32],
            "streets": {"source": 1, "target": 1, "test": 1, "size": [32, 64]},
        },
        "network": {"channels": [4, 8], "res_units": 0},
        "pretrain": {**SHORT, "steps": 1, "batch": 1, "objective": [{"term": "cross_entropy"}]},
        "adapt": {"minent": {**SHORT, "steps": 1, "batch": 1, "objective": [{"term": "entropy"}]}},
    }
    path = home / "rendered.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return str(path)


@dataclass(frozen=True)
class Work:
    """Something a user starts: what was there before, how it runs, where its result lies."""

    name: str
    before: Path | None
    """copied to ``out`` before each life"""
    run: Callable[[Path, Fault], tuple[Callable[..., None], tuple[Any, ...]]]
    """from the output folder and a fault to what a child process does"""
    result: str = ""
    """folder below ``out`` that is compared; empty: all of it"""
    straight: Path | None = None
    """where the same was done without faults"""

    def place(self, out: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, out)

    def life(self, out: Path, fault: Fault | None = None) -> int:
        function, arguments = self.run(out, fault or Fault(out))
        return ended(function, *arguments)

    def found(self, out: Path) -> dict[str, bytes]:
        return contents(out / self.result)

    def expected(self, out: Path) -> dict[str, bytes]:
        """What it leaves where nothing happens; ``out`` is where it may be tried."""
        if self.straight is not None:
            return self.found(self.straight)
        self.place(out)
        out.mkdir(exist_ok=True)
        if code := self.life(out):
            raise RuntimeError(f"{self.name} alone ended with {code}")
        return self.found(out)


ORDER = (
    *("pretrain", "prior-tags", "prior-predicted", "prior-spatial", "prior-landmarks", "prior-cam"),
    *("adabn", "adapt-tags", "target_supervised", "evaluate", "report"),
)


def stage_works(tiny: Tiny, home: Path) -> list[Work]:
    """Each stage alone, the ones before it being complete; makes one whole run first."""
    recipe, straight = write_everything(tiny), home / "straight"
    code = ended(stages, recipe, tiny.overrides, straight, "", Fault(straight))
    if code:
        raise RuntimeError(f"the whole run ended with {code}")
    works = []
    for number, stage in enumerate(ORDER):
        before = home / f"before-{stage}"
        later = shutil.ignore_patterns(*ORDER[number:], *(("store",) if not number else ()))
        shutil.copytree(straight, before, ignore=later)

        def run(out: Path, fault: Fault, stage: str = stage) -> tuple[Any, tuple[Any, ...]]:
            return stages, (recipe, tiny.overrides, out, stage, fault)

        works.append(Work(stage, before, run, stage, straight))
    return works


def rendering_work(home: Path) -> Work:
    """Rendered streets, with nothing before."""
    recipe = write_streets_recipe(home)

    def run(out: Path, fault: Fault) -> tuple[Any, tuple[Any, ...]]:
        return stages, (recipe, [], out, "streets", fault)

    return Work("rendering", None, run, "streets")


def command_works(tiny: Tiny, home: Path, model: Path) -> list[Work]:
    """``uda adapt --model``, ``predict``, ``import`` and ``convert``, each into a fresh folder."""
    from foreign_networks import Plain, exported

    program, errors = home / "program.pt2", home / "errors.txt"
    program.write_bytes(exported(Plain().eval(), (1, 32, 32)))
    images, card = str(tiny.root / "t" / "images"), str(tiny.home / "source.yaml")
    verbs = {
        "adapt --model": [
            *("adapt", "--model", str(model), "--target", images, "--method", "minent"),
            *(
                "--set",
                "steps=2",
                "--set",
                "batch=2",
                "--set",
                "save_every=1",
                "--quiet",
                "--allow-fallback",
            ),
        ],
        "predict": ["predict", "--model", str(model), "--images", images],
        "import": ["import", str(program), "--card", card],
        "convert": ["convert", card, "--root", str(tiny.root)],
    }

    def work(name: str, given: list[str]) -> Work:
        device = [] if name in ("import", "convert") else ["--device", "cpu"]

        def run(out: Path, fault: Fault) -> tuple[Any, tuple[Any, ...]]:
            result = out / "result"
            return command, ([*given, *device, "--out", str(result)], errors, fault)

        return Work(name, None, run)

    return [work(name, given) for name, given in verbs.items()]


# What becomes of them -------------------------------------------------------------------------------


def moments(work: Work, out: Path, every: int = 1) -> Iterator[tuple[int, str]]:
    """Kill before each (or every n-th) file operation, go on each time: its number, ``exact`` or what was lost."""
    expected, at = work.expected(out), 1 - every
    while True:
        at += every
        verdict = killed_at(work, out, at, expected)
        if verdict is None:
            return
        yield at, verdict


def killed_at(work: Work, out: Path, at: int, expected: dict[str, bytes]) -> str | None:
    """What becomes of one kill; None where the work ends before it."""
    work.place(out)
    out.mkdir(exist_ok=True)
    code = work.life(out, Fault(out, at))
    if code == 0:
        return None
    if code != -signal.SIGKILL:
        return f"ended with {code}"
    return gone_on(work, out, expected)


def gone_on(work: Work, out: Path, expected: dict[str, bytes]) -> str:
    """Whether what stands is whole, and the same command ends as if nothing had happened."""
    visible = {n: b for n, b in work.found(out).items() if not _is_hidden(n)}
    for name, content in visible.items():
        if expected.get(name) != content:
            return f"{name} stands there half written"
    if code := work.life(out):
        return f"went on to exit code {code}"
    if left := hidden(out):
        return f"left {left[0].name}"
    return "exact" if work.found(out) == expected else "other bits"


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in Path(name).parts)
