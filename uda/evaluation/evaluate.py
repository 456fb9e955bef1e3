"""Evaluation: score every row of the table on the same test images, on the grid of each file.

In a run, only its two scorers and the stage ``target_supervised`` open target labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from uda.config.card import DatasetCard
from uda.config.postprocess import POST
from uda.config.recipe import LAST, Compute, Evaluate
from uda.data.cases import Case
from uda.devices.device import deterministic, make_fabric
from uda.devices.distributed import on_first
from uda.errors import ConfigError
from uda.evaluation.photos import PhotoScorer
from uda.evaluation.rows import Row, Scorer, Task, snapshots_in
from uda.evaluation.volumes import VolumeScorer
from uda.networks.model_file import load_model


def evaluate(
    rows: Sequence[Row],
    cases: Sequence[Case],
    card: DatasetCard,
    settings: Evaluate,
    compute: Compute,
    out: Path,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Score every row, write ``cases.csv`` and the overlays, and return entries of ``metrics.json``.

    Args:
        trust_code: run the code of rows that are TorchScript programs.

    Returns:
        ``rows``, ``rules`` and ``data``; with a second convention in the settings also ``conventions``, such as
        the rows scored as in a paper (:mod:`uda.evaluation.sifa`).

    Raises:
        ConfigError: the convention does not apply to this kind of images.
    """
    with deterministic():
        fabric = make_fabric(compute)
        # The last row's model has the target's preparation, unlike the first; it prepares the images of all rows.
        _, info = load_model(rows[-1].model, trust_code=trust_code)
        kind: type[PhotoScorer | VolumeScorer] = PhotoScorer if card.photos else VolumeScorer
        _check_convention(settings, card)
        task = Task(cases, card, info, settings, fabric, compute.workers, out, trust_code)
        scorer: Scorer = kind(task)
        table: list[dict[str, Any]] = []
        steps = settings.postprocess
        for row, extra in _listed(rows, settings, scorer):
            origin = {"source": row.source} if row.source else {}
            own = {"postprocess": row.steps.record()} if row.steps.on else {}
            table.append({**scorer.row(row, extra), **origin, **own})
            if steps.on and not own:
                stepped = scorer.row(replace(row, name=f"{row.name}{POST}", steps=steps), extra)
                table.append({**stepped, **origin, "postprocess": steps.record()})
        # pictures compare models, not steps of prediction or of one training
        plain = [r for r in table if "postprocess" not in r and not r["name"].endswith(LAST)]
        adapted = [r for r in plain[1:] if "target_labels" not in r["supervision"]] or plain
        ranked = max(adapted, key=lambda r: r[scorer.measure]["mean"] or 0.0)["name"]
        on_first(lambda: scorer.write(ranked))
    rules = [*scorer.rules, *([steps.rule] if steps.on else [])]
    result = {"rows": table, "rules": rules, "data": {"cases": len(cases)}}
    if conventions := scorer.conventions():
        result["conventions"] = conventions
    return result


def metrics_of(
    title: str,
    card: DatasetCard,
    result: Mapping[str, Any],
    environment: Mapping[str, Any],
    fingerprint: str,
) -> dict[str, Any]:
    """Content of ``metrics.json``: the result of :func:`evaluate` with classes, environment and data.

    Args:
        title: of the table: a recipe's name, or a model and its data.
        environment: versions, hardware and seed.
        fingerprint: of the test data.
    """
    return {
        "recipe": title,
        "classes": list(card.structures),
        "colors": {name: list(color) for name, color in card.colors.items()},
        "distance_unit": card.distance_unit,
        "rows": result["rows"],
        "environment": environment,
        "data": {**result["data"], "fingerprint": fingerprint},
        "rules": result["rules"],
        **{key: value for key, value in result.items() if key == "conventions"},
    }


def _check_convention(settings: Evaluate, card: DatasetCard) -> None:
    fits = {"sifa": not card.photos, "multi_scale": card.photos}
    if not fits.get(settings.convention, True):
        raise ConfigError(
            f"convention {settings.convention!r} does not apply to the images of card {card.name!r}",
            where="evaluate.convention",
            expected="sifa for volumes, multi_scale for photographs, ours for both",
        )


def _listed(
    rows: Sequence[Row], settings: Evaluate, scorer: Scorer
) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Every row of the table, and what is added to its ledger."""
    for row in rows:
        yield (_oracle(scorer, row), ("target_labels",)) if row.oracle else (row, ())
        if settings.oracle and not row.oracle and snapshots_in(row.model.parent):
            yield _oracle(scorer, replace(row, name=f"{row.name}_oracle")), ("target_labels",)
        if settings.last and not row.oracle and (snapshots := snapshots_in(row.model.parent)):
            last = snapshots[-1]
            if load_model(last)[1].step != load_model(row.model)[1].step:
                yield replace(row, name=f"{row.name}{LAST}", model=last), ()


def _oracle(scorer: Scorer, row: Row) -> Row:
    """The row with its snapshot that has the best mean score on the test labels, the upper bound of selection.

    A training without steps has its model alone.
    """
    return replace(row, model=max(snapshots_in(row.model.parent) or [row.model], key=scorer.mean))
