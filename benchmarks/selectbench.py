"""What label-free scores of checkpoints are worth, in three steps that can be done apart.

    uda pretrain cardiac_bssfp_lge_methods data.root=DATA seed=0 --out ORDINARY/seed-0       # and other sources
    python benchmarks/selectbench.py train cardiac --root DATA --seed 0 --source ordinary=ORDINARY
    python benchmarks/selectbench.py judge cardiac --root DATA --seed 0 --source ordinary=ORDINARY
    python benchmarks/selectbench.py table

``train`` adapts from one source model a seed, methods × learning rates (`selectgrid.py`), and keeps a checkpoint every
few steps. A folder given as source holds ``seed-0/pretrain``, ``seed-1/pretrain``, …; without one the benchmark's own
recipe trains it. What is complete is not done again, and a killed call goes on; seeds and sources can run side by side.
``judge`` reads the kept checkpoints alone: all scores of ``uda.selection`` on the unlabelled target images and, apart
from them, the true score on the test images, a CSV for each training. ``table`` compares what each rule would pick;
with ``--variants`` it ranks the trainings of a source model by what the guard kept of each.
``--recipe`` runs a grid on other cards, for example in the reverse direction; give it an ``--out`` of its own.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from selectgrid import BENCHES, Bench
from selecttable import Run, table, variants

from uda.config.guard import Guard
from uda.config.loading import load_recipe
from uda.config.priors import SourceRatioPrior
from uda.config.recipe import Evaluate, Recipe
from uda.data.items import items_of
from uda.devices.device import deterministic, make_fabric
from uda.evaluation.photos import PhotoScorer
from uda.evaluation.rows import Scorer, Task, snapshots_in
from uda.evaluation.volumes import VolumeScorer
from uda.files.atomic import atomic_path, read_json, write_json
from uda.files.digests import sha256_of
from uda.files.output import lock
from uda.networks.model_file import MODEL_FILE, Trained, load_model
from uda.pipeline import run as pipeline
from uda.pipeline import stages
from uda.pipeline.domains import Domains
from uda.pipeline.stage_protocol import Stage, run_stage
from uda.priors import Prior
from uda.priors.estimate import Evidence, make_prior
from uda.selection import BEFORE, Candidate, Judge, UnlabelledImages, look
from uda.training.run import StageRun

AGAIN = 1000
"""what the seed of a repeated training is larger by"""
OWN = "own"
"""the source model that the benchmark's recipe trains"""


