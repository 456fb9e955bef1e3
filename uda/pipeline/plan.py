"""Turn a recipe into stages with their settings, input files and parent stages."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from uda.config.networks import DeepLab
from uda.config.postprocess import POST, Postprocess
from uda.config.priors import (
    NEEDS_SOURCE,
    NEEDS_TAGS,
    NEEDS_TARGET,
    RUNS_NETWORK,
    PriorSpec,
    SizeCsvPrior,
)
from uda.config.recipe import FIRST, PLACE, Adapt, Pretrain, Recipe
from uda.devices.distributed import on_first
from uda.errors import ConfigError, DataError
from uda.evaluation.evaluate import evaluate, metrics_of
from uda.evaluation.rows import Row
from uda.files.atomic import read_json, write_json
from uda.files.digests import fingerprint, sha256_of
from uda.files.stage_folder import STAGE_FILE
from uda.networks.model_file import MODEL_FILE, Trained
from uda.networks.weights import fetch_weights
from uda.pipeline.domains import Domains
from uda.pipeline.environment import environment
from uda.pipeline.network_fit import check_adaptation, check_sides
from uda.pipeline.pretraining import train_supervised
from uda.pipeline.rendering import render_data
from uda.pipeline.stage_protocol import Stage
from uda.pipeline.stages import adabn, adapt, estimate_prior
from uda.priors import Prior
from uda.priors.estimate import Evidence, card_tags
from uda.report.page import write_report
from uda.report.schema import METRICS_FILE
from uda.training.run import StageRun

KEPT = ("select", "kept", "step", "fallback", "why", "ended")
"""Entries of a stage's selection record that its row in ``metrics.json`` repeats."""


POOR_SOURCE = (
    "The model of {} is poor where it was trained: all {} predictions of the source's own labelled images had a Dice "
    "below {:.0f}. Train it longer before anything here is compared."
)
NO_BATCHNORM = (
    "The network has no BatchNorm, so adabn changes nothing and equals source_only. Row views is a baseline without "
    "training in its place: the source model's mean probabilities over views of an image."
)


def plan(recipe: Recipe, out: Path, quiet: bool = True) -> list[Stage]:
    """The stages of a recipe, every parent before its children.

    Raises:
        ConfigError: settings that do not fit the cards.
    """
    return _Planner(recipe, out, quiet).stages()


