"""What label-free scores of checkpoints are worth: rank correlation, regret to the oracle, collapsed picks.

    python benchmarks/selectbench.py --cardiac FOLDER --driving FOLDER --seeds 0,1,2

Trains methods × learning rates × weights from one source model a seed, stores a checkpoint every few steps, gives each
the scores of ``uda.selection`` on the unlabelled target images and, apart from that, its true score on the test
images. Without a folder that benchmark is left out; the phantom makes its own data. What is complete is not done again;
``--table`` only prints. The grids below were written before any of these runs was scored.
"""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from selecttable import Run, table

from uda.config.guard import Guard
from uda.config.loading import load_recipe, parse
from uda.config.recipe import Adapt, Evaluate, Recipe
from uda.data.items import items_of
from uda.devices.device import deterministic, make_fabric
from uda.evaluation.photos import PhotoScorer
from uda.evaluation.rows import Scorer, Task
from uda.evaluation.volumes import VolumeScorer
from uda.files.atomic import read_json, write_json
from uda.networks.model_file import load_model
from uda.pipeline import run as pipeline
from uda.pipeline.domains import Domains
from uda.selection import Candidate, Judge, UnlabelledImages

SURE = {"portion": 0.6, "portion_limit": 0.6, "confidence": "pixel"}
TEACHER = {"term": "pseudo_labels", "teacher": "ema", **SURE}
RATIO = {"term": "class_ratio_kl", "direction": "prior_to_prediction", "over": "batch"}


def weighted_ratio(weight: float) -> dict[str, Any]:
    """AdaMI with another weight of its class ratio."""
    terms = [
        {"term": "entropy", "normalized": False, "class_weights": "inverse_ratio"},
        {"term": "class_ratio_kl", "direction": "prediction_to_prior", "over": "batch"},
    ]
    return {"objective": [terms[0], {**terms[1], "weight": weight}]}


@dataclass(frozen=True)
class Bench:
    """One data set: whose source models, how long, and which variants."""

    recipe: str
    steps: int
    every: int
    batch: int
    variants: dict[str, dict[str, Any]]


def variant(preset: str, lr: float, **more: Any) -> dict[str, Any]:
    """One line of a grid."""
    return {"preset": preset, "lr": lr, **more}


BENCHES = {
    "phantom": Bench(
        "cardiac_phantom",
        steps=100,
        every=20,
        batch=16,
        variants={
            "minent_1e-5": variant("minent", 1e-5),
            "minent_1e-4": variant("minent", 1e-4),
            "minent_1e-3": variant("minent", 1e-3),
            "maxsquare_1e-4": variant("maxsquare", 1e-4),
            "adami_1e-5": variant("adami", 1e-5),
            "adami_1e-4": variant("adami", 1e-4),
            "adami_1e-3": variant("adami", 1e-3),
            "adami_x0.1_1e-4": variant("adami", 1e-4, **weighted_ratio(0.1)),
            "im_1e-4": variant("im", 1e-4),
            "cbst_1e-4": variant("cbst", 1e-4),
            "teacher_1e-4": variant("mean_teacher", 1e-4),
            "teacher_1e-3": variant("mean_teacher", 1e-3),
        },
    ),
    "cardiac": Bench(
        "cardiac_bssfp_lge_methods",
        steps=240,
        every=40,
        batch=8,
        variants={
            "minent_1e-4": variant("minent", 1e-4),
            "minent_1e-3": variant("minent", 1e-3),
            "adami_1e-4": variant("adami", 1e-4),
            "adami_1e-3": variant("adami", 1e-3),
            "adami_x0.1_3e-4": variant("adami", 3e-4, **weighted_ratio(0.1)),
            "im_1e-4": variant("im", 1e-4),
            "cbst_1e-4": variant("cbst", 1e-4),
            "crst_1e-4": variant("crst", 1e-4),
            "teacher_1e-4": variant("mean_teacher", 1e-4),
            "teacher_1e-3": variant("mean_teacher", 1e-3),
        },
    ),
    "driving": Bench(
        "driving_day_dusk",
        steps=200,
        every=40,
        batch=4,
        variants={
            "minent_1e-4": variant("minent", 1e-4),
            "minent_1e-3": variant("minent", 1e-3),
            "maxsquare_1e-4": variant("maxsquare", 1e-4),
            "adami_1e-5": variant("adami", 1e-5),
            "adami_1e-4": variant("adami", 1e-4),
            "adami_x0.1_1e-4": variant("adami", 1e-4, **weighted_ratio(0.1)),
            "im_1e-4": variant("im", 1e-4),
            "cbst_1e-4": variant("cbst", 1e-4),
            "teacher_1e-4": variant("street_teacher", 1e-4),
            "teacher_1e-3": variant("street_teacher", 1e-3),
        },
    ),
}