@dataclass(frozen=True)
class Trainings:
    """All trainings of a benchmark from one source model."""

    bench: Bench
    recipe: Recipe
    given: Path | None
    """folder of a run with a finished ``pretrain``, or None"""
    out: Path

    @cached_property
    def model(self) -> Path:
        """File of the source model; it is trained if none is given."""
        until = "pretrain" if self.given is None else "phantom"
        if self.given is None or self.recipe.data.phantom is not None:
            pipeline.run(self.recipe, self.out, until=until)
        return (self.given or self.out) / "pretrain" / MODEL_FILE

    @cached_property
    def domains(self) -> Domains:
        """Cards, images and test cases."""
        return Domains(self.recipe, self.out)

    def train(self, names: Iterable[str], repeat: bool) -> None:
        """Estimate AdaBN and adapt each variant, unless they are complete; with ``repeat`` from another seed too."""
        model = self.model
        with lock(self.out):
            planned = [self._adabn()]
            for name in names:
                planned.append(self._adapt(name, self.recipe.seed))
                if repeat:
                    planned.append(self._adapt(name, self.recipe.seed + AGAIN))
            for stage in planned:
                parents = {"model": sha256_of(model)}
                done = run_stage(stage, self.out / stage.name, parents, self.recipe.compute)
                print(f"{done.folder}: {done.seconds:.0f} s", flush=True)

    def _adabn(self) -> Stage:
        def body(folder: Path) -> dict[str, Any]:
            return stages.adabn(self._run("adabn", folder, self.recipe.seed), *self._inputs())

        return self._stage("adabn", None, body, self.recipe.seed)

    def _again(self, name: str) -> Path:
        """Where a variant's training from another seed lies."""
        return self.out / f"adapt-{name}_again"

    def _adapt(self, name: str, seed: int) -> Stage:
        settings = self.bench.settings(name)
        again = seed != self.recipe.seed

        def body(folder: Path) -> dict[str, Any]:
            parent, store, card = self._inputs()
            prior = self._prior(parent) if settings.prior else None
            run = self._run(f"adapt-{name}", folder, seed)
            return stages.adapt(run, parent, store, card, settings, prior)

        stage = self._again(name).name if again else f"adapt-{name}"
        return self._stage(stage, settings.model_dump(mode="json"), body, seed)

    def _stage(
        self, name: str, settings: Any, body: Callable[[Path], dict[str, Any]], seed: int
    ) -> Stage:
        seen = {"target/adapt": self.domains.key(self.domains.target, "adapt", False)}
        return Stage(name, settings, (), lambda: seen, body, also={"seed": seed})

    def _run(self, stage: str, folder: Path, seed: int) -> StageRun:
        return StageRun(seed, stage, folder, compute=self.recipe.compute, origin={})

    def _inputs(self) -> tuple[Trained, Any, Any]:
        """The source model, read anew because a training changes it; the target's images and card."""
        target = self.domains.target
        return Trained.load(self.model), self.domains.store(target, "adapt", False), target

    def _prior(self, parent: Trained) -> Prior:
        """The class ratio of the source model's training labels."""
        return make_prior(SourceRatioPrior(), parent, Evidence(), self.recipe.compute, seed=0)

    def judge(self, names: Iterable[str], again: bool) -> None:
        """Score the kept checkpoints of each variant, and write a CSV for each; with ``again`` also those judged."""
        files = {name: self.out / "judged" / f"{name}.csv" for name in names}
        missing = [name for name, path in files.items() if again or not path.is_file()]
        if not missing:
            return
        model = self.model
        with lock(self.out), deterministic():
            judge, truth = self._judge(), Truth(self._scorer, self.out / "truth")
            before = list(judge.candidates)
            at = {"source": model, "adabn": self.out / "adabn" / MODEL_FILE}
            known = truth.of("before", at)
            for name in missing:
                started = time.monotonic()
                paths = {
                    path.parent.name: path for path in snapshots_in(self.out / f"adapt-{name}")
                }
                judge.candidates = list(before)
                for step, path in paths.items():
                    judge.judge(path, int(step))
                judged = time.monotonic() - started
                rows = records(judge, known | truth.of(name, paths))
                others = {path.parent.name: path for path in snapshots_in(self._again(name))}
                for row in rows:
                    row["repeat_agreement"] = repeated(judge, row["name"], others.get(row["name"]))
                write_csv(files[name], rows)
                took = time.monotonic() - started
                print(f"{files[name]}: {judged:.0f} s, {took:.0f} s with the truth", flush=True)

    def _judge(self) -> Judge:
        fabric, target = make_fabric(self.recipe.compute), self.domains.target
        source, info = load_model(self.model)
        adabn, _ = load_model(self.out / "adabn")
        store, guard = self.domains.store(target, "adapt", False), Guard()
        for model in (source, adabn):
            model.to(fabric.device).to(memory_format=torch.channels_last)
        return Judge(
            UnlabelledImages(
                items_of(store, info.network.patch), guard.images, mirrored=target.photos
            ),
            info.classes,
            tuple(info.classes.index(name) for name in target.structures),
            None if info.class_ratio is None else torch.tensor(info.class_ratio),
            source,
            adabn,
            guard,
            fabric,
            self.recipe.seed,
            torch.channels_last,
            every=True,
        )

    @cached_property
    def _scorer(self) -> Scorer:
        """What opens the test labels; the judge has never heard of it."""
        card = self.domains.target
        _, info = load_model(self.out / "adabn")
        kind: type[PhotoScorer | VolumeScorer] = PhotoScorer if card.photos else VolumeScorer
        cases, settings = self.domains.cases(card, "test", True), Evaluate(distances=False)
        return kind(
            Task(cases, card, info, settings, make_fabric(self.recipe.compute), 0, self.out)
        )


@dataclass(frozen=True)
class Truth:
    """True scores of models, remembered by the content of their files."""

    scorer: Scorer
    folder: Path

    def of(self, name: str, models: dict[str, Path]) -> dict[str, float]:
        """The true score of each model, in points."""
        path = self.folder / f"{name}.json"
        known = read_json(path) if path.is_file() else {}
        digests = {one: sha256_of(model) for one, model in models.items()}
        for one, model in models.items():
            if digests[one] not in known:
                known[digests[one]] = 100 * self.scorer.mean(model)
        write_json(path, {digest: known[digest] for digest in digests.values()})
        return {one: known[digest] for one, digest in digests.items()}


def records(judge: Judge, true: dict[str, float]) -> list[dict[str, Any]]:
    """Scores of all candidates of a training, and among the safe ones, beside the truth."""
    everyone, safe = judge.scores(judge.candidates), judge.scores()
    checkpoints = judge.candidates[len(BEFORE) :]
    changed = {two.name: judge.agreement(one, two) for one, two in pairwise(checkpoints)}

    def record(one: Candidate) -> dict[str, Any]:
        scores = dataclasses.asdict(everyone[one.name])
        return {
            "name": one.name,
            "step": one.step,
            "true": true[one.name],
            "faults": "; ".join(one.faults),
            **scores,
            "agreement_safe": safe[one.name].agreement if one.name in safe else math.nan,
            "previous_agreement": changed.get(one.name, math.nan),
        }

    return [record(one) for one in judge.candidates]


