"""A folder of predictions: what is not to be trusted stands first, nothing is lost when it stops, one page shows it.

The network here knows a disk and a ring by their intensity, so that whatever is no such image is a stranger to it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from conftest import CLASSES, SIZE, Tiny, make_case, write_nifti
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import uda
from uda.cli.main import app
from uda.config.card import PhotoPrepare, Prepare
from uda.config.networks import DeepLab, Network
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.config.recipe import Compute
from uda.data.cases import Case, cases_in
from uda.data.geometry import to_file_maps
from uda.data.store import open_store
from uda.devices.device import make_fabric
from uda.errors import ConfigError, DataError, RunError
from uda.networks.build import build
from uda.networks.limits import Limits
from uda.networks.model_file import ModelInfo, card_of, load_model, save_model
from uda.prediction import folder as prediction_folder
from uda.prediction import page as prediction_page
from uda.prediction.confidence import CaseStatistics
from uda.prediction.folder import predict_cases
from uda.prediction.image_ranges import with_ranges
from uda.prediction.outcome import Outcome, Places, read_record
from uda.prediction.volumes import logit_planes, read_case

CPU = make_fabric(Compute(device="cpu"))
PREPARE = Prepare(size=(SIZE, SIZE), normalize="none")
LEVELS = (400.0, 900.0, 100.0)


class Levels(nn.Module):
    """The class whose intensity is nearest."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(LEVELS)[None, :, None, None])
        self.calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        distance: Tensor = ((image - self.level) / 120) ** 2
        return -distance


@pytest.fixture(scope="module")
def knows(tmp_path_factory: pytest.TempPathFactory) -> ModelInfo:
    """A description with the ranges of six images."""
    folder = tmp_path_factory.mktemp("own")
    for number in range(6):
        write_nifti(folder / f"own{number}.nii.gz", make_case(number, False)[0])
    info = ModelInfo(Network(), tuple(CLASSES), PREPARE, ("source_labels",))
    store = open_store(card_of(info), cases_in(folder), folder / "store")
    return with_ranges(Levels(), info, store, CPU)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two usual images, four strange ones and a broken one."""
    folder = tmp_path / "images"
    image, _ = make_case(20, False)
    write_nifti(folder / "usual.nii.gz", image)
    write_nifti(folder / "other.nii.gz", make_case(21, False)[0])
    write_nifti(folder / "thrice.nii.gz", 3 * image)
    write_nifti(folder / "cropped.nii.gz", np.ascontiguousarray(image[8:24, 8:24]))
    rng = np.random.default_rng(0)
    write_nifti(folder / "noise.nii.gz", rng.permutation(image.reshape(-1)).reshape(image.shape))
    write_nifti(folder / "empty.nii.gz", (image // 50 + 390).astype(np.int16))
    whole = (folder / "usual.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the pictures, which take most of the time and are not tested here."""
    monkeypatch.setattr(
        prediction_folder, "volume_picture", lambda *_: Image.new("RGB", (6, 2), "white")
    )


def predict(info: ModelInfo, images: Path, out: Path, entropy: bool = False) -> list[Outcome]:
    return list(predict_cases(Levels(), info, cases_in(images), out, CPU, entropy=entropy))


def kinds(outcomes: list[Outcome]) -> dict[str, set[str]]:
    return {one.case: {flag.kind for flag in one.flags} for one in outcomes}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("undrawn")