def recipe_of(bench: Bench, root: Path | None, seed: int) -> Recipe:
    """The benchmark's recipe with the grid in place of its variants; everything before them is its own."""
    where = [f"data.root={root}"] if root else []
    recipe = load_recipe(bench.recipe, [f"seed={seed}", "compute.device=auto", *where])
    common = {
        "steps": bench.steps,
        "batch": bench.batch,
        "snapshot_every": bench.every,
        "select": "last",
    }
    variants = {}
    for name, raw in bench.variants.items():
        needs = raw["preset"] == "adami"
        settings = {**common, **raw, "prior": "ratio" if needs else None}
        variants[name] = parse(Adapt, settings, name)
    return recipe.model_copy(update={"adapt": variants})


def judge_of(recipe: Recipe, domains: Domains, out: Path) -> Judge:
    """The judge of a seed's runs."""
    fabric = make_fabric(recipe.compute)
    source, info = load_model(out / "pretrain")
    adabn, _ = load_model(out / "adabn")
    photos, guard = domains.target.photos, Guard()
    store = domains.store(domains.target, "adapt", False)
    return Judge(
        UnlabelledImages(items_of(store, info.network.patch), guard.images, mirrored=photos),
        info.classes,
        tuple(range(0 if photos else 1, len(info.classes))),
        None if info.class_ratio is None else torch.tensor(info.class_ratio),
        source.to(fabric.device),
        adabn.to(fabric.device),
        guard,
        fabric,
        recipe.seed,
    )


def scorer_of(recipe: Recipe, domains: Domains, out: Path) -> Scorer:
    """What opens the test labels; the judge has never heard of it."""
    card = domains.target
    _, info = load_model(out / "adabn")
    kind: type[PhotoScorer | VolumeScorer] = PhotoScorer if card.photos else VolumeScorer
    cases, settings = domains.cases(card, "test", True), Evaluate(distances=False)
    return kind(Task(cases, card, info, settings, make_fabric(recipe.compute), 0, out))


def run_seed(bench: Bench, root: Path | None, seed: int, out: Path) -> None:
    """Train, judge and score everything of one seed that is not there yet."""
    recipe = recipe_of(bench, root, seed)
    pipeline.run(recipe, out, until="adabn")
    pipeline.run(recipe, out, until="prior")
    missing = [name for name in recipe.adapt if not (out / "judged" / f"{name}.json").is_file()]
    if not missing:
        return
    domains = Domains(recipe, out)
    with deterministic():
        judge, scorer = judge_of(recipe, domains, out), scorer_of(recipe, domains, out)
        before = list(judge.candidates)
        truths = {"source": scorer.mean(out / "pretrain"), "adabn": scorer.mean(out / "adabn")}
        for name in missing:
            pipeline.run(recipe, out, until=f"adapt-{name}")
            judge.candidates = list(before)
            true = dict(truths)
            for path in sorted((out / f"adapt-{name}" / "snapshots").glob("*/model.safetensors")):
                candidate = judge.judge(path, int(path.parent.name))
                true[candidate.name] = scorer.mean(path)
            write_json(out / "judged" / f"{name}.json", records(judge, true))
            print(f"{out} {name}", flush=True)


def records(judge: Judge, true: dict[str, float]) -> list[dict[str, Any]]:
    """Scores of all candidates of a run, and among the safe ones, beside the truth."""
    everyone, safe = judge.scores(judge.candidates), judge.scores()

    def record(one: Candidate) -> dict[str, Any]:
        return {
            "name": one.name,
            "step": one.step,
            "true": 100 * true[one.name],
            "faults": list(one.faults),
            "scores": dataclasses.asdict(everyone[one.name]),
            "agreement_safe": safe[one.name].agreement if one.name in safe else None,
        }

    return [record(one) for one in judge.candidates]


def found(out: Path) -> list[Run]:
    """Everything that was judged."""
    return [
        Run(
            name, int(path.parents[1].name.removeprefix("seed-")), path.stem, tuple(read_json(path))
        )
        for name in BENCHES
        for path in sorted((out / name).glob("seed-*/judged/*.json"))
    ]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cardiac", type=Path)
    parser.add_argument("--driving", type=Path)
    parser.add_argument("--only", choices=list(BENCHES))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/selectbench"))
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    roots = {"phantom": None, "cardiac": given.cardiac, "driving": given.driving}
    for name, bench in BENCHES.items():
        asked = given.only in (None, name) and (name == "phantom" or roots[name] is not None)
        if asked and not given.table:
            for seed in given.seeds.split(","):
                run_seed(bench, roots[name], int(seed), given.out / name / f"seed-{seed}")
    print(table(found(given.out)))


if __name__ == "__main__":
    main()