def repeated(judge: Judge, name: str, path: Path | None) -> float:
    """Dice between a checkpoint's labels and those of the same step trained from another seed; NaN without one."""
    if path is None:
        return math.nan
    model, _ = load_model(path, known=judge.source)
    other = look(model.to(judge.fabric.device), judge.images, judge.fabric, judge.seed).labels
    labels = next(one.labels for one in judge.candidates if one.name == name).long()
    return float(judge.expected.dice(labels, other).mean())


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows; numbers have six digits, and NaN is an empty field."""

    def field(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return "" if math.isnan(value) else f"{value:.6g}"

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as work, work.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: field(value) for key, value in row.items()})


def read_csv(path: Path) -> list[dict[str, Any]]:
    """The rows that :func:`write_csv` wrote, numbers as numbers."""
    text = ("name", "faults", "bench", "source", "seed", "variant")
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {k: v if k in text else float(v) if v else math.nan for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def collected(out: Path) -> list[dict[str, Any]]:
    """Every row of every training under a folder, with what it belongs to."""
    rows = []
    for path in sorted(out.glob("*/*/seed-*/judged/*.csv")):
        bench, source, seed = path.parts[-5:-2]
        where = {"bench": bench, "source": source, "seed": seed.removeprefix("seed-")}
        rows += [{**where, "variant": path.stem, **row} for row in read_csv(path)]
    return rows


def runs_of(rows: Sequence[dict[str, Any]]) -> list[Run]:
    """The rows by training."""
    trainings: dict[tuple[str, str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["bench"], row["source"], row["seed"], row["variant"])
        trainings.setdefault(key, []).append(row)
    return [
        Run(bench, source, int(seed), variant, tuple(some))
        for (bench, source, seed, variant), some in trainings.items()
    ]


def trainings_of(given: argparse.Namespace) -> list[Trainings]:
    """The trainings that the command line asks for, a folder for each source model."""
    bench = BENCHES[given.bench]
    if given.steps:
        every = max(1, given.steps * bench.every // bench.steps)
        bench = dataclasses.replace(bench, steps=given.steps, every=every)
    where = [] if given.root is None else [f"data.root={given.root}"]
    settings = [f"seed={given.seed}", "compute.device=auto", *where]
    recipe = load_recipe(given.recipe or bench.recipe, settings)
    folders = dict(text.split("=", 1) for text in given.source) or {OWN: None}
    return [
        Trainings(
            bench,
            recipe,
            None if folder is None else Path(folder) / f"seed-{given.seed}",
            given.out / given.bench / kind / f"seed-{given.seed}",
        )
        for kind, folder in folders.items()
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    for step in ("train", "judge"):
        one = steps.add_parser(step)
        one.add_argument("bench", choices=list(BENCHES))
        one.add_argument("--root", type=Path, help="folder of the data; the phantom needs none")
        one.add_argument("--seed", type=int, default=0)
        one.add_argument("--source", action="append", default=[], metavar="KIND=FOLDER")
        one.add_argument("--recipe", help="another recipe for cards and source training")
        one.add_argument("--steps", type=int, help="shorter trainings, to try the commands")
        one.add_argument("--only", action="append", metavar="VARIANT", help="some variants alone")
        one.add_argument("--out", type=Path, default=Path("checkpoints/selectbench"))
        if step == "train":
            one.add_argument("--repeat", action="store_true", help="each also from another seed")
        if step == "judge":
            one.add_argument("--again", action="store_true", help="also what was judged before")
    one = steps.add_parser("table")
    one.add_argument("--out", type=Path, default=Path("checkpoints/selectbench"))
    one.add_argument("--write", type=Path, metavar="CSV", help="also write all rows into one file")
    one.add_argument("--read", type=Path, metavar="CSV", help="rows of such a file instead")
    one.add_argument("--seeds", help="some seeds alone, as 1,2")
    one.add_argument("--variants", action="store_true", help="rank the trainings of a source model")
    return parser.parse_args()


def main() -> None:
    """Do one of the three steps."""
    given = arguments()
    if given.step == "table":
        rows = read_csv(given.read) if given.read else collected(given.out)
        if given.write:
            write_csv(given.write, rows)
        seeds = given.seeds.split(",") if given.seeds else {row["seed"] for row in rows}
        runs = runs_of([row for row in rows if row["seed"] in seeds])
        print(variants(runs) if given.variants else table(runs))
        return
    for trainings in trainings_of(given):
        names = given.only or list(trainings.bench.variants)
        if given.step == "train":
            trainings.train(names, given.repeat)
        else:
            trainings.judge(names, given.again)


if __name__ == "__main__":
    main()