def test_strange_images_are_flagged_by_what_is_strange_and_usual_ones_are_not(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    found = kinds(outcomes := predict(knows, images, tmp_path / "out"))
    assert found["usual"] == found["other"] == found["broken"] == set()
    assert "intensity" in found["thrice"]
    assert "field of view" in found["cropped"]
    assert {"intensity", "class ratio"} <= found["noise"] | {"class ratio"}
    assert "intensity" in found["noise"]
    assert {"intensity", "class ratio"} <= found["empty"]
    trusted = {one.case for one in outcomes if one.trusted}
    assert trusted == {"usual", "other"}
    usual = next(one for one in outcomes if one.case == "usual")
    assert usual.confidence is not None
    assert 0.5 < usual.confidence <= 1
    assert list(usual.structures) == ["disk", "ring"]
    _, label = make_case(20, False)
    assert usual.structures["disk"]["ratio"] == pytest.approx((label == 1).mean(), rel=0.02)


@pytest.mark.usefixtures("undrawn")
def test_the_json_lists_what_is_not_trusted_first_then_by_confidence(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(knows, images, out)
    table = json.loads((out / "predictions.json").read_text())
    cases = table["cases"]
    assert cases[0]["case"] == "broken"
    assert "broken.nii.gz" in cases[0]["fault"]
    assert cases[0]["file"] is None
    assert [case["trusted"] for case in cases] == [False] * 5 + [True] * 2
    sure = [case["confidence"] for case in cases[-2:]]
    assert sure == sorted(sure)
    for case in cases[1:]:
        assert (out / case["file"]).is_file()
        assert set(case["structures"]) == {"disk", "ring"}
    strange = next(case for case in cases if case["case"] == "thrice")
    flag = next(flag for flag in strange["flags"] if flag["measure"] == "intensity_p95")
    assert not flag["low"] <= flag["value"] <= flag["high"]
    assert "modality" in flag["fix"]
    assert table["not_judged"] == []


def test_the_page_shows_what_is_not_trusted_first_and_needs_no_other_file(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(knows, images, out)
    html = (out / "report.html").read_text(encoding="utf-8")
    assert "5 of 7 case(s) are not to be trusted as they are" in html
    assert "not calibrated" in html
    order = [html.index(f">{name} <span") for name in ("broken", "empty", "thrice")]
    order += [html.index("Nothing unusual"), html.index("<b>usual</b>")]
    assert order == sorted(order)
    sources = re.findall(r"src='([^']*)'", html)
    assert len(sources) == 6
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "://" not in html
    assert "<script" not in html


def test_the_page_tells_calibrated_limits_from_ranges_of_the_models_own_images(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    said = "the limit was calibrated"
    predict(knows, images, tmp_path / "ranges")
    assert said not in (tmp_path / "ranges/report.html").read_text(encoding="utf-8")
    limits = Limits(0.7, 70, 27, {"confidence_overall": (0.86, 1.0)})
    predict(replace(knows, limits=limits), images, tmp_path / "limits")
    html = (tmp_path / "limits/report.html").read_text(encoding="utf-8")
    html = html[html.index("What is expected") :]
    (row,) = re.findall(
        r"<tr[^>]*><th scope=row>confidence over all structures</th>.*?</tr>", html, re.DOTALL
    )
    assert re.findall(r"<td>(.*?)</td>", row) == ["–", "0.86 to 1", "70"]
    assert said in html


def test_what_a_name_holds_is_text_and_not_html(knows: ModelInfo, tmp_path: Path) -> None:
    image = 3 * make_case(0, False)[0]
    case = Case("<b>&x", write_nifti(tmp_path / "in" / "a.nii.gz", image))
    list(predict_cases(Levels(), knows, [case], tmp_path / "out", CPU))
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<b>&x" not in html
    assert "&lt;b&gt;&amp;x" in html


@pytest.mark.usefixtures("undrawn")
def test_of_many_cases_some_pictures_are_shown_and_the_others_counted(
    knows: ModelInfo, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction_page, "SHOWN", 5)
    predict(knows, images, tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(re.findall("<img", html)) == 4  # the failed case has none
    assert "2 more are in the table below" in html


def test_a_picture_shows_image_structures_and_entropy_side_by_side(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    predict(knows, images, tmp_path / "out")
    picture = np.asarray(Image.open(tmp_path / "out/cases/usual.jpg")).astype(int)
    left, middle, right = np.array_split(picture, 3, axis=1)
    assert np.ptp(left, axis=-1).max() < 20  # grey
    assert np.ptp(middle[50:-50, 50:-50], axis=-1).max() > 60  # outlines in colour
    assert right.mean() < left.mean()  # mostly sure


# going on


@pytest.mark.usefixtures("undrawn")
def test_a_stopped_prediction_goes_on_to_the_same_bytes(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole/out", tmp_path / "stopped/out"
    predict(knows, images, whole, entropy=True)
    running: Iterator[Outcome] = predict_cases(
        Levels(), knows, cases_in(images), stopped, CPU, entropy=True
    )
    for _ in range(3):
        next(running)
    del running
    again = predict(knows, images, stopped, entropy=True)
    assert [one.case for one in again if one.skipped] == ["cropped", "empty"]  # broken failed
    assert {n: b for n, b in contents(stopped).items() if not n.endswith(".gz")} == {
        n: b for n, b in contents(whole).items() if not n.endswith(".gz")
    }
    for path in whole.glob("*.nii.gz"):
        found = np.asarray(nibabel.load(stopped / path.name).dataobj)
        np.testing.assert_array_equal(found, np.asarray(nibabel.load(path).dataobj))


@pytest.mark.usefixtures("undrawn")
def test_a_skipped_case_says_what_it_said_before(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    first, again = (predict(knows, images, tmp_path / "out") for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert other.skipped == (one.fault == "")
        assert (one.measures, one.flags, one.file) == (other.measures, other.flags, other.file)


@pytest.mark.usefixtures("undrawn")
def test_a_label_map_without_its_record_is_predicted_again(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(knows, images, out)
    before = np.asarray(nibabel.load(out / "usual.nii.gz").dataobj)
    (out / "cases/usual.json").unlink()
    (out / "cases/other.json").write_text("{half")
    with pytest.raises(DataError, match="changed after uda wrote it") as refused:
        predict(knows, images, out)
    assert str(out / "cases/other.json") in str(refused.value)
    (out / "cases/other.json").unlink()
    again = {one.case: one for one in predict(knows, images, out)}
    assert not again["usual"].skipped
    assert not again["other"].skipped
    assert again["thrice"].skipped
    np.testing.assert_array_equal(np.asarray(nibabel.load(out / "usual.nii.gz").dataobj), before)
    assert len(json.loads((out / "predictions.json").read_text())["cases"]) == 7


@pytest.mark.usefixtures("undrawn")
def test_entropy_asked_for_later_is_made_later(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    (images / "broken.nii.gz").unlink()
    out = tmp_path / "out"
    predict(knows, images, out)
    assert not list(out.glob("*_entropy*"))
    assert not any(one.skipped for one in predict(knows, images, out, entropy=True))
    assert len(list(out.glob("*_entropy.nii.gz"))) == 6
    assert all(one.skipped for one in predict(knows, images, out, entropy=True))
    assert all(one.skipped and one.entropy for one in predict(knows, images, out))


@pytest.mark.usefixtures("undrawn")
def test_what_an_earlier_call_predicted_from_another_folder_stays_in_the_report(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    more, out = tmp_path / "more", tmp_path / "out"
    write_nifti(more / "later.nii.gz", make_case(30, False)[0])
    predict(knows, images, out)
    predict(knows, more, out)
    table = json.loads((out / "predictions.json").read_text())
    assert len(table["cases"]) == 8
    assert table["cases"][0]["case"] == "broken"


@pytest.mark.usefixtures("undrawn")
def test_a_repaired_image_is_predicted_and_its_fault_forgotten(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    predict(knows, images, out)
    write_nifti(images / "broken.nii.gz", make_case(22, False)[0])
    assert not any(one.fault for one in predict(knows, images, out))
    table = json.loads((out / "predictions.json").read_text())
    assert [case["fault"] for case in table["cases"]] == [""] * 7


@pytest.mark.usefixtures("undrawn")
def test_a_disk_that_refuses_the_label_map_leaves_no_case_that_looks_done(
    knows: ModelInfo, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RunError("cannot be written: no space left")

    (images / "broken.nii.gz").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(prediction_folder, "write_volume", refuse)
        with pytest.raises(RunError):
            predict(knows, images, tmp_path / "out")
    assert read_record(Places(tmp_path / "out", photos=False), "cropped") is None
    assert not any(one.skipped for one in predict(knows, images, tmp_path / "out"))


@pytest.mark.usefixtures("undrawn")
def test_two_files_of_one_name_are_refused_before_anything_is_predicted(
    knows: ModelInfo, tmp_path: Path
) -> None:
    for name in ("a", "a_entropy"):
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", make_case(0, False)[0])
    with pytest.raises(DataError, match="a_entropy"):
        predict(knows, tmp_path / "images", tmp_path / "out", entropy=True)
    assert len(predict(knows, tmp_path / "images", tmp_path / "out")) == 2


@pytest.mark.usefixtures("undrawn")
def test_an_answer_that_is_no_number_is_a_failed_case(
    knows: ModelInfo, images: Path, tmp_path: Path
) -> None:
    model = Levels()
    model.level[0, 1] = float("nan")
    cases = cases_in(images / "usual*")
    (outcome,) = predict_cases(model, knows, cases, tmp_path / "out", CPU)
    assert "not finite" in outcome.fault
    assert "usual.nii.gz" in outcome.fault
    assert not outcome.trusted
    assert not (tmp_path / "out/usual.nii.gz").exists()


# models


@pytest.mark.usefixtures("undrawn")
def test_a_model_that_does_not_know_its_images_says_so_on_the_page(
    images: Path, tmp_path: Path
) -> None:
    info = ModelInfo(Network(), tuple(CLASSES), PREPARE, ("none",), class_ratio=(0.7, 0.1, 0.2))
    found = kinds(predict(info, images, tmp_path / "out"))
    assert "intensity" not in found["thrice"]
    html = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "Not judged: intensity and field of view" in html
    table = json.loads((tmp_path / "out/predictions.json").read_text())
    assert table["not_judged"] == ["intensity", "field of view"]


@pytest.mark.parametrize("method", ["adabn", "minent"])
def test_an_adapted_model_knows_the_images_it_was_adapted_to(
    tiny: Tiny, tmp_path: Path, method: str
) -> None:
    network = Network(channels=(4, 8), res_units=1)
    info = ModelInfo(network, tuple(CLASSES), Prepare(size=(SIZE, SIZE)), ("source_labels",))
    torch.manual_seed(0)
    save_model(tmp_path / "model.safetensors", build(network, 3), info)
    steps = [] if method == "adabn" else ["steps=2", "batch=2"]
    path = uda.adapt(
        tmp_path / "model.safetensors",
        tiny.root / "t/images",
        tmp_path / "adapted",
        method=method,
        overrides=steps,
        compute=Compute(device="cpu"),
    )
    images = load_model(path)[1].images
    assert images is not None
    assert images.ranges["slices"].low == images.ranges["slices"].high == 4
    assert images.ranges["intensity_p95"].cases == 3
    assert images.ranges["ratio/disk"].cases == 3
    outcomes = list(
        uda.predict(path, tiny.root / "t/images", tmp_path / "out", compute=Compute(device="cpu"))
    )
    for one in outcomes:  # its own images: nothing about them is unusual
        assert "intensity" not in kinds(outcomes)[one.case]
        assert "field of view" not in kinds(outcomes)[one.case]


@pytest.mark.usefixtures("undrawn")
def test_ranges_of_what_is_found_are_those_of_predicting_the_same_images(
    knows: ModelInfo, tmp_path: Path
) -> None:
    for number in range(6):
        write_nifti(tmp_path / f"images/own{number}.nii.gz", make_case(number, False)[0])
    outcomes = predict(knows, tmp_path / "images", tmp_path / "out")
    assert knows.images is not None
    for name, seen in knows.images.ranges.items():
        values = [one.measures[name] for one in outcomes]
        assert np.quantile(values, (0.01, 0.99)) == pytest.approx((seen.low, seen.high), rel=1e-4)


def test_photographs_are_judged_by_light_and_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own, new = tmp_path / "own", tmp_path / "new"
    base = np.linspace(60, 200, 48 * 64 * 3).reshape(48, 64, 3)
    pictures = {
        own: {f"own{n}": base + rng.normal(0, 4, base.shape) for n in range(4)},
        new: {
            "usual": base + rng.normal(0, 4, base.shape),
            "night": base / 8,
            "small": base[:12],
            "pale": base.mean(-1)[..., None],
        },
    }
    for folder, named in pictures.items():
        folder.mkdir()
        for name, values in named.items():
            pixels = np.broadcast_to(values, (*values.shape[:2], 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
    network = DeepLab(kind="deeplab_v2", backbone="small", stride=16)
    prepare = PhotoPrepare(kind="photo", size=(48, 64))
    info = ModelInfo(network, ("road", "sky", "car"), prepare, ("source_labels",))
    torch.manual_seed(0)
    model = build(network, 3, 3)
    store = open_store(card_of(info), cases_in(own, photos=True), tmp_path / "store")
    info = with_ranges(model, info, store, CPU)
    cases = cases_in(new, photos=True)
    found = kinds(
        outcomes := list(predict_cases(model, info, cases, tmp_path / "out", CPU, entropy=True))
    )
    assert "intensity" in found["night"]
    assert "field of view" in found["small"]
    assert "intensity" not in found["usual"]
    assert "field of view" not in found["usual"]
    for one in outcomes:
        assert one.entropy is not None
        grey = Image.open(one.entropy)
        assert grey.mode == "L"
        assert one.file is not None
        assert grey.size == Image.open(one.file).size


# the command


def test_the_command_tells_whom_not_to_trust_last_and_ends_with_0(
    tiny: Tiny, tmp_path: Path
) -> None:
    network = Network(channels=(4, 8), res_units=1)
    info = ModelInfo(network, tuple(CLASSES), PREPARE, ("source_labels",))
    save_model(tmp_path / "model.safetensors", build(network, 3), info)
    arguments = ["predict", "--model", tmp_path / "model.safetensors", "--device", "cpu"]
    arguments += ["--images", tiny.root / "t/images", "--out", tmp_path / "out", "--entropy"]
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["c0", "c1", "c2"]
    assert all(Path(line.partition(": ")[2]).is_file() for line in lines)
    lines = result.stderr.splitlines()
    assert lines[-1].endswith(f"report: {tmp_path / 'out' / 'report.html'}")
    doubted = [line for line in lines if line.startswith("not to be trusted: ")]
    assert lines[-1].startswith(f"{len(doubted)} of 3 case(s)")


def island(folder: Path) -> Path:
    """A usual image with a small second disk in a corner."""
    image, _ = make_case(20, False)
    image[1:4, 1:4, :] = 900
    return write_nifti(folder / "island.nii.gz", image)


def test_the_page_says_the_steps_and_the_picture_shows_the_final_label_map(
    knows: ModelInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    island(tmp_path / "in")
    drawn: list[np.ndarray] = []
    picture = prediction_page.volume_picture

    def remember(case: object, statistics: CaseStatistics, structures: int) -> Image.Image:
        drawn.append(statistics.plane[0].copy())
        return picture(case, statistics, structures)  # type: ignore[arg-type]

    monkeypatch.setattr(prediction_folder, "volume_picture", remember)
    cases, found = cases_in(tmp_path / "in"), []
    for name, steps in (("plain", NO_STEPS), ("steps", Postprocess(largest=True))):
        out = tmp_path / name
        found += predict_cases(Levels(), knows, cases, out, CPU, entropy=True, steps=steps)
    plain, stepped = (np.asarray(nibabel.load(one.file).dataobj) for one in found)
    assert (plain[1:4, 1:4] == 1).all()
    assert (stepped[1:4, 1:4] == 0).all()
    assert ((plain == 1)[5:] == (stepped == 1)[5:]).all()
    assert drawn[0][1:4, 1:4].all()
    assert not drawn[1][1:4, 1:4].any()
    pages = [(tmp_path / name / "report.html").read_text() for name in ("plain", "steps")]
    assert "Post-processing" not in pages[0]
    assert "Post-processing: largest: true (1 of 1\ncase(s)). Label maps are those" in pages[1]
    # Measures and entropy are those of the probabilities, which this step leaves as they are.
    assert found[0].measures == found[1].measures
    maps = [np.asarray(nibabel.load(one.entropy).dataobj) for one in found]
    assert (maps[0] == maps[1]).all()


@pytest.mark.usefixtures("undrawn")
def test_entropy_and_confidence_are_those_of_the_mean_probabilities(
    knows: ModelInfo, tmp_path: Path
) -> None:
    island(tmp_path / "in")
    cases, steps = cases_in(tmp_path / "in"), Postprocess(views=5, smooth=2)
    out = tmp_path / "out"
    (found,) = predict_cases(Levels(), knows, cases, out, CPU, entropy=True, steps=steps)
    case = read_case(cases[0], PREPARE)
    planes = list(logit_planes(Levels(), knows, case.slices, CPU, steps))
    labels, entropy = to_file_maps(planes, case.geometry, entropy=True)
    written, sure = (np.asarray(nibabel.load(p).dataobj) for p in (found.file, found.entropy))
    np.testing.assert_array_equal(written, labels)
    np.testing.assert_allclose(sure, np.asarray(entropy) / 255, atol=1e-6)
    statistics = CaseStatistics(case.geometry)
    list(statistics.watch(planes))
    assert found.confidence == statistics.measures(knows)["confidence"]
    (plain,) = predict_cases(Levels(), knows, cases, tmp_path / "plain", CPU)
    assert plain.confidence != found.confidence


def test_the_command_line_takes_a_set_and_single_steps(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(network, tuple(CLASSES), PREPARE, ("source_labels",))
    save_model(tmp_path / "model.safetensors", build(network, len(CLASSES)), info)
    island(tmp_path / "in")
    call = ["predict", "--model", str(tmp_path / "model.safetensors"), "--device", "cpu"]
    call += ["--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    asked = ["recommended", "largest=[disk]", "views=1"]
    given = [part for one in asked for part in ("--postprocess", one)]
    assert CliRunner().invoke(app, [*call, *given]).exit_code == 0
    record = json.loads((tmp_path / "out/cases/island.json").read_text())
    assert record["made_from"]["postprocess"] == 'smooth: 0.8, largest: ["disk"], holes: true'
    for wrong, says in (("recomended", "no set of steps"), ("views=3", "1, 2 or 5")):
        result = CliRunner().invoke(app, [*call, "--postprocess", wrong])
        assert isinstance(result.exception, ConfigError)
        assert says in str(result.exception)