class _Planner:
    """Turns a recipe into stages. The body of a stage runs if the stage is missing or changed."""

    def __init__(self, recipe: Recipe, out: Path, quiet: bool) -> None:
        self.recipe, self.out, self.quiet = recipe, out, quiet
        self.domains = Domains(recipe, out)
        check_sides(recipe, self.domains.source, self.domains.target)
        annotated = any(variant.annotations for variant in recipe.adapt.values())
        annotated = annotated or any(isinstance(one, NEEDS_TAGS) for one in recipe.prior.values())
        rendered = render_data(recipe.data, self.domains, annotated)
        self.rendering = [] if rendered is None else [rendered]
        self.data_parents = tuple(stage.name for stage in self.rendering)

    @cached_property
    def common(self) -> dict[str, Any]:
        """Settings that every training stage depends on; the device is not one of them."""
        compute = self.recipe.compute.model_dump(mode="json", exclude=set(PLACE))
        network = self.recipe.network.model_dump(mode="json")
        return {"seed": self.recipe.seed, "compute": compute, "network": network}

    def stages(self) -> list[Stage]:
        recipe = self.recipe
        stages = [*self.rendering, *(self._pretrain(source) for source in self.trainings)]
        stages += [self._prior(name, FIRST) for name in recipe.prior]
        others = [(v.prior, source) for source, v in recipe.variants.values() if source != FIRST]
        stages += [self._prior(name, source) for name, source in dict.fromkeys(others) if name]
        stages += [self._adabn(source) for source in self.trainings]
        stages += [self._adapt(row, *of) for row, of in recipe.variants.items()]
        if recipe.target_supervised:
            stages.append(self._target_supervised())
        stages.append(self._evaluate())
        stages.append(self._report())
        return stages

    def _run(self, folder: Path, stage: str, draws: str = "") -> StageRun:
        """The run of a stage.

        Args:
            draws: the stage whose random draws it has; default its own.
        """
        recipe = self.recipe
        origin = {"recipe": recipe.name, "stage": stage, "seed": str(recipe.seed)}
        own = draws or stage
        return StageRun(recipe.seed, own, folder, self.quiet, compute=recipe.compute, origin=origin)

    @property
    def trainings(self) -> dict[str, Pretrain]:
        """Every source training."""
        return {FIRST: self.recipe.pretrain, **self.recipe.sources}

    def _source_model(self, training: str) -> Trained:
        return Trained.load(self.out / stage_of("pretrain", training))

    def _pretrain(self, training: str) -> Stage:
        domains, recipe = self.domains, self.recipe
        stage, settings = stage_of("pretrain", training), self.trainings[training]
        source, validated = domains.source, "validate" in domains.source.splits
        where = FIRST if training == FIRST else f"sources.{training}"
        if settings.augment.class_bezier and not source.photos and source.prepare.channels > 1:
            raise ConfigError(
                "class_bezier goes by the labels of the middle slice, but the network sees the neighbours too",
                where=f"{where}.augment.class_bezier",
                expected="images of one slice (prepare.slab: 1)",
                fix=f"set class_bezier: null in {where}.augment, where generalize stands too",
            )
        if settings.select == "perturbed" and not validated:
            raise ConfigError(
                f"select: perturbed needs labelled validation images, but card {source.name!r} has none",
                where=f"{where}.select",
                expected="a split `validate` of the source",
                fix=f"add one to the source's card or to data.splits.source, or set {where}.select=last",
            )

        labelled = not settings.annotations

        def data() -> dict[str, str]:
            keys = {"source/train": domains.key(source, "train", labelled)}
            if settings.annotations:
                keys["source/annotations"] = domains.annotations(source, "train").digest
            if validated:
                keys["source/validate"] = domains.key(source, "validate", True)
            return {**keys, **self._weights_data()}

        def body(folder: Path) -> dict[str, Any]:
            on_first(lambda: fetch_weights(recipe.network))  # before hours of preparation
            return train_supervised(
                self._run(folder, stage, draws="pretrain"),  # alike weights and batches at first
                recipe.network,
                source,
                domains.store(source, "train", labelled),
                settings,
                "source_labels",
                domains.store(source, "validate", True) if validated else None,
                domains.annotations(source, "train") if settings.annotations else None,
            )

        hashed = {**self.common, "train": settings.model_dump(mode="json")}
        return Stage(stage, hashed, self.data_parents, data, body, shared=True)

    def _weights_data(self) -> dict[str, str]:
        """Hash of a backbone's weights file; the names of ImageNet weights contain their hash."""
        network = self.recipe.network
        if not isinstance(network, DeepLab) or network.weights in ("none", "imagenet"):
            return {}
        file = Path(network.weights).expanduser()
        if not file.is_file():
            raise DataError("there is no such file", where=file, fix="correct network.weights")
        return {"network/weights": sha256_of(file)}

    def _target_supervised(self) -> Stage:
        domains, recipe = self.domains, self.recipe
        target, split = domains.target, domains.supervised
        training = recipe.pretrain.model_copy(update={"select": "last"})

        def data() -> dict[str, str]:
            keys = {f"target/{split}": domains.key(target, split, True)}
            return {**keys, **self._weights_data()}

        def body(folder: Path) -> dict[str, Any]:
            store = domains.store(target, split, True)
            record = train_supervised(
                self._run(folder, "target_supervised"),
                recipe.network,
                target,
                store,
                training,
                "target_labels",
            )
            cases = [case.name for case in store.cases]
            return {**record, "trained_on": {"split": f"target/{split}", "cases": cases}}

        settings = {**self.common, "train": training.model_dump(mode="json")}
        return Stage("target_supervised", settings, self.data_parents, data, body, shared=True)

    def _prior(self, name: str, training: str) -> Stage:
        spec, stage = self.recipe.prior[name], stage_of(f"prior-{name}", training)

        def body(folder: Path) -> dict[str, Any]:
            run, evidence = self._run(folder, stage), self._evidence(spec)
            return estimate_prior(run, spec, self._source_model(training), evidence)

        settings = spec.model_dump(mode="json")
        if isinstance(spec, RUNS_NETWORK):
            settings |= {key: self.common[key] for key in ("seed", "compute")}
        parents = (stage_of("pretrain", training),)
        return Stage(stage, settings, parents, lambda: self._prior_data(spec), body)

    def _prior_data(self, spec: PriorSpec) -> dict[str, str]:
        """Hashes of the files that a kind of prior reads."""
        domains, keys = self.domains, dict[str, str]()
        target = domains.target
        if isinstance(spec, NEEDS_SOURCE):
            keys["source/train"] = domains.key(domains.source, "train", True)
        if isinstance(spec, NEEDS_TARGET):
            keys["target/adapt"] = domains.key(target, "adapt", False)
        if isinstance(spec, NEEDS_TAGS) and target.tags is not None:
            keys["target/tags"] = _text_hash(domains.root / target.root / target.tags)
            keys["target/adapt names"] = fingerprint(target.splits.get("adapt", ()))
        if isinstance(spec, SizeCsvPrior):
            keys["target/sizes"] = _text_hash(domains.root / spec.file)
        return keys

    def _evidence(self, spec: PriorSpec) -> Evidence:
        domains = self.domains
        source, target = isinstance(spec, NEEDS_SOURCE), isinstance(spec, NEEDS_TARGET)
        return Evidence(
            target=domains.store(domains.target, "adapt", False) if target else None,
            source=domains.store(domains.source, "train", True) if source else None,
            tags=card_tags(domains.target, domains.root) if isinstance(spec, NEEDS_TAGS) else None,
            sizes=domains.root / spec.file if isinstance(spec, SizeCsvPrior) else None,
        )

    def _target_data(self) -> dict[str, str]:
        return {"target/adapt": self.domains.key(self.domains.target, "adapt", False)}

    def _adabn(self, training: str) -> Stage:
        domains, stage = self.domains, stage_of("adabn", training)

        def body(folder: Path) -> dict[str, Any]:
            store = domains.store(domains.target, "adapt", False)
            run = self._run(folder, stage, draws="adabn")
            return adabn(run, self._source_model(training), store, domains.target)

        parents = (stage_of("pretrain", training),)
        return Stage(stage, self.common, parents, self._target_data, body)

    def _adapt(self, row: str, training: str, variant: Adapt) -> Stage:
        domains, stage = self.domains, f"adapt-{row}"
        source, model = domains.source, stage_of("pretrain", training)
        known = stage_of(f"prior-{variant.prior}", training) if variant.prior else None
        check_adaptation(variant, self.recipe.network, f"adapt.{row}")

        def data() -> dict[str, str]:
            keys = self._target_data()
            if not variant.source_free:
                keys["source/train"] = domains.key(source, "train", True)
            if variant.annotations:
                keys["target/annotations"] = domains.annotations(domains.target, "adapt").digest
            return keys

        def body(folder: Path) -> dict[str, Any]:
            prior = Prior.load(self.out / known) if known else None
            return adapt(
                self._run(folder, stage),
                self._source_model(training),
                domains.store(domains.target, "adapt", False),
                domains.target,
                variant,
                prior,
                None if variant.source_free else domains.store(source, "train", True),
                domains.annotations(domains.target, "adapt") if variant.annotations else None,
            )

        parents = (model, known) if known else (model,)
        unused = {"source"} if variant.select == "guarded" else {"source", "guard"}
        settings = {**self.common, "adapt": variant.model_dump(mode="json", exclude=unused)}
        return Stage(stage, settings, parents, data, body, shared=True)

    def _rows(self) -> list[Row]:
        rows = []
        for name, of in (("source_only", "pretrain"), ("adabn", "adabn")):
            for training in self.trainings:
                shown = name if training == FIRST else f"{training}_{name}"
                rows.append(self._row(shown, stage_of(of, training), training))
        for name, (training, variant) in self.recipe.variants.items():
            oracle = variant.select == "oracle"
            rows.append(self._row(name, f"adapt-{name}", training, oracle))
        if self.recipe.target_supervised:
            rows.append(self._row("target_supervised", "target_supervised"))
        return rows

    def _poor_sources(self) -> list[str]:
        """A warning for each source training whose model failed on its own labelled images."""
        found = []
        for training in self.trainings:
            limits = self._source_model(training).info.limits
            if limits is not None and limits.all_poor:
                name = "source_only" if training == FIRST else f"{training}_source_only"
                found.append(POOR_SOURCE.format(name, limits.predictions, 100 * limits.dice))
        return found

    def _views(self) -> list[Row]:
        """The baseline in place of ``adabn`` for source models without BatchNorm: the mean over views of an image."""
        steps = Postprocess.averaging(self.domains.target.photos)
        rows = []
        for training in self.trainings:
            if not read_json(self.out / stage_of("adabn", training) / STAGE_FILE).get(
                "batchnorm", True
            ):
                name = "views" if training == FIRST else f"{training}_views"
                row = self._row(name, stage_of("pretrain", training), training)
                rows.append(replace(row, steps=steps))
        return rows

    def _row(self, name: str, stage: str, training: str = FIRST, oracle: bool = False) -> Row:
        source = "" if training == FIRST else training
        return Row(name, stage, self.out / stage / MODEL_FILE, oracle=oracle, source=source)

    def _evaluate(self) -> Stage:
        domains, recipe = self.domains, self.recipe
        target, rows = domains.target, self._rows()
        recipe.evaluate.postprocess.check(target.structures, target.photos)

        def data() -> dict[str, str]:
            return {"target/test": domains.key(target, "test", True)}

        def body(folder: Path) -> dict[str, Any]:
            cases = domains.cases(target, "test", True)
            views = self._views()
            listed = [
                *rows[:-1],
                *views,
                rows[-1],
            ]  # the last row's model has the target's preparation
            result = evaluate(listed, cases, target, recipe.evaluate, recipe.compute, folder)
            result["rules"] += [NO_BATCHNORM] if views else []
            result["rules"] += self._poor_sources()
            env = {**environment(recipe.compute), "seed": recipe.seed}
            metrics = metrics_of(recipe.name, target, result, env, data()["target/test"])
            metrics["rows"] = [self._told(row) for row in metrics["rows"]]
            if recipe.published:
                metrics["published"] = [row.model_dump() for row in recipe.published]
            on_first(lambda: write_json(folder / METRICS_FILE, metrics))
            return {"supervision": ["target_labels"]}

        settings = {
            "evaluate": recipe.evaluate.model_dump(mode="json"),
            "unit": target.distance_unit,
            "published": [row.model_dump() for row in recipe.published],
        }
        parents = tuple(dict.fromkeys(row.stage for row in rows))
        return Stage("evaluate", settings, parents, data, body, shared=True)

    def _told(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the table with its stage's record of the selected checkpoint, or the split that trained it."""
        if row["stage"] == "target_supervised":
            return {**row, "trained_on": f"target/{self.domains.supervised}"}
        record = read_json(self.out / row["stage"] / STAGE_FILE).get("selection")
        if record is None or row["name"].removesuffix(POST) not in self.recipe.variants:
            return row
        return {**row, "selection": {key: record[key] for key in KEPT}}

    def _report(self) -> Stage:
        def body(folder: Path) -> dict[str, Any]:
            write_report(self.out, folder)
            return {"supervision": ["target_labels"]}

        return Stage("report", {}, ("evaluate",), dict, body)


def stage_of(kind: str, training: str) -> str:
    """Name of the stage of a kind that belongs to a source training: ``pretrain``, ``pretrain-generalised``."""
    return kind if training == FIRST else f"{kind}-{training}"


def _text_hash(path: Path) -> str:
    """Hash of a text file; a missing file raises later, when the stage reads it."""
    return fingerprint(path.read_text(errors="replace") if path.is_file() else None)
