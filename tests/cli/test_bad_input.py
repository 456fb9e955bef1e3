"""What people really hand in: each fault is refused with the file, what was expected, and what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from conftest import CLASSES, SIZE, SLICES, Tiny, make_case, write_nifti
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from uda import api
from uda.config.card import Prepare
from uda.config.loading import load_card, override
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.data.cases import Case, cases_in, cases_of
from uda.data.geometry import turn_to
from uda.data.store import open_store
from uda.data.volumes import prepare_image, read_volume
from uda.errors import ConfigError, DataError, ModelError, PriorError, UdaError
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.priors import Prior

CPU = Compute(device="cpu")
PREPARE = Prepare(size=(SIZE, SIZE))


def image() -> np.ndarray:
    return make_case(0, inverted=False)[0]


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    write_nifti(path, array, affine)


def cut(path: Path, share: float) -> None:
    save(path, image())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def wrong_checksum(path: Path) -> None:
    save(path, image())
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)


def with_value(value: float) -> np.ndarray:
    array = image().astype(np.float32)
    array[3, 4, 1] = value
    return array


def colour(path: Path) -> None:
    array = np.zeros((4, 4, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def flat_affine(path: Path) -> None:
    file = nibabel.Nifti1Image(image(), np.eye(4))
    file.header["sform_code"] = 1
    file.header["srow_z"] = 0
    file.to_filename(path)
    content = bytearray(path.read_bytes())
    content[312:328] = bytes(16)  # srow_z on disk
    path.write_bytes(content)


BAD_IMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "truncated gz": ("x.nii.gz", lambda p: cut(p, 0.5), "cannot be read as NIfTI"),
    "gz without its end": ("x.nii.gz", lambda p: cut(p, 0.98), "cannot be read as NIfTI"),
    "gz cut in the header": ("x.nii.gz", lambda p: cut(p, 0.01), "cannot be read as NIfTI"),
    "gz with a wrong checksum": ("x.nii.gz", wrong_checksum, "CRC check failed"),
    "truncated nii": ("x.nii", lambda p: cut(p, 0.5), "cannot be read as NIfTI"),
    "nii cut in the header": ("x.nii", lambda p: cut(p, 0.02), "cannot be read as NIfTI"),
    "empty file": ("x.nii.gz", lambda p: p.write_bytes(b""), "cannot be read as NIfTI"),
    "text named nii.gz": ("x.nii.gz", lambda p: p.write_text("hello"), "cannot be read as NIfTI"),
    "text named nii": ("x.nii", lambda p: p.write_text("hello" * 200), "cannot be read as NIfTI"),
    "text inside gz": (
        "x.nii.gz",
        lambda p: p.write_bytes(gzip.compress(b"hello" * 200)),
        "cannot be read as NIfTI",
    ),
    "missing file": ("x.nii.gz", lambda p: None, "there is no such file"),
    "folder named nii.gz": ("x.nii.gz", lambda p: p.mkdir(), "there is no such file"),
    "NaN voxel": ("x.nii.gz", lambda p: save(p, with_value(np.nan)), "1 voxels are NaN"),
    "infinite voxel": ("x.nii.gz", lambda p: save(p, with_value(-np.inf)), "1 voxels are NaN"),
    "2-D": ("x.nii.gz", lambda p: save(p, image()[..., 0]), f"has shape ({SIZE}, {SIZE})"),
    "4-D": (
        "x.nii.gz",
        lambda p: save(p, np.stack([image()] * 3, -1)),
        f"has shape ({SIZE}, {SIZE}, {SLICES}, 3)",
    ),
    "colour": ("x.nii.gz", colour, "not numbers"),
    "complex": ("x.nii.gz", lambda p: save(p, image().astype(np.complex64)), "not numbers"),
    "flat affine": ("x.nii", flat_affine, "its affine is not invertible"),
    "constant": (
        "x.nii.gz",
        lambda p: save(p, np.full((SIZE, SIZE, SLICES), 7, np.int16)),
        "the region of interest is constant (7)",
    ),
    "all zero": (
        "x.nii.gz",
        lambda p: save(p, np.zeros((SIZE, SIZE, SLICES), np.int16)),
        "the region of interest is constant (0)",
    ),
}


@pytest.mark.parametrize(
    ("name", "make", "expected"), BAD_IMAGES.values(), ids=[k.replace(" ", "-") for k in BAD_IMAGES]
)
def test_an_image_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, make: Callable[[Path], object], expected: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(DataError) as caught:
        prepare_image(read_volume(path), PREPARE, path)
    error = caught.value
    assert error.exit_code == 2
    assert expected in error.what
    assert error.where == path
    assert error.expected or error.fix
    assert str(path) in str(error)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 351), value=st.sampled_from([0, 1, 8, 64, 127, 128, 255]))
def test_a_damaged_header_is_refused_or_harmless_but_never_a_traceback(
    tmp_path: Path, position: int, value: int
) -> None:
    path = tmp_path / "x.nii"
    if not path.exists():
        save(path, image())
        (tmp_path / "sound").write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "sound").read_bytes())
    content[position] = value
    path.write_bytes(content)
    try:
        volume = read_volume(path)
    except DataError:
        return
    assert volume.array.ndim == 3
    assert np.isfinite(volume.array).all()
    assert np.isfinite(turn_to(volume.affine, "RAS")).all()


def labelled(tiny: Tiny) -> tuple[Any, list[Case], Path]:
    card = load_card(str(tiny.home / "source.yaml"))
    cases = cases_of(card, tiny.root, "train", labels=True)
    assert cases[1].label is not None
    return card, cases, cases[1].label


def raw_label() -> np.ndarray:
    return make_case(1, inverted=False)[1].astype(np.float32) * 10


def shifted() -> np.ndarray:
    affine = np.diag([1.5, 1.5, 4.0, 1.0])
    affine[2, 3] = 0.1
    return affine


BAD_LABELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "value outside the map": (lambda p: save(p, raw_label() + 1), "values the card 'source' does"),
    "half a value": (lambda p: save(p, raw_label() * 0.25), "values the card 'source' does"),
    "another shape": (lambda p: save(p, raw_label()[:-1]), "the label has shape (31, 32, 4)"),
    "another place": (lambda p: save(p, raw_label(), shifted()), "by up to 0.1 mm"),
    "another spacing": (lambda p: save(p, raw_label(), np.eye(4)), "by up to 3 mm"),
    "NaN": (lambda p: save(p, np.full_like(raw_label(), np.nan)), "voxels are NaN"),
    "truncated": (lambda p: cut(p, 0.5), "cannot be read as NIfTI"),
}


@pytest.mark.parametrize(
    ("make", "expected"), BAD_LABELS.values(), ids=[k.replace(" ", "-") for k in BAD_LABELS]
)
def test_a_label_that_does_not_fit_its_image_is_refused(
    tiny: Tiny, tmp_path: Path, make: Callable[[Path], object], expected: str
) -> None:
    card, cases, path = labelled(tiny)
    make(path)
    with pytest.raises(DataError) as caught:
        open_store(card, cases, tmp_path / "store")
    error = caught.value
    assert expected in error.what
    assert error.where == path
    assert error.expected
    assert error.fix


def test_missing_files_are_all_listed(tiny: Tiny) -> None:
    card = load_card(str(tiny.home / "source.yaml"))
    (tiny.root / "s/images/c0.nii.gz").unlink()
    (tiny.root / "s/labels/c1.nii.gz").unlink()
    with pytest.raises(DataError, match="2 faults in split 'train'") as caught:
        cases_of(card, tiny.root, "train", labels=True)
    assert str(tiny.root / "s/images/c0.nii.gz") in str(caught.value)
    assert str(tiny.root / "s/labels/c1.nii.gz") in str(caught.value)
    assert "data.root" in str(caught.value)


def test_a_wrong_root_is_refused(tiny: Tiny) -> None:
    card = load_card(str(tiny.home / "source.yaml"))
    with pytest.raises(DataError, match="there is no such folder of data") as caught:
        cases_of(card, tiny.root / "none", "train")
    assert "--root" in str(caught.value)


def test_an_unknown_split_is_answered_with_the_nearest_one(tiny: Tiny) -> None:
    card = load_card(str(tiny.home / "source.yaml"))
    with pytest.raises(ConfigError, match="has no split 'trian'") as caught:
        cases_of(card, tiny.root, "trian")
    assert "did you mean 'train'?" in str(caught.value)


def test_labels_a_card_does_not_have_are_refused(tiny: Tiny) -> None:
    card = override(load_card(str(tiny.home / "source.yaml")), ["labels=null"])
    with pytest.raises(ConfigError, match="names no labels"):
        cases_of(card, tiny.root, "train", labels=True)


def test_an_empty_split_is_refused(tiny: Tiny) -> None:
    card = override(load_card(str(tiny.home / "source.yaml")), ["splits.train=[]"])
    with pytest.raises(DataError, match="split 'train' of card 'source' is empty"):
        cases_of(card, tiny.root, "train")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no image here")
    (tmp_path / "._x.nii.gz").write_text("what macOS leaves behind")
    with pytest.raises(DataError) as caught:
        cases_in(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert ".nii.gz" in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        cases_in(tmp_path / "none")
    assert str(tmp_path / "none") in str(caught.value)


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", image())
    save(tmp_path / "a.nii.gz", image())
    with pytest.raises(DataError, match="two files of the case 'a'"):
        cases_in(tmp_path)


# one's own model on one's own images


def model_of(path: Path, classes: tuple[str, ...] = tuple(CLASSES), **changes: Any) -> Path:
    network = Network(channels=(4, 8), res_units=0)
    torch.manual_seed(0)
    info = ModelInfo(
        network=network,
        classes=classes,
        prepare=PREPARE,
        supervision=("source_labels",),
        **{"class_ratio": (0.8, 0.1, 0.1), "presence_ratio": (0.8, 0.1, 0.1), **changes},
    )
    save_model(path, build(network, len(classes)), info)
    return path


def images_of(folder: Path) -> Path:
    save(folder / "a.nii.gz", image())
    return folder


def test_a_model_of_another_number_of_classes_cannot_be_scored(tiny: Tiny, tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors", ("background", "disk"))
    with pytest.raises(ModelError, match="the model has 2 classes") as caught:
        api.evaluate_model(
            model, str(tiny.home / "target.yaml"), tiny.root, tmp_path / "out", compute=CPU
        )
    assert "the 3 of card 'target'" in str(caught.value)


def test_a_case_without_its_label_cannot_be_scored(tiny: Tiny, tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors")
    path = tiny.root / "t/labels/c2.nii.gz"
    path.unlink()
    with pytest.raises(DataError, match="there is no such file") as caught:
        api.evaluate_model(
            model, str(tiny.home / "target.yaml"), tiny.root, tmp_path / "out", compute=CPU
        )
    assert str(path) in str(caught.value)


def test_a_prior_that_does_not_sum_to_1_stops_adaptation_before_it_starts(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors")
    wrong = Prior(tuple(CLASSES), (0.0, 0.2, 0.1), ("target_tags",), "AdaMI's 'no tags' column")
    with pytest.raises(PriorError, match=r"ratio sums to 0\.3"):
        api.adapt(
            model,
            images_of(tmp_path / "images"),
            tmp_path / "out",
            method="adami",
            prior=wrong,
            compute=CPU,
        )
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_know_its_class_ratio_says_so(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors", class_ratio=None, presence_ratio=None)
    with pytest.raises(PriorError, match="does not know the class ratio") as caught:
        api.estimate_prior(model)
    assert "prior.json" in str(caught.value)


def test_an_unknown_method_is_answered_with_the_nearest_one(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors")
    with pytest.raises(ConfigError, match="there is no method 'admi'") as caught:
        api.adapt(model, images_of(tmp_path / "i"), tmp_path / "out", method="admi", compute=CPU)
    assert "did you mean" in str(caught.value)


@pytest.mark.parametrize("method", ["adabn", "minent"])
def test_adapting_to_a_bad_image_names_it_and_leaves_no_model(tmp_path: Path, method: str) -> None:
    model = model_of(tmp_path / "m.safetensors")
    folder = images_of(tmp_path / "images")
    (folder / "b.nii.gz").write_text("no image")
    with pytest.raises(DataError, match="cannot be read as NIfTI") as caught:
        api.adapt(model, folder, tmp_path / "out", method=method, compute=CPU)
    assert str(folder / "b.nii.gz") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_prior_file_of_other_classes_is_refused(tmp_path: Path) -> None:
    model = model_of(tmp_path / "m.safetensors")
    other = Prior(("background", "disk"), (0.8, 0.2), ("anatomical",), "by hand")
    with pytest.raises(PriorError, match="the prior is for the 2 classes"):
        api.adapt(
            model,
            images_of(tmp_path / "images"),
            tmp_path / "out",
            method="adami",
            prior=other,
            compute=CPU,
        )


def test_each_kind_of_fault_has_the_exit_code_of_bad_input() -> None:
    for kind in (ConfigError, DataError, PriorError, ModelError):
        assert kind("x").exit_code == 2
        assert issubclass(kind, UdaError)


def test_an_error_says_what_where_expected_and_fix_on_lines_of_their_own() -> None:
    error = DataError("it is broken", where="file", expected="it whole", fix="mend it")
    assert str(error).splitlines() == [
        "it is broken",
        "  where:    file",
        "  expected: it whole",
        "  fix:      mend it",
    ]
