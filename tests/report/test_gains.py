"""The gains of source training and of adaptation stand apart in the table of the report."""

from __future__ import annotations

from typing import Any

import pytest

from uda.report.sections import results


def row(name: str, dice: float, *supervision: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "supervision": list(supervision), "dice": {"mean": dice}, **more}


ROWS = [
    row("source_only", 0.60, "source_labels"),
    row("generalised_source_only", 0.75, "source_labels", source="generalised"),
    row("minent", 0.70, "source_labels"),
    row("generalised_minent", 0.80, "source_labels", source="generalised"),
    row("target_supervised", 0.90, "target_labels"),
]


def test_a_row_is_compared_with_its_own_source_model() -> None:
    """The upper bound began with none of them."""
    found = results({"rows": ROWS}, ledger=False)
    gains = {"generalised_minent": 0.05, "minent": 0.10}
    assert found["gains"] == pytest.approx(gains)
    trained = {"source_only": 0.0, "generalised_source_only": 0.15}
    assert found["trained"] == pytest.approx({**trained, "minent": 0.0, "generalised_minent": 0.15})


def test_with_one_source_model_every_row_is_compared_with_it() -> None:
    found = results({"rows": [one for one in ROWS if "source" not in one]}, ledger=False)
    assert found["gains"] == pytest.approx({"minent": 0.10, "target_supervised": 0.30})
    assert found["trained"] == {}
