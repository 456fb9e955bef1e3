"""A part with a life of its own is kept in the checkpoint: killed and resumed, the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scene import Killed, dying, objective_of, same, term, train

from uda.config.terms import Term

LIVES: dict[str, Term] = {
    "round teacher": term("pseudo_labels", round_steps=3),
    "average teacher": term("pseudo_labels", teacher="ema", decay=0.5, round_steps=3),
    "soft labels": term("pseudo_labels", soft=0.25, mrkld=0.1, round_steps=5),
    "spatial": term("pseudo_labels", spatial=True, confidence="pixel", round_steps=3),
    "views": term("pseudo_labels", views=3, prune="median", largest="ignore", round_steps=3),
    "centroids": term("centroid_pseudo_labels", round_steps=3, pixels=20),
    "adversary": term("adversarial", weight=0.1, width=4),
    "dual": term("dual_class_ratio", rate=0.3),
}
WITH_LABELS = term("cross_entropy")
MOVING: dict[str, Any] = {"augment": {"rotate": 20, "flip": True, "noise": 0.1}}


@pytest.mark.parametrize("life", LIVES)
def test_killed_between_two_rounds_and_resumed_it_ends_with_the_same_bits(
    life: str, tmp_path: Path
) -> None:
    both = [WITH_LABELS, LIVES[life]]
    whole, parts = train(tmp_path / "whole", both, steps=8, **MOVING)
    with pytest.raises(Killed):
        train(tmp_path / "cut", both, steps=8, batches=dying, **MOVING)
    resumed, again = train(tmp_path / "cut", both, steps=8, **MOVING)
    assert same(whole, resumed)
    first, second = parts.state(), again.state()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("life", LIVES)
def test_without_what_the_checkpoint_holds_of_it_the_weights_would_differ(
    life: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [WITH_LABELS, LIVES[life]]
    whole, _ = train(tmp_path / "whole", both, steps=8, **MOVING)
    with pytest.raises(Killed):
        train(tmp_path / "cut", both, steps=8, batches=dying, **MOVING)
    forgetful = objective_of(*both)
    kept = forgetful.state

    def forget(state: Any) -> None:
        forgetful.begin(0)

    monkeypatch.setattr(forgetful, "load", forget)
    resumed, _ = train(tmp_path / "cut", both, objective=forgetful, steps=8, **MOVING)
    assert kept().keys() == forgetful.state().keys()
    assert not same(whole, resumed)
