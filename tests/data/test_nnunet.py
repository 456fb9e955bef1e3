"""Data sets of nnU-Net and the Decathlon become cards; a dataset.json with false statements is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml
from conftest import SIZE, make_case, write_nifti
from typer.testing import CliRunner

from uda.cli.check import check
from uda.config.card import DatasetCard
from uda.config.loading import load_card
from uda.data.cases import Case, cases_of
from uda.data.nnunet import read_listing, write_card
from uda.data.sources import read_label
from uda.errors import DataError, UdaError

APP = typer.Typer()
APP.command()(check)
V2: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "left ventricle": 1, "ring": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


def run(*words: object) -> tuple[int, str]:
    """Exit code of ``uda check …`` and its output."""
    result = CliRunner().invoke(APP, [str(word) for word in words])
    if isinstance(result.exception, UdaError):
        return result.exception.exit_code, f"{result.output}{result.exception}"
    return result.exit_code, result.output


def write(folder: Path, raw: dict[str, Any], channel: str = "_0000", tests: int = 0) -> Path:
    """Files of six labelled cases a1 … a10 (out of natural order on purpose) and a ``dataset.json``."""
    for number, name in enumerate(["a1", "a2", "a3", "a4", "a9", "a10"]):
        image, label = make_case(number, inverted=False)
        write_nifti(folder / f"imagesTr/{name}{channel}.nii.gz", image - np.int16(500))
        write_nifti(folder / f"labelsTr/{name}.nii.gz", label)
    for number in range(tests):
        image, _ = make_case(20 + number, inverted=False)
        write_nifti(folder / f"imagesTs/t{number}{channel}.nii.gz", image - np.int16(500))
    (folder / "dataset.json").write_text(json.dumps(raw))
    return folder


def listed(folder: Path, **raw: Any) -> dict[str, Any]:
    """The JSON of nnU-Net v1 and of the Decathlon."""
    names = ["a1", "a2", "a3", "a4", "a9", "a10"]
    pairs = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    return {
        "name": "Heart",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "left ventricle", "2": "ring"},
        "numTraining": 6,
        "training": pairs,
        "test": ["./imagesTs/t0.nii.gz"],
        **raw,
    }


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return write(tmp_path / "Dataset027_Heart", V2)


def made(folder: Path) -> DatasetCard:
    written = write_card(read_listing(folder))
    card = load_card(str(written.path))
    assert card == written.card
    return card


def test_nnunet_v2_becomes_a_card_that_reads_its_files(v2: Path) -> None:
    card = made(v2)
    assert (card.name, card.modality) == ("Dataset027_Heart", "ct")
    assert card.classes == ("background", "left_ventricle", "ring")
    assert card.label_values == {"background": (0,), "left_ventricle": (1,), "ring": (2,)}
    assert card.images == ("imagesTr/{case}_0000.nii.gz",)
    assert card.labels == ("labelsTr/{case}.nii.gz",)
    assert card.splits == {
        "train": ("a1", "a2", "a3", "a4", "a10"),
        "validate": ("a9",),
        "adapt": ("a1", "a2", "a3", "a4", "a9", "a10"),
    }
    cases = cases_of(card, None, "train", labels=True)
    assert [c.image.name for c in cases][:2] == ["a1_0000.nii.gz", "a2_0000.nii.gz"]
    assert read_label(cases[0], card).array.max() == 2


@pytest.mark.parametrize("channel", ["", "_0000"], ids=["decathlon", "nnunet-v1"])
def test_lists_of_files_become_the_same_splits(v2: Path, channel: str) -> None:
    folder = write(v2.parent / "Task02", listed(v2), channel, tests=1)
    (folder / "imagesTr/._a1.nii.gz").write_bytes(b"left by another system")
    card = made(folder)
    assert (card.title, card.modality) == ("Heart", "mr")
    assert card.images == (
        f"imagesTr/{{case}}{channel}.nii.gz",
        f"imagesTs/{{case}}{channel}.nii.gz",
    )
    assert card.splits["adapt"] == ("t0",)
    assert card.splits["validate"] == ("a9",)
    assert [c.name for c in cases_of(card, None, "adapt")] == ["t0"]


@pytest.mark.parametrize("counted", [0, 1])
def test_hidden_files_of_a_list_are_left_out(v2: Path, counted: int) -> None:
    raw = listed(v2, numTraining=6 + counted)
    raw["training"].insert(
        1, {"image": "./imagesTr/._a1.nii.gz", "label": "./labelsTr/._a1.nii.gz"}
    )
    raw["test"].append("./imagesTs/._t0.nii.gz")
    card = made(write(v2.parent / "Task02", raw, "", tests=1))
    assert len(card.splits["train"]) == 5
    assert card.splits["adapt"] == ("t0",)


def test_a_mapping_of_files_becomes_patterns(v2: Path) -> None:
    folder = v2.parent / "mapped"
    entries = {}
    for name in ("case1", "case2"):
        image, label = make_case(0, inverted=False)
        write_nifti(folder / f"{name}/{name}_image.nii.gz", image)
        write_nifti(folder / f"{name}/truth.nii.gz", label)
        entries[name] = {"images": [f"{name}/{name}_image.nii.gz"], "label": f"{name}/truth.nii.gz"}
    raw = {**V2, "numTraining": 2, "dataset": entries}
    (folder / "dataset.json").write_text(json.dumps(raw))
    card = made(folder)
    assert card.images == ("{case}/{case}_image.nii.gz",)
    assert card.labels == ("{case}/truth.nii.gz",)
    assert card.splits == {"train": ("case1", "case2"), "adapt": ("case1", "case2")}


def test_a_case_named_like_part_of_its_folder_keeps_its_pattern(v2: Path) -> None:
    folder = v2.parent / "mapped"
    entries = {}
    for name in ("1", "2", "3"):
        image, label = make_case(0, inverted=False)
        write_nifti(folder / f"part1/{name}.nii.gz", image)
        write_nifti(folder / f"truth1/{name}.nii.gz", label)
        entries[name] = {"images": [f"part1/{name}.nii.gz"], "label": f"truth1/{name}.nii.gz"}
    raw = {**V2, "numTraining": 3, "dataset": entries}
    (folder / "dataset.json").write_text(json.dumps(raw))
    assert made(folder).images == ("part1/{case}.nii.gz",)


def test_pixel_and_size_come_from_the_headers_alone(v2: Path) -> None:
    """Pixels are 1.5 mm but for one image of 3 mm; across patients are 4, 32, 32, 32, 32 and 100 pixels wide,
    whose 95th percentile is 83, and up to 32 deep."""
    odd = np.diag([4.0, 1.5, 1.5, 1.0])[[1, 2, 0, 3]]  # stored slices, then right, then front
    write_nifti(
        v2 / "imagesTr/a1_0000.nii.gz", np.zeros((2, 2, 2), np.int16), np.diag([3, 3, 4, 1])
    )
    write_nifti(v2 / "imagesTr/a2_0000.nii.gz", np.zeros((9, 100, 20), np.int16), odd)
    for path in (v2 / "labelsTr").iterdir():
        path.write_bytes(b"never opened")
    content = (v2 / "imagesTr/a3_0000.nii.gz").read_bytes()
    (v2 / "imagesTr/a3_0000.nii.gz").write_bytes(content[: len(content) // 2])  # voxels cut short
    prepare = made(v2).prepare
    assert prepare.spacing == 1.5
    assert prepare.size == (96, 32)
    assert (prepare.orientation, prepare.normalize, prepare.clip) == ("RAS", "zscore", (0.5, 99.5))


def test_an_ignore_label_counts_for_nothing(v2: Path) -> None:
    raw = {**V2, "labels": {**V2["labels"], "ignore": 3}}
    (v2 / "dataset.json").write_text(json.dumps(raw))
    card = made(v2)
    assert card.classes == ("background", "left_ventricle", "ring")
    assert card.label_values["ignore"] == (3,)


def test_the_verb_writes_the_card_says_what_it_decided_and_checks_it(v2: Path) -> None:
    code, output = run("--from-nnunet", v2)
    assert code == 0, output
    assert "card: Dataset027_Heart.yaml" in output
    text = Path("Dataset027_Heart.yaml").read_text()
    for remark in (
        "class 'left ventricle' is called left_ventricle here",
        "every 5th labelled case",
    ):
        assert remark in output
        assert f"# {remark}" in text.replace("validate: every", "every")
    assert "no faults" in output
    assert output.count("32×32×4") == 6
    again = run("--from-nnunet", v2)
    assert again == (code, output)


def test_another_card_is_not_overwritten(v2: Path) -> None:
    Path("mine.yaml").write_text("name: mine\n")
    code, output = run("--from-nnunet", v2, "--out", "mine.yaml")
    assert code == 2
    assert "mine.yaml" in output
    assert "--out" in output
    assert Path("mine.yaml").read_text() == "name: mine\n"
    assert run("--from-nnunet", v2, "--out", "mine.txt")[0] == 2
    assert [path.name for path in Path().iterdir()] == ["mine.yaml"]


def change(**raw: Any) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        (folder / "dataset.json").write_text(json.dumps({**V2, **raw}))

    return rewrite


def add_channel(folder: Path) -> None:
    image = make_case(0, inverted=False)[0]
    write_nifti(folder / "imagesTr/a1_0001.nii.gz", image)


def add_double(folder: Path) -> None:
    write_nifti(folder / "imagesTr/a1.nii.gz", make_case(0, inverted=False)[0])


def add_pair_half(folder: Path) -> None:
    write_nifti(folder / "imagesTr/b1_0000.nii.gz", make_case(0, inverted=False)[0])


def four_dimensional(folder: Path) -> None:
    image = make_case(0, inverted=False)[0]
    write_nifti(folder / "imagesTr/a1_0000.nii.gz", np.stack([image, image], -1))


def cut_header(folder: Path) -> None:
    path = folder / "imagesTr/a1_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:40])


def missing_file(folder: Path) -> None:
    raw = listed(folder, test=[])
    raw["training"].append({"image": "./imagesTr/z9.nii.gz", "label": "./labelsTr/z9.nii.gz"})
    (folder / "dataset.json").write_text(json.dumps({**raw, "numTraining": 7}))


LIES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "two-channels": (change(channel_names={"0": "T1", "1": "T2"}), ["2 channels: T1, T2"]),
    "regions": (change(labels={"background": 0, "whole": [1, 2]}), ["whole", "regions"]),
    "gap": (change(labels={"background": 0, "a": 1, "b": 3}), ["[0, 1, 3]", "without a gap"]),
    "no-background": (change(labels={"lv": 0, "rv": 1}), ["id 0 is 'lv'", "background at 0"]),
    "background-last": (change(labels={"lv": 1, "background": 2}), ["label ids are [1, 2]"]),
    "255-classes": (
        change(labels={"background": 0} | {f"l{i}": i for i in range(1, 255)}),
        ["names 255 labels", "at most 254"],
    ),
    "no-labels": (change(labels={}), ["labels are {}"]),
    "one-id-twice": (change(labels={"background": 0, "a": 1, "b": 1}), ["repeat an id"]),
    "words-as-ids": (change(labels={"background": "none", "a": "b"}), ["whole numbers as ids"]),
    "count": (change(numTraining=20), ["numTraining is 20", "there are 6"]),
    "png": (change(file_ending=".png"), ["file_ending is '.png'", ".nii.gz or .nii", "convert"]),
    "mha": (change(file_ending=".mha"), ["file_ending is '.mha'"]),
    "json-cut": (
        lambda f: (f / "dataset.json").write_text('{"labels"'),
        ["cannot be read as JSON"],
    ),
    "json-list": (lambda f: (f / "dataset.json").write_text("[]"), ["holds list"]),
    "no-json": (lambda f: (f / "dataset.json").unlink(), ["cannot be read as JSON", "imagesTr/"]),
    "channel-files": (add_channel, ["further channels: a1_0001", "imagesTr"]),
    "double": (add_double, ["two files of the case 'a1'", "keep one"]),
    "half-a-pair": (add_pair_half, ["have no label: b1", "labelsTr"]),
    "no-image": (lambda f: (f / "imagesTr/a9_0000.nii.gz").unlink(), ["have no image: a9"]),
    "listed-not-there": (missing_file, ["z9", "which is not there", "numTraining is 7"]),
    "4-D": (four_dimensional, ["a1_0000.nii.gz", "three axes"]),
    "header": (cut_header, ["a1_0000.nii.gz", "cannot be read as NIfTI"]),
}


@pytest.mark.parametrize(("spoil", "messages"), LIES.values(), ids=list(LIES))
def test_a_dataset_json_that_lies_is_refused_and_nothing_is_written(
    v2: Path, spoil: Callable[[Path], object], messages: list[str]
) -> None:
    spoil(v2)
    code, output = run("--from-nnunet", v2)
    assert code == 2
    for text in (*messages, str(v2), "fix:"):
        assert text in output
    assert "Traceback" not in output
    assert list(Path().iterdir()) == []


def with_training(image: str, label: str) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        raw = listed(folder, test=[], numTraining=7)
        raw["training"].append({"image": image, "label": label})
        (folder / "dataset.json").write_text(json.dumps(raw))

    return rewrite


OUTSIDE: dict[str, tuple[Callable[[Path], object], str]] = {
    "image": (with_training("../x.nii.gz", "labelsTr/a1.nii.gz"), "../x.nii.gz"),
    "label": (with_training("imagesTr/a1_0000.nii.gz", "imagesTr/../../x.nii.gz"), "../../x"),
    "test": (
        lambda f: (f / "dataset.json").write_text(json.dumps(listed(f, test=["../x.nii.gz"]))),
        "../x.nii.gz",
    ),
    "absolute": (
        lambda f: with_training(str(f.parent / "x.nii.gz"), "labelsTr/a1.nii.gz")(f),
        "x.nii.gz",
    ),
    "mapping": (
        change(
            numTraining=1,
            dataset={"x": {"images": ["../x.nii.gz"], "label": "labelsTr/a1.nii.gz"}},
        ),
        "../x.nii.gz",
    ),
}


@pytest.mark.parametrize(("spoil", "path"), OUTSIDE.values(), ids=list(OUTSIDE))
def test_a_path_out_of_the_data_set_is_refused_though_a_file_is_there(
    v2: Path, spoil: Callable[[Path], object], path: str
) -> None:
    write_nifti(v2.parent / "x.nii.gz", make_case(0, inverted=False)[0])
    spoil(v2)
    code, output = run("--from-nnunet", v2)
    assert code == 2
    for text in (path, "leads out of the folder of dataset.json", "link it there"):
        assert text in output
    assert list(Path().iterdir()) == []


def test_every_lie_is_reported_at_once(v2: Path) -> None:
    change(numTraining=9, labels={"lv": 0, "rv": 1}, channel_names={"0": "a", "1": "b"})(v2)
    with pytest.raises(DataError) as caught:
        read_listing(v2)
    for text in ("3 faults", "numTraining is 9", "id 0 is 'lv'", "2 channels"):
        assert text in str(caught.value)


def test_a_label_value_that_the_json_does_not_name_ends_with_2(v2: Path) -> None:
    path = v2 / "labelsTr/a2.nii.gz"
    write_nifti(path, np.full((SIZE, SIZE, 4), 421, np.int16))
    code, output = run("--from-nnunet", v2)
    assert code == 2
    for text in ("421 (4096 voxels)", str(path), "give each value a class"):
        assert text in output


def test_a_class_that_no_label_shows_ends_with_2_and_names_the_json(v2: Path) -> None:
    change(labels={**V2["labels"], "tumour": 3})(v2)
    code, output = run("--from-nnunet", v2)
    assert code == 2
    assert "class 'tumour' occurs in none of the 6 labels" in output
    assert f"where:    {v2 / 'dataset.json'}" in output
    assert "fault 1." in output
    assert yaml.safe_load(Path("Dataset027_Heart.yaml").read_text())["classes"][-1] == "tumour"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["left ventricle", "left-ventricle"], ["left_ventricle", "left-ventricle"]),
        (["a b", "a_b"], ["a_b", "a_b_2"]),
        (["(1) Kopf/Hals", "心臓"], ["1_Kopf_Hals", "class_2"]),
        (["background ", "._x"], ["background_1", "x"]),
        (["a_3", "a", "a "], ["a_3", "a", "a_3_3"]),
    ],
)
def test_names_become_names_a_card_may_use(v2: Path, names: list[str], expected: list[str]) -> None:
    change(labels={"background": 0} | {name: i for i, name in enumerate(names, 1)})(v2)
    assert list(made(v2).classes[1:]) == expected


def test_a_line_break_in_the_name_of_the_folder_adds_no_line_to_the_card(v2: Path) -> None:
    folder = write(v2.parent / "set\nroot: elsewhere\u202e", V2)
    text = write_card(read_listing(folder), Path("c.yaml")).path.read_text()
    assert text.startswith("# Made from ")
    assert "set\\nroot: elsewhere\\u202e" in text.splitlines()[0]


def test_labels_of_test_images_are_never_named(v2: Path) -> None:
    """imagesTs is for adaptation; where labelsTs exists nothing of it gets into the card."""
    folder = write(v2.parent / "with_tests", V2, tests=2)
    write_nifti(folder / "labelsTs/t0.nii.gz", make_case(0, inverted=False)[1])
    card = made(folder)
    assert card.splits["adapt"] == ("t0", "t1")
    assert card.labels == ("labelsTr/{case}.nii.gz",)
    assert isinstance(cases_of(card, None, "adapt")[0], Case)
