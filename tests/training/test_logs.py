"""The logged pictures of a run show one slice of each image, also of volumes and slabs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from uda.training.logs import RunLog


def grid_of(folder: Path, monkeypatch: pytest.MonkeyPatch, image: Tensor, logits: Tensor) -> Tensor:
    shown: list[Tensor] = []
    with RunLog(folder, "stage", 1, 0, quiet=True) as log:
        monkeypatch.setattr(log._board, "add_image", lambda name, grid, step: shown.append(grid))
        log.images(1, image, logits)
    return shown[0]


def test_of_a_volume_the_middle_slice_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    image, logits = (torch.randn(2, c, 5, 8, 8, generator=draw) for c in (1, 3))
    flat = grid_of(tmp_path / "a", monkeypatch, image[:, :, 2], logits[:, :, 2])
    assert torch.equal(grid_of(tmp_path / "b", monkeypatch, image, logits), flat)
    assert float(flat.std()) > 0


def test_of_a_slab_the_slice_itself_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(0)
    image, logits = (torch.randn(2, 3, 8, 8, generator=draw) for _ in range(2))
    alone = grid_of(tmp_path / "a", monkeypatch, image[:, 1:2], logits)
    assert torch.equal(grid_of(tmp_path / "b", monkeypatch, image, logits), alone)
