"""Every verb that writes, as a user types it: what it reads, what it leaves, what it must not touch."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from conftest import Tiny, make_case, make_tiny, write_nifti
from fault_injection import NOT_PROMISED, SHORT, Fault, command, ended, hidden, started

from uda.files.ledger import LEDGER, Ledger

DEVICE = ["--device", "cpu"]
METHOD = ["--method", "minent", "--set", "steps=2", "--set", "batch=2", "--set", "save_every=1"]
TRAINING = [*DEVICE, "--quiet", "--allow-fallback"]


@dataclass
class World:
    """Inputs below ``given``, which no verb may touch; results below ``disk``."""

    home: Path
    results: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """of verbs that ran undisturbed"""

    @property
    def given(self) -> Path:
        return self.home / "given"

    @property
    def disk(self) -> Path:
        return self.home / "disk"

    @property
    def out(self) -> Path:
        return self.disk / "out"

    @property
    def errors(self) -> Path:
        return self.home / "errors.txt"

    @property
    def tiny(self) -> Tiny:
        return Tiny(self.given / "home", self.given / "data")


@dataclass(frozen=True)
class Verb:
    """A command; ``{given}`` and ``{out}`` in its arguments are folders."""

    name: str
    arguments: list[str]
    reads: tuple[str, ...]
    """inputs whose content decides the result, below ``given``"""
    other: tuple[str, str] = ("", "")
    """an argument and another value of it: what makes another result in the same place"""
    stages: bool = False
    """whether it writes stages, which it may make again"""
    sealed: bool = False
    """whether a record lists the SHA-256 of its inputs, so that an edited one is refused"""
    lock: str = "out/.uda.lock"
    """its lock file, below the disk; empty: none"""

    def typed(self, world: World, *, other: bool = False, out: Path | None = None) -> list[str]:
        given = list(self.arguments)
        if other:
            given[given.index(self.other[0])] = self.other[1]
        return [one.format(given=world.given, out=out or world.out) for one in given]


TARGET, SOURCE, ROOT = "{given}/home/target.yaml", "{given}/home/source.yaml", "{given}/data"
MODEL, OTHER = "{given}/model.safetensors", "{given}/other.safetensors"
IMAGES = "{given}/data/t/images"
IMAGE, LABEL, TAGS = "data/t/images/c0.nii.gz", "data/t/labels/c0.nii.gz", "data/t/tags.csv"
TESTED = ("data/t/images/c2.nii.gz", "data/t/labels/c2.nii.gz")
RUN = ["run", "{given}/home/short.yaml", "data.root={given}/data", "seed=0", *TRAINING]
VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "predict",
            [
                "predict",
                "--model",
                MODEL,
                "--images",
                IMAGES,
                "--entropy",
                *DEVICE,
                "--out",
                "{out}",
            ],
            (IMAGE, "model.safetensors"),
            (MODEL, OTHER),
        ),
        Verb(
            "suggest",
            [
                *("suggest", "--model", MODEL, "--images", IMAGES, "--k", "1", *DEVICE),
                *("--out", "{out}/suggestions.csv"),
            ],
            (IMAGE, "model.safetensors"),
            (MODEL, OTHER),
        ),
        Verb(
            "adapt",
            ["adapt", "--model", MODEL, "--target", IMAGES, *METHOD, *TRAINING, "--out", "{out}"],
            (IMAGE, "model.safetensors"),
            ("steps=2", "steps=3"),
            stages=True,
            lock=".out.lock",
        ),
        Verb(
            "run",
            [*RUN, "--out", "{out}"],
            ("data/s/images/c0.nii.gz", "data/s/labels/c0.nii.gz", IMAGE, TAGS, *TESTED),
            ("seed=0", "seed=1"),
            stages=True,
        ),
        Verb(
            "evaluate",
            [
                "evaluate",
                "--model",
                MODEL,
                "--card",
                TARGET,
                "--root",
                ROOT,
                *DEVICE,
                "--out",
                "{out}",
            ],
            (*TESTED, "model.safetensors"),
            (MODEL, OTHER),
            lock="out/evaluate/.uda.lock",
        ),
        Verb(
            "report",
            ["report", "{given}/run", "--out", "{out}"],
            ("run/evaluate/metrics.json",),
            sealed=True,
        ),
        Verb(
            "import",
            ["import", "{given}/program.pt2", "--card", SOURCE, "--out", "{out}"],
            ("program.pt2",),
            ("{given}/program.pt2", "{given}/other.pt2"),
        ),
        Verb(
            "prior",
            [
                *("prior", "--model", MODEL, "--kind", "target_tags", "--target", IMAGES, *DEVICE),
                *("--tags", "{given}/" + TAGS, "--out", "{out}/prior.json"),
            ],
            (TAGS,),
            ("{given}/" + TAGS, "{given}/other.csv"),
            lock="",
        ),
        Verb(
            "tags",
            ["tags", TARGET, "--root", ROOT, "--split", "test", "--out", "{out}/tags.csv"],
            TESTED[1:],
            ("test", "adapt"),
            lock="",
        ),
        Verb(
            "convert",
            ["convert", SOURCE, "--root", ROOT, "--out", "{out}"],
            ("data/s/images/c0.nii.gz", "data/s/labels/c0.nii.gz"),
            (SOURCE, "{given}/home/second.yaml"),
        ),
        Verb(
            "check",
            ["check", TARGET, "--root", ROOT, "--out", "{out}"],
            (IMAGE,),
            (TARGET, SOURCE),
        ),
        Verb(
            "check --from-nnunet",
            ["check", "--from-nnunet", "{given}/nnunet", "--out", "{out}/card.yaml"],
            ("nnunet/dataset.json",),
            ("{given}/nnunet", "{given}/nnunet2"),
            lock="",
        ),
    )
}


def make_world(home: Path, run: Path | None = None) -> World:
    """Write every input; a finished run and two models are among them.

    Args:
        run: a finished run to copy, of which the adapted model is the second one; by default two runs are made, and
            programs to import.
    """
    world = World(home)
    tiny = make_tiny(world.given)
    world.disk.mkdir()
    _write_texts(tiny, world.given)
    for path in tiny.root.rglob("*.gz"):
        path.write_bytes(stored(gzip.decompress(path.read_bytes())))
    if run is not None:
        shutil.copytree(run, world.given / "run")
        trained = [run / "pretrain", run / "adapt-minent"]
    else:
        _write_programs(world.given)
        for name, seed in (("run", 0), ("second", 1)):
            out = world.given / name
            given = [*VERBS["run"].typed(world)[:-2], f"seed={seed}", "--out", str(out)]
            if code := ended(command, given, world.errors, Fault(out)):
                raise RuntimeError(f"the run ended with {code}: {world.errors.read_text()}")
        trained = [world.given / name / "pretrain" for name in ("run", "second")]
    for name, folder in zip(("model", "other"), trained, strict=True):
        shutil.copy(folder / "model.safetensors", world.given / f"{name}.safetensors")
    return world


def _write_texts(tiny: Tiny, given: Path) -> None:
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    raw |= {"name": "short", "adapt": {"tags": {**raw["adapt"]["adami_tags"], **SHORT}}}
    raw["pretrain"] |= SHORT
    raw["prior"] = {"tags": raw["prior"]["tags"]}
    (tiny.home / "short.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    second = yaml.safe_load((tiny.home / "source.yaml").read_text())
    second["splits"]["validate"] = ["c1"]
    (tiny.home / "second.yaml").write_text(yaml.safe_dump(second, sort_keys=False))
    tags = tiny.root / "t" / "tags.csv"
    (given / "other.csv").write_text(tags.read_text().replace(",1\n", ",0\n", 3))
    write_nnunet(given / "nnunet", "Heart")
    write_nnunet(given / "nnunet2", "Other")


def _write_programs(given: Path) -> None:
    from foreign_networks import Plain, exported

    for name, network in (("program", Plain()), ("other", Plain(dropout=0.5))):
        (given / f"{name}.pt2").write_bytes(exported(network.eval(), (1, 32, 32)))


def stored(data: bytes) -> bytes:
    """An archive whose size tells nothing of its content."""
    return gzip.compress(data, 0, mtime=0)


def write_nnunet(folder: Path, name: str) -> None:
    for number in range(2):
        image, label = make_case(number, False)
        write_nifti(folder / "imagesTr" / f"a{number}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"a{number}.nii.gz", label)
    (folder / "dataset.json").write_text(
        f'{{"name": "{name}", "channel_names": {{"0": "MRI"}}, "numTraining": 2, "file_ending": ".nii.gz",'
        ' "labels": {"background": 0, "disk": 1, "ring": 2}}'
    )


def edited(name: str, content: bytes) -> bytes:
    """Other content of an input, of the same size: another truth."""
    if name.endswith(".gz"):
        raw = bytearray(gzip.decompress(content))
        values = np.frombuffer(raw[352:], "u1" if "labels" in name else "i2")
        raw[352:] = values[::-1].tobytes()
        return stored(bytes(raw))
    if name.endswith(".csv"):
        return content[:-2] + (b"0" if content[-2:-1] == b"1" else b"1") + content[-1:]
    if name.endswith(".json"):
        return (
            content.replace(b"Heart", b"Liver")
            .replace(b'"tiny"', b'"long"')
            .replace(b"short", b"shirt")
        )
    raise ValueError(name)


def other_content(world: World, name: str) -> bytes:
    """What an input becomes when somebody edits it."""
    path = world.given / name
    twin = {"model.safetensors": "other.safetensors", "program.pt2": "other.pt2"}.get(name)
    return (world.given / twin).read_bytes() if twin else edited(name, path.read_bytes())


# What there is before and after -----------------------------------------------------------------------

Held = Mapping[Path, tuple[bytes | str, int]]


def held(*folders: Path) -> dict[Path, tuple[bytes | str, int]]:
    """Content and time of every file and link below folders."""
    found: dict[Path, tuple[bytes | str, int]] = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink():
                found[path] = os.readlink(path), path.lstat().st_mtime_ns
            elif path.is_file():
                found[path] = path.read_bytes(), path.stat().st_mtime_ns
    return found


def touched(before: Held, but: Path | None = None) -> list[Path]:
    """Which of them are no longer as they were."""
    found = []
    for path, state in before.items():
        if path != but and held(path).get(path) != state:
            found.append(path)
    return found


def result(out: Path) -> dict[str, bytes]:
    """Every file that a verb left but hidden ones; of those that tell the time the name alone."""
    files = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    return {
        name.as_posix(): b"" if path.name in NOT_PROMISED else path.read_bytes()
        for name, path in files.items()
        if path.parent.name != "tensorboard" and not any(part[0] == "." for part in name.parts)
    }


def unlisted(out: Path) -> list[str]:
    """Results in folders with a ledger that it does not name, so that uda itself would take them for foreign."""
    ledgers = [Ledger(path.parent) for path in out.rglob(LEDGER)]
    files = [(one, one.folder / name) for one in ledgers for name in result(one.folder)]
    return [path.relative_to(out).as_posix() for one, path in files if not one.owns(path)]


def cleared(world: World) -> None:
    for path in world.disk.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


# Lives ------------------------------------------------------------------------------------------------


def live(
    world: World,
    given: list[str],
    fault: Fault | None = None,
    before: Callable[[], Any] | None = None,
) -> int:
    """One life of a command: its exit code."""
    return ended(command, given, world.errors, fault or Fault(world.disk), before)


def begin(
    world: World, given: list[str], errors: Path, before: Callable[[], Any] | None = None
) -> Any:
    return started(command, given, errors, Fault(world.disk), before)


def expected(world: World, verb: Verb, *, other: bool = False, key: str = "") -> dict[str, bytes]:
    """What a verb leaves when nothing happens.

    Args:
        key: tells apart inputs that were edited.
    """
    name = f"{verb.name} {other} {key}"
    if name not in world.results:
        cleared(world)
        if code := live(world, verb.typed(world, other=other)):
            raise RuntimeError(f"{name} alone ended with {code}: {world.errors.read_text()}")
        world.results[name] = result(world.out)
        cleared(world)
    return world.results[name]


def refusal(world: World, code: int, errors: Path | None = None) -> str:
    """``refused`` where one clear message of ours ended it; else what was said."""
    told = (errors or world.errors).read_text(errors="replace")
    lines = told.splitlines()
    clear = sum(line.startswith("error: ") for line in lines) == 1 or "case(s) failed" in told
    clear = clear or (code == 2 and any(line.startswith(("fault ", "Usage: ")) for line in lines))
    bad = any(sign in told for sign in ("Traceback", "a bug in uda", "unexpected "))
    return "refused" if code in (1, 2) and clear and not bad else f"exit code {code}: {told[-600:]}"


def ended_as(
    world: World, code: int, right: Mapping[str, bytes], errors: Path | None = None
) -> str:
    """``exact``, ``refused``, or what was lost."""
    if code:
        return refusal(world, code, errors)
    found = {
        name: content
        for name, content in result(world.out).items()
        if name in right or not name.startswith("store/")  # stores of other content may stay
    }
    if found != dict(right):
        names = sorted(n for n in {*found, *right} if found.get(n) != right.get(n))
        return f"other bytes: {', '.join(names[:5])}"
    if rest := hidden(world.disk):
        return f"left {rest[0].relative_to(world.disk)}"
    if unnamed := unlisted(world.out):
        return f"not in the ledger: {unnamed[0]}"
    return "exact"
