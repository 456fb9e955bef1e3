"""Evaluation: with its two scorers the only module that opens target labels.

Every row of the table predicts the same test images on their own grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from uda.config.card import DatasetCard
from uda.config.recipe import Compute, Evaluate
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
) -> dict[str, Any]:
    """Score every row, write ``cases.csv`` and the overlays, return the rows of ``metrics.json``.

    Returns:
        ``{"rows": [...]}`` in the form the README documents, with ``data`` and ``rules``; where the settings
        ask for it ``conventions``, the rows by another paper's rules (:mod:`uda.evaluation.sifa`).

    Raises:
        ConfigError: a convention that is not for this kind of images.
    """
    with deterministic():
        fabric = make_fabric(compute)
        # Adapted models, unlike the first row, carry the target's preparation; all rows see the same images.
        _, info = load_model(rows[-1].model)
        kind: type[PhotoScorer | VolumeScorer] = PhotoScorer if card.photos else VolumeScorer
        _check_convention(settings, card)
        scorer: Scorer = kind(Task(cases, card, info, settings, fabric, compute.workers, out))
        table: list[dict[str, Any]] = []
        for row in rows:
            table.append(_oracle(scorer, row, row.name) if row.oracle else scorer.row(row))
            if settings.oracle and not row.oracle and snapshots_in(row.model.parent):
                table.append(_oracle(scorer, row, f"{row.name}_oracle"))
        adapted = [r for r in table[1:] if "target_labels" not in r["supervision"]] or table
        ranked = max(adapted, key=lambda r: r[scorer.measure]["mean"] or 0.0)["name"]
        on_first(lambda: scorer.write(ranked))
    result = {"rows": table, "rules": list(scorer.rules), "data": {"cases": len(cases)}}
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
    """What ``metrics.json`` says: the result of :func:`evaluate`, and what a reader needs to judge it.

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
            f"evaluate.convention {settings.convention!r} is not for the images of card {card.name!r}",
            expected="sifa for volumes, multi_scale for photographs, ours for both",
        )


def _oracle(scorer: Scorer, row: Row, name: str) -> dict[str, Any]:
    """The snapshot of this row that the test labels like best: what selection could gain at most."""
    best = max(snapshots_in(row.model.parent), key=scorer.mean)
    return scorer.row(replace(row, name=name, model=best), extra=("target_labels",))
