"""Flipped bits, cut and missing files: found by name, made again or refused, never used in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from fault_injection import contents, hidden

from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.data import store as store_module
from uda.data.cases import cases_of
from uda.data.store import open_store
from uda.errors import ModelError, UdaError
from uda.files.atomic import load_tensors, save_tensors
from uda.networks.model_file import load_model
from uda.pipeline import run as pipeline
from uda.training import state

Damage = Callable[[Path], None]


def run(tiny: Tiny, out: Path, until: str = "adapt", restart: bool = False) -> None:
    pipeline.run(tiny.load(), out, until=until, restart=restart)


def flip(path: Path, at: float = 0.7) -> None:
    """One bit, at a share of the file."""
    held = bytearray(path.read_bytes())
    held[int(at * len(held))] ^= 4
    path.write_bytes(held)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


class Stopped(BaseException):
    """Ends a run on the spot."""


def interrupted(tiny: Tiny, out: Path, monkeypatch: pytest.MonkeyPatch, saves: int) -> Path:
    """Pretraining stopped after so many checkpoints; returns its folder."""
    save, left = state.save_tensors, saves

    def counted(*given: Any, **named: Any) -> None:
        nonlocal left
        save(*given, **named)
        left -= 1
        if not left:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_tensors", counted)
        with pytest.raises(Stopped):
            run(tiny, out, "pretrain")
    (folder,) = out.glob(".pretrain.*")
    return folder


# Tensor files ---------------------------------------------------------------------------------------


def test_no_flipped_bit_of_a_tensor_file_goes_unnoticed(tmp_path: Path) -> None:
    """Every bit: refused by name, or (in the padding of the header) without meaning."""
    tensors = {
        "a": torch.arange(3, dtype=torch.float32),
        "b": torch.tensor(7, dtype=torch.int64),
        "c": torch.zeros(0, 2),
        "d": torch.ones(2, 2, dtype=torch.bfloat16),
    }
    path = tmp_path / "x.safetensors"
    save_tensors(path, tensors, {"step": "3", "said": "grün"})
    whole = path.read_bytes()
    refused, read = 0, 0
    for bit in range(8 * len(whole)):
        held = bytearray(whole)
        held[bit // 8] ^= 1 << bit % 8
        path.write_bytes(held)
        try:
            found, said = load_tensors(path)
        except ModelError as error:
            refused += error.where == path
            continue
        assert set(found) == set(tensors)
        assert all(torch.equal(found[name], value) for name, value in tensors.items())
        assert (said["step"], said["said"]) == ("3", "grün")
        read += 1
    assert refused + read == 8 * len(whole)
    assert refused > 0.8 * 8 * len(whole)


def test_equal_tensors_are_equal_bytes(tmp_path: Path) -> None:
    for number in range(8):
        said = {name: name for name in ("z", "step", "a", "m")}
        save_tensors(tmp_path / f"{number}", {"x": torch.ones(2)}, said)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


# Checkpoints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_checkpoint_is_named_and_the_older_one_gives_the_same_weights(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
) -> None:
    folder = interrupted(tiny, tmp_path / "run", monkeypatch, saves=2)
    damage(folder / "resume.safetensors")
    run(tiny, tmp_path / "run", "pretrain")
    said = " ".join(capsys.readouterr().err.split())
    assert str(folder / "resume.safetensors") in said
    assert "going on from resume.older.safetensors, step 2" in said
    run(tiny, tmp_path / "straight", "pretrain")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")
    assert hidden(tmp_path / "run") == []


def test_a_damaged_log_of_a_stopped_run_does_not_matter(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted(tiny, tmp_path / "run", monkeypatch, saves=2)
    flip(folder / "metrics.csv", 0.9)
    run(tiny, tmp_path / "run", "pretrain")
    run(tiny, tmp_path / "straight", "pretrain")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


@pytest.mark.parametrize("saves", [1, 2])
def test_without_a_sound_checkpoint_the_stage_stops_and_restart_helps(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saves: int
) -> None:
    folder = interrupted(tiny, tmp_path / "run", monkeypatch, saves)
    damaged = sorted(folder.glob("resume*.safetensors"))
    assert len(damaged) == saves
    for path in damaged:
        flip(path)
    held = contents(tmp_path / "run")
    with pytest.raises(ModelError, match="checksum") as error:
        run(tiny, tmp_path / "run")
    assert all(path.name in error.value.what for path in damaged)
    assert "--restart" in str(error.value.fix)
    assert contents(tmp_path / "run") == held
    run(tiny, tmp_path / "run", "pretrain", restart=True)
    run(tiny, tmp_path / "straight", "pretrain")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


def test_killed_between_the_two_checkpoints_the_older_one_serves_without_a_word(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = interrupted(tiny, tmp_path / "run", monkeypatch, saves=1)
    (folder / "resume.safetensors").rename(folder / "resume.older.safetensors")
    run(tiny, tmp_path / "run", "pretrain")
    assert capsys.readouterr().err == ""
    run(tiny, tmp_path / "straight", "pretrain")
    assert contents(tmp_path / "run") == contents(tmp_path / "straight")


# Complete stages ------------------------------------------------------------------------------------


def other_number(path: Path) -> None:
    raw = json.loads(path.read_text())
    raw["ratio"] = raw["ratio"][::-1]
    path.write_text(json.dumps(raw))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("pretrain/model.safetensors", flip),
        ("pretrain/model.safetensors", Path.unlink),
        ("prior-tags/prior.json", other_number),
    ],
)
def test_what_a_stage_wrote_is_checked_before_the_next_reads_it(
    finished: Path, tiny: Tiny, file: str, damage: Damage
) -> None:
    out = finished
    expected = contents(out)
    shutil.rmtree(out / "adapt-adami_tags")
    damage(out / file)
    stage = Path(file).parts[0]
    with pytest.raises(ModelError, match=f"stage '{stage}' wrote it") as error:
        run(tiny, out, "adapt-adami_tags")
    assert error.value.where == out / file
    assert "--restart" in str(error.value.fix)
    assert not (out / "adapt-adami_tags").exists()
    shutil.rmtree(out / stage)
    run(tiny, out, "adapt-adami_tags")
    assert contents(out) == expected


def test_a_damaged_model_of_ones_own_is_refused(finished: Path) -> None:
    model = finished / "pretrain" / "model.safetensors"
    flip(model)
    with pytest.raises(ModelError, match="checksum") as error:
        load_model(model)
    assert error.value.where == model


# Stores ---------------------------------------------------------------------------------------------


def made(tiny: Tiny, root: Path) -> Path:
    """A store, looked at as a process would that comes later."""
    store_module._intact_once.clear()
    card: DatasetCard = load_card(str(tiny.home / "source.yaml"))
    return open_store(card, cases_of(card, tiny.root, "train", labels=True), root).folder


@pytest.mark.parametrize("damage", [flip, cut, empty, Path.unlink])
@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "index.json"])
def test_a_damaged_store_is_made_again(
    tiny: Tiny, tmp_path: Path, name: str, damage: Damage
) -> None:
    folder = made(tiny, tmp_path)
    expected = contents(tmp_path)
    damage(folder / name)
    made(tiny, tmp_path)
    assert contents(tmp_path) == expected
    assert hidden(tmp_path) == []


def test_no_flipped_bit_of_an_index_goes_unnoticed(tiny: Tiny, tmp_path: Path) -> None:
    """A flipped digit would move a case, and every file would still be there."""
    folder = made(tiny, tmp_path)
    index, key = folder / "index.json", json.loads((folder / "index.json").read_text())["key"]
    whole = index.read_bytes()
    meaning = json.loads(whole)
    for at in range(len(whole)):
        held = bytearray(whole)
        held[at] ^= 1
        index.write_bytes(held)
        store_module._intact_once.clear()
        if store_module._intact(folder, key):
            assert json.loads(held) == meaning


def test_a_store_under_the_name_of_another_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    folder = made(tiny, tmp_path / "a")
    card = load_card(str(tiny.home / "source.yaml"))
    cases = cases_of(card, tiny.root, "validate", labels=True)
    other = open_store(card, cases, tmp_path / "b").folder
    shutil.rmtree(folder)
    shutil.copytree(other, folder)
    expected = contents(tmp_path / "a")
    with pytest.raises(UdaError, match="not of the store that this run makes"):
        made(tiny, tmp_path / "a")
    assert contents(tmp_path / "a") == expected


def test_a_damaged_store_whose_files_are_gone_is_not_trained_on(tiny: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(tiny, out, "pretrain")
    for path in (out / "store").rglob("*.npy"):
        flip(path)
    shutil.rmtree(tiny.root / "t")
    store_module._intact_once.clear()
    with pytest.raises(UdaError):
        run(tiny, out, "adapt-minent")
    assert not (out / "adapt-minent").exists()
