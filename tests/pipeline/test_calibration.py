"""Limits of predictions: from the source's labels alone, the same each time, and carried to every adapted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Tiny

from uda.config.recipe import Compute
from uda.devices.device import make_fabric
from uda.networks.model_file import load_model
from uda.pipeline.calibration import DRAWS, STRENGTHS, calibrated, mean_dice
from uda.pipeline.domains import Domains


def test_limits_come_from_training_and_perturbed_validation_cases_and_are_carried_along(
    finished: Path, tiny: Tiny
) -> None:
    model, info = load_model(finished / "pretrain")
    assert info.limits is not None
    assert info.limits.predictions == 2 + 1 + STRENGTHS * DRAWS
    for stage in ("adabn", "adapt-minent"):
        assert load_model(finished / stage)[1].limits == info.limits
    domains = Domains(tiny.load(), finished)
    train, validation = (domains.store(domains.source, s, True) for s in ("train", "validate"))
    fabric = make_fabric(Compute(device="cpu"))
    model.eval()
    assert calibrated(model, info, train, validation, fabric, 0) == info.limits


def test_dice_is_over_the_structures_of_either_map_and_leaves_out_what_is_ignored() -> None:
    label = np.array([[[1, 1, 0, 255]]], np.uint8)
    assert mean_dice(np.array([[[1, 0, 0, 1]]]), label, 3) == pytest.approx(2 / 3)
    assert mean_dice(np.array([[[1, 1, 2, 0]]]), label, 3) == pytest.approx(0.5)
    assert np.isnan(mean_dice(np.zeros((1, 1, 2), int), np.zeros((1, 1, 2), np.uint8), 3))
