"""A finished prediction is recognised by its content: image, model, settings; and the user's files stay."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import CLASSES, SIZE, make_case, write_nifti
from PIL import Image

from uda import predict
from uda.config.card import PhotoPrepare, Prepare
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.errors import ConfigError, DataError, RunError
from uda.files.ledger import LEDGER
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.prediction.outcome import Outcome

CPU = Compute(device="cpu")


def model_file(path: Path, prepare: Prepare | PhotoPrepare, seed: int = 0) -> Path:
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(network, tuple(CLASSES), prepare, ("none",), origin={})
    torch.manual_seed(seed)
    save_model(path / "model.safetensors", build(network, len(CLASSES), prepare.channels), info)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model"), Prepare(size=(SIZE, SIZE)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(2):
        write_nifti(tmp_path / "in" / f"c{number}.nii.gz", make_case(number, False)[0])
    return tmp_path / "in"


def call(model: Path, images: Path, out: Path, **options: Any) -> dict[str, Outcome]:
    return {one.case: one for one in predict(model, images, out, compute=CPU, **options)}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_time(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("kind", ["another shape", "same size and time"])
def test_another_image_of_the_same_name_is_predicted_again(
    model: Path, images: Path, tmp_path: Path, kind: str
) -> None:
    out, path = tmp_path / "out", images / "c0.nii"
    (images / "c0.nii.gz").unlink()
    array = make_case(0, False)[0]
    write_nifti(path, array)
    first = call(model, images, out)
    assert not first["c0"].skipped
    status = path.stat()
    changed = np.ascontiguousarray(
        array[::-1, :, ::-1] if kind == "same size and time" else array[:-2]
    )
    write_nifti(path, changed)
    same_time(path, status)
    again = call(model, images, out)
    assert [again[name].skipped for name in ("c0", "c1")] == [False, True]
    assert nibabel.load(out / "c0.nii.gz").shape == changed.shape
    write_nifti(tmp_path / "alone" / "c0.nii", changed)
    call(model, tmp_path / "alone", tmp_path / "fresh")
    written, fresh = (nibabel.load(place / "c0.nii.gz") for place in (out, tmp_path / "fresh"))
    np.testing.assert_array_equal(np.asarray(written.dataobj), np.asarray(fresh.dataobj))
    assert again["c0"].made_from["image"] != first["c0"].made_from["image"]


def test_the_same_image_elsewhere_is_finished(model: Path, images: Path, tmp_path: Path) -> None:
    call(model, images, tmp_path / "out")
    shutil.copytree(images, tmp_path / "moved")
    assert all(one.skipped for one in call(model, tmp_path / "moved", tmp_path / "out").values())
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    assert all(one.skipped for one in call(model, images, tmp_path / "copy").values())


def test_the_entropy_of_another_image_does_not_stay(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call(model, images, out, entropy=True)
    write_nifti(images / "c0.nii.gz", make_case(7, True)[0])
    call(model, images, out)
    assert [path.name for path in out.glob("*_entropy*")] == ["c1_entropy.nii.gz"]


def test_the_mask_of_another_image_does_not_stay_where_the_new_one_fails(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call(model, images, out)
    (images / "c0.nii.gz").write_bytes(b"damaged")
    assert call(model, images, out)["c0"].fault
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["c1.nii.gz"]


def test_other_settings_are_predicted_again(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(model, images, out)
    half = Compute(device="cpu", precision="bf16-mixed")
    assert not any(one.skipped for one in predict(model, images, out, compute=half))
    assert not any(one.skipped for one in predict(model, images, out, compute=CPU))
    assert all(one.skipped for one in predict(model, images, out, compute=CPU))


def test_an_edit_during_the_reading_is_noticed(
    model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from uda.prediction import folder

    read = folder.read_case

    def edited(case: Any, *rest: Any) -> Any:
        prepared = read(case, *rest)
        if case.name == "c0":
            status = case.image.stat()
            write_nifti(case.image, make_case(5, True)[0])
            same_time(case.image, status)
        return prepared

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_case", edited)
        found = call(model, images, tmp_path / "out")
    assert "changed while it was read" in found["c0"].fault
    assert not (tmp_path / "out" / "c0.nii.gz").exists()
    assert found["c1"].fault == ""


def test_a_corrected_mask_is_kept_and_told(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    call(model, images, out)
    write_nifti(out / "c0.nii.gz", np.ones((SIZE, SIZE, 4), np.uint8))
    before = (out / "c0.nii.gz").read_bytes()
    again = call(model, images, out)
    assert [(again[name].skipped, again[name].edited) for name in ("c0", "c1")] == [
        (True, True),
        (True, False),
    ]
    with_entropy = call(model, images, out, entropy=True)
    assert with_entropy["c0"].edited
    assert not with_entropy["c0"].skipped
    call(model, images, tmp_path / "fresh", entropy=True)
    for name in ("c0_entropy.nii.gz", "c1_entropy.nii.gz"):
        assert (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    assert all(one.skipped for one in call(model, images, out, entropy=True).values())
    assert (out / "c0.nii.gz").read_bytes() == before
    write_nifti(images / "c0.nii.gz", make_case(7, True)[0])
    assert "changed after uda wrote" in call(model, images, out)["c0"].fault
    assert (out / "c0.nii.gz").read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "c0.nii.gz",
        "cases/c0.json",
        "cases/c0.jpg",
        "prediction.json",
        "predictions.json",
        "report.html",
    ],
)
def test_a_file_that_uda_did_not_write_is_named_before_anything_is_written(
    model: Path, images: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(DataError, match="not written by uda, and would be replaced") as refused:
        call(model, images, tmp_path / "out")
    assert str(path) in str(refused.value)
    assert contents(tmp_path / "out") == {str(path): b"mine"}


@pytest.mark.parametrize("name", ["cases/c0.json", "cases/c0.jpg"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_changed_record_or_picture_is_not_replaced(
    model: Path, images: Path, tmp_path: Path, name: str, listed: bool
) -> None:
    out = tmp_path / "out"
    if listed:  # by a ledger that somebody else made, with another content
        (out / "cases").mkdir(parents=True)
        line = json.dumps({"file": name, "sha256": "0" * 64})
        (out / LEDGER).write_text(line + "\n")
    else:
        call(model, images, out)
        write_nifti(images / "c0.nii.gz", make_case(7, True)[0])
    (out / name).write_text("mine")
    if name.endswith(".json"):
        with pytest.raises(DataError, match="changed after uda wrote it"):
            call(model, images, out)
    else:
        assert "changed after uda wrote it" in call(model, images, out)["c0"].fault
    assert (out / name).read_text() == "mine"


def test_a_changed_entropy_map_does_not_stay_beside_the_mask_of_another_image(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    call(model, images, out, entropy=True)
    write_nifti(out / "c0_entropy.nii.gz", np.ones((SIZE, SIZE, 4), np.uint8))
    before = (out / "c0_entropy.nii.gz").read_bytes(), (out / "c0.nii.gz").read_bytes()
    write_nifti(images / "c0.nii.gz", make_case(7, True)[0])
    assert "c0_entropy.nii.gz" in call(model, images, out)["c0"].fault
    assert ((out / "c0_entropy.nii.gz").read_bytes(), (out / "c0.nii.gz").read_bytes()) == before


def test_a_backup_of_hard_links_does_not_change(model: Path, images: Path, tmp_path: Path) -> None:
    out, backup = tmp_path / "out", tmp_path / "backup"
    call(model, images, out)
    shutil.copytree(out, backup, copy_function=os.link)
    before = contents(backup)
    write_nifti(images / "c0.nii.gz", make_case(7, True)[0])
    call(model, images, out)
    assert contents(backup) == before
    assert not call(model, images, out)["c0"].edited
    assert [path.name for path in out.glob(".*")] == [LEDGER]


def test_other_files_in_the_folder_stay(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "cases").mkdir(parents=True)
    for name in ("notes.txt", "cases/notes.txt", "other.nii.gz", "c0_entropy.nii.gz"):
        (out / name).write_text("mine")
    before = contents(out)
    call(model, images, out)
    assert before.items() <= contents(out).items()
    with pytest.raises(DataError, match=r"c0_entropy\.nii\.gz"):
        call(model, images, out, entropy=True)


@pytest.mark.parametrize("where", ["in", "in/masks", ".", "link"])
def test_images_are_never_replaced(model: Path, images: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "link").symlink_to(images)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="of the same command"):
        call(model, images, tmp_path / where)
    assert contents(tmp_path) == before


def test_photographs_are_never_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "in"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"p{number}.png")
    prepare = PhotoPrepare(kind="photo", size=(32, 32))
    model = model_file(tmp_path / "model", prepare)
    before = contents(photos)
    with pytest.raises(DataError, match="of the same command"):
        call(model, photos, photos)
    assert len(call(model, photos, tmp_path / "out")) == 2
    assert all(one.skipped for one in call(model, photos, tmp_path / "out").values())
    assert contents(photos) == before


def test_a_model_is_never_replaced(model: Path, images: Path, tmp_path: Path) -> None:
    mine = tmp_path / "model"
    shutil.copytree(model, mine)
    before = contents(mine)
    for given in (mine, mine / "model.safetensors"):
        with pytest.raises(DataError, match="of the same command"):
            call(given, images, mine)
    assert contents(mine) == before
    call(mine, images, mine / "masks")
    assert before.items() <= contents(mine).items()


def test_of_two_models_in_one_folder_the_second_is_refused(
    model: Path, images: Path, tmp_path: Path
) -> None:
    other = model_file(tmp_path / "other", Prepare(size=(SIZE, SIZE)), seed=1)
    out = tmp_path / "out"
    running = predict(model, images, out, compute=CPU)
    next(running)
    with pytest.raises(RunError, match="another run is writing"):
        call(other, images, out)
    assert len(list(running)) == 1
    before = contents(out)
    with pytest.raises(DataError, match="predictions of another model"):
        call(other, images, out)
    assert contents(out) == before


def test_other_steps_are_predicted_again_and_recorded(
    model: Path, images: Path, tmp_path: Path
) -> None:
    out, steps = tmp_path / "out", {"smooth": 2, "largest": ["disk"]}
    plain = call(model, images, out, entropy=True)["c0"]
    before = contents(out)
    assert "postprocess" not in plain.made_from
    stepped = call(model, images, out, postprocess=steps)
    assert not any(one.skipped for one in stepped.values())
    assert stepped["c0"].steps == 'smooth: 2.0, largest: ["disk"]'
    record = json.loads((out / "cases" / "c0.json").read_text())
    assert record["made_from"]["postprocess"] == stepped["c0"].steps
    assert not list(out.glob("*_entropy*"))  # those of other probabilities
    assert all(one.skipped for one in call(model, images, out, postprocess=steps).values())
    again = call(model, images, out, postprocess={"smooth": 2})
    assert not any(one.skipped for one in again.values())
    call(model, images, out, entropy=True)
    after = contents(out)
    assert {name: data for name, data in after.items() if LEDGER not in name} == {
        name: data for name, data in before.items() if LEDGER not in name
    }


def test_steps_that_do_not_fit_the_model_are_refused_before_anything_is_written(
    model: Path, images: Path, tmp_path: Path
) -> None:
    for steps, says in (({"largest": ["disc"]}, "no structure 'disc'"), ({"views": 2}, "views")):
        with pytest.raises(ConfigError, match=says):
            call(model, images, tmp_path / "out", postprocess=steps)
    with pytest.raises(ConfigError, match="unknown key 'view'"):
        call(model, images, tmp_path / "out", postprocess={"view": 5})
    with pytest.raises(ConfigError, match="no set of steps 'best'"):
        call(model, images, tmp_path / "out", postprocess="best")
    assert not (tmp_path / "out").exists()
