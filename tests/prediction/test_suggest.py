"""Suggestions: what predictions of an image in several views tell of a case, and which cases and slices follow.

The network here calls everything above a threshold class 1; where an image is hardly above it, its views disagree.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE, make_case, write_nifti
from hypothesis import given
from hypothesis import strategies as st
from tiny_photos import card_of, write_model, write_world
from torch import Tensor, nn

import uda
from uda.config.card import Prepare
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.data.cases import Case, cases_in
from uda.devices.device import make_fabric
from uda.errors import ConfigError, DataError, ModelError, UdaError
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, load_model, save_model
from uda.prediction.folder import predict_cases
from uda.prediction.opinions import Panel
from uda.prediction.suggestion import (
    Opinions,
    chosen_cases,
    disagreement,
    disputed_share,
    mean_dice,
    similarity,
    spread_slices,
    suggestions,
)
from uda.prediction.views import PHOTO_VIEWS, VIEWS, View

CPU = make_fabric(Compute(device="cpu"))
ON_CPU = Compute(device="cpu")
GREY = Prepare(size=(24, 24), normalize="none")
CLASSES = ("background", "bright")
DEPTH = 6


class Threshold(nn.Module):
    """Two classes: not above 50, and above; a network without a known last layer."""

    def forward(self, image: Tensor) -> Tensor:
        above = image[:, image.shape[1] // 2] - 50
        return torch.stack([-above, above], 1)


class Headed(Threshold):
    """The same with features: the image and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Identity()

    def forward(self, image: Tensor) -> Tensor:
        self.head(torch.cat([image, image**2], 1))
        return super().forward(image)


def describe(patch: tuple[int, int, int] | None = None, **extra: Any) -> ModelInfo:
    network = Network() if patch is None else Network(spatial_dims=3, patch=patch)
    return ModelInfo(network, extra.pop("classes", CLASSES), GREY.model_copy(update=extra), ("a",))


def panel(patch: tuple[int, int, int] | None = None, **extra: Any) -> Panel:
    return Panel(Threshold(), describe(patch), CPU, **extra)


def square(level: float = 100.0) -> np.ndarray:
    """A bright square in the middle of every slice ``[h, w, slices]``, before a background from 0 to 20."""
    image = np.linspace(0, 20, 24 * 24 * DEPTH, dtype=np.float32).reshape(24, 24, DEPTH)
    image[8:16, 8:16] = level
    return image


def stripes(image: np.ndarray, slices: slice) -> np.ndarray:
    """With stripes of a pixel, which no view shows alike, in some slices."""
    found = image.copy()
    found[4:20, 4:20:2, slices] = 100
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five volumes; ``p3`` has stripes in its slices 1 and 2, and every square has a size of its own."""
    for number in range(5):
        image = square()
        image[8 : 9 + number, 16] = 100
        image = stripes(image, slice(1, 3)) if number == 3 else image
        write_nifti(tmp_path / "scans" / f"p{number}.nii.gz", image)
    return tmp_path / "scans"


def of(case: str, doubt: list[float], features: list[float], **extra: Any) -> Opinions:
    """Opinions of one structure with these disagreements."""
    u = np.array(doubt)
    values = {"slices": np.arange(len(u)), "dice": 1 - u[:, None], "share": u / max(u.sum(), 1e-9)}
    return Opinions(case=case, features=np.array(features), **values | extra)


# numbers


def test_dice_and_shares_are_those_of_the_label_maps() -> None:
    """Against a plain count over random label maps of one prediction and three others."""
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 3, (4, 6, 5)), rng.integers(0, 3, (3, 4, 6, 5))
    others[:, 2][others[:, 2] == 1] = 0
    own[2][own[2] == 1] = 0
    counts = np.zeros((3, 4, 2, 2))
    for v, s, m in np.ndindex(3, 4, 2):
        first, second = own[s] == m + 1, others[v, s] == m + 1
        counts[v, s, m] = (first & second).sum(), first.sum() + second.sum()
    dice, share = mean_dice(counts), disputed_share(counts)
    assert np.isnan(dice[2, 0])
    first, second = own[0] == 2, others[:, 0] == 2
    expected = np.mean([2 * (first & one).sum() / (first.sum() + one.sum()) for one in second])
    assert dice[0, 1] == pytest.approx(expected)
    lost = [
        [((own == m) ^ (one == m)).sum((1, 2)) / ((own == m).sum() + (one == m).sum())]
        for m in (1, 2)
        for one in others
    ]
    expected_shares = np.mean(lost, 0)[0]
    np.testing.assert_allclose(share, expected_shares / expected_shares.sum())


def test_a_slice_without_structures_has_no_disagreement_and_a_case_without_is_all_doubt() -> None:
    nothing = np.full((3, 2), np.nan)
    np.testing.assert_array_equal(disagreement(nothing), 0)
    assert of("a", [0, 0, 0], [0], dice=nothing).doubt == 1
    half = np.array([[np.nan, 0.5], [np.nan, np.nan]])
    assert of("a", [0, 0], [0], dice=half).doubt == 0.5


def test_predictions_that_agree_share_nothing() -> None:
    counts = np.array([[[[4.0, 8.0]], [[0.0, 0.0]]]])
    np.testing.assert_array_equal(disputed_share(counts), 0)
    np.testing.assert_array_equal(of("a", [0.0, 0.0], [0]).scores, 0)


def test_likeness_is_one_with_itself_and_does_not_depend_on_the_unit() -> None:
    features = np.random.default_rng(0).normal(size=(6, 3))
    alike = similarity(features)
    np.testing.assert_allclose(np.diag(alike), 1)
    np.testing.assert_allclose(alike, alike.T)
    np.testing.assert_allclose(alike, similarity(features * [1, 100, 0.01] + [5, 0, 0]))
    assert np.median(alike[np.triu_indices(6, 1)]) == pytest.approx(np.exp(-1), rel=0.2)


def test_images_that_are_all_alike_or_alone_stay_numbers() -> None:
    np.testing.assert_array_equal(similarity(np.full((3, 2), 0.1)), 1)
    np.testing.assert_array_equal(similarity(np.zeros((1, 4))), 1)


def test_two_kinds_of_images_get_one_suggestion_each_before_any_gets_two() -> None:
    kinds = np.array([0, 0, 0, 1, 1])
    alike = (kinds[:, None] == kinds).astype(float)
    chosen = chosen_cases(np.array([0.5, 0.6, 0.7, 0.2, 0.3]), alike, 2)
    assert sorted(kinds[chosen]) == [0, 1]
    assert kinds[chosen[0]] == 0  # three doubtful cases before two that are less so


def test_without_doubt_the_most_typical_image_is_first() -> None:
    alike = np.array([[1, 0.9, 0.1], [0.9, 1, 0.6], [0.1, 0.6, 1]])
    assert chosen_cases(np.zeros(3), alike, 3)[0] == 1


@given(st.data())
def test_a_choice_has_no_repeats_and_each_step_gains_most(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    number = st.floats(0, 1)
    weights = np.array(data.draw(st.lists(number, min_size=count, max_size=count)))
    features = np.array(data.draw(st.lists(number, min_size=count, max_size=count)))[:, None]
    wanted = data.draw(st.integers(1, 8))
    alike = similarity(features)
    chosen = chosen_cases(weights, alike, wanted)
    assert len(set(chosen)) == len(chosen) == min(count, wanted)
    weights = weights if weights.any() else np.ones(count)
    gains = [sum(alike[i] * np.minimum(weights[i], weights)) for i in range(count)]
    assert gains[chosen[0]] == pytest.approx(max(gains))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 8))
def test_slices_are_distinct_and_the_first_is_the_most_doubtful(
    doubt: list[float], wanted: int
) -> None:
    values = np.array(doubt)
    chosen = spread_slices(values, np.arange(len(values)), wanted)
    assert len(set(chosen)) == len(chosen) == min(len(values), wanted)
    assert not values.any() or values[chosen[0]] == values.max()


def test_of_equal_doubt_slices_lie_apart() -> None:
    chosen = spread_slices(np.ones(12), np.arange(12), 3)
    assert np.diff(sorted(chosen)).min() >= 4
    assert np.diff(sorted(spread_slices(np.zeros(12), np.arange(12), 3))).min() >= 4


def test_a_neighbour_needs_much_more_doubt_than_a_slice_far_away() -> None:
    doubt = np.full(12, 0.1)
    doubt[4:7] = (0.5, 0.9, 0.5)
    assert spread_slices(doubt, np.arange(12), 2)[0] == 5
    assert abs(spread_slices(doubt, np.arange(12), 2)[1] - 5) > 1
    doubt[4] = 0.9
    doubt[[0, 1, 2, 3, 7, 8, 9, 10, 11]] = 0.001
    assert spread_slices(doubt, np.arange(12), 2) == [4, 6]


def test_suggestions_say_why_in_numbers() -> None:
    given = [
        of("a", [0.1, 0.1], [0.0]),
        of("b", [0.2, 0.6], [0.2], slices=np.array([7, 8])),
        of("c", [0.1, 0.1], [0.1]),
        of("d", [0.2, 0.2], [9.0]),
    ]
    found = suggestions(given, ["lv"], k=2, slices=1)
    assert [(one.rank, one.case, one.slice) for one in found] == [(1, "b", 8), (2, "d", 0)]
    assert found[0].score == pytest.approx(np.sqrt(0.6 * 0.75))
    assert found[0].why == (
        "slice: views agree by Dice 0.40 (on lv by 0.40), 75 % of the dispute; "
        "case: disagreement 0.40, number 1 of 4; stands for c, a"
    )


def test_of_prepared_slices_of_one_slice_of_the_file_one_is_suggested() -> None:
    one = of("a", [0.1, 0.4, 0.2, 0.3], [0.0], slices=np.array([5, 5, 6, 6]))
    found = suggestions([one], ["lv"], k=1, slices=4)
    assert [(each.slice, round(each.score, 3)) for each in found] == [(5, 0.4), (6, 0.3)]


@pytest.mark.parametrize(("k", "slices"), [(0, 3), (3, 0), (-1, 1)])
def test_no_suggestion_at_all_is_refused(k: int, slices: int) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        suggestions([of("a", [0.1], [0.0])], ["lv"], k=k, slices=slices)


# predictions


@pytest.mark.parametrize("view", [*VIEWS, *PHOTO_VIEWS, View(10, 1.1, mirrored=True)])
def test_a_view_and_back_is_the_image_where_it_is_shown(view: View) -> None:
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(40.0), indexing="ij")
    image = (rows + 3 * columns)[None, None]  # a plane: interpolation is exact
    found, shown = view.back(view.of(image))
    inner = (shown > 0)[4:-4, 4:-4]
    assert inner.float().mean() > 0.6
    close = (found - image)[0, 0, 4:-4, 4:-4].abs() < 0.1
    assert bool(close[inner].float().mean() > 0.97)


def test_a_mirrored_view_is_mirrored() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert View(mirrored=True).of(image)[0, 0, 0].tolist() == [2, 1, 0]


@pytest.mark.parametrize("patch", [None, (4, 16, 16)], ids=["2-D", "3-D"])
def test_a_disturbed_case_is_first_and_its_disturbed_slices_are(
    folder: Path, patch: tuple[int, int, int] | None
) -> None:
    one = panel(patch)
    opinions = [one.opinions(case) for case in cases_in(folder)]
    doubts = {each.case: each.doubt for each in opinions}
    assert max(doubts, key=doubts.__getitem__) == "p3"
    found = suggestions(opinions, one.structures, k=1, slices=2)
    assert found[0].case == "p3"
    assert found[0].slice in (1, 2)
    assert opinions[3].share[1:3].sum() > 0.7


def test_slices_are_numbered_along_the_axis_of_the_file(tmp_path: Path) -> None:
    """The same image stored upside down: the disturbed slice 1 of six is slice 4 there."""
    image = stripes(square(), slice(1, 2))
    write_nifti(tmp_path / "a.nii.gz", image)
    turned = np.diag([1.5, 1.5, -4.0, 1.0])
    write_nifti(tmp_path / "b.nii.gz", image[..., ::-1].copy(), turned)
    for name, place in (("a", 1), ("b", 4)):
        opinions = panel().opinions(Case(name, tmp_path / f"{name}.nii.gz"))
        assert suggestions([opinions], ["bright"], k=1, slices=1)[0].slice == place


def test_features_are_the_means_of_what_enters_the_head_else_class_ratios(folder: Path) -> None:
    case = cases_in(folder)[0]
    found = Panel(Headed(), describe(), CPU).opinions(case).features
    volume = square()
    volume[8:9, 16] = 100
    expected = [volume.mean(), (volume**2).mean()]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    ratios = panel().opinions(case).features
    assert ratios.sum() == pytest.approx(1)
    assert ratios[1] == pytest.approx((volume > 50).mean(), rel=1e-5)


def test_a_model_agrees_with_itself_and_differs_where_another_does(folder: Path) -> None:
    class Higher(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image - 55.0)

    case = cases_in(folder)[0]
    same = panel(other=(Threshold(), describe())).opinions(case)
    np.testing.assert_array_equal(same.dice, 1)
    differs = panel(other=(Higher(), describe())).opinions(case)
    np.testing.assert_array_equal(differs.dice, 0)
    assert panel(other=(Higher(), describe())).words == "the model and the other model"


@pytest.mark.parametrize(
    ("extra", "told"),
    [({"classes": ("background", "dark")}, "classes"), ({"size": (16, 16)}, "size")],
)
def test_a_model_for_another_task_is_refused(extra: dict[str, Any], told: str) -> None:
    one = panel(other=(Threshold(), describe(**extra)))
    with pytest.raises(ModelError, match=f"the other model has .*{told}"):
        one.check([])


def masks_of(folder: Path, out: Path) -> Path:
    for outcome in predict_cases(Threshold(), describe(), cases_in(folder), out, CPU):
        assert not outcome.fault
    return out


def test_a_corrected_mask_is_where_the_model_differs(folder: Path, tmp_path: Path) -> None:
    import nibabel

    masks = masks_of(folder, tmp_path / "masks")
    image = nibabel.load(masks / "p2.nii.gz")
    array = np.asarray(image.dataobj).copy()
    array[:, :12, 4] = 0
    nibabel.save(nibabel.Nifti1Image(array, image.affine, image.header), masks / "p2.nii.gz")
    one = panel(masks=masks)
    cases = cases_in(folder)
    one.check(cases)
    opinions = [one.opinions(case) for case in cases]
    assert [each.doubt > 0 for each in opinions] == [False, False, True, False, False]
    found = suggestions(opinions, one.structures, k=1, slices=1, others=one.words)
    assert (found[0].case, found[0].slice) == ("p2", 4)
    assert "the model and the masks agree by Dice" in found[0].why


def test_masks_that_cannot_be_compared_are_refused(folder: Path, tmp_path: Path) -> None:
    cases = cases_in(folder)
    with pytest.raises(DataError, match=r"holds no prediction\.json"):
        panel(masks=folder).check(cases)
    masks = masks_of(folder, tmp_path / "masks")
    named = Panel(Threshold(), describe(classes=("background", "dark")), CPU, masks=masks)
    with pytest.raises(DataError, match="the masks have the classes"):
        named.check(cases)
    write_nifti(masks / "p0.nii.gz", np.zeros((24, 24, 2), np.uint8))
    with pytest.raises(DataError, match=r"the mask has shape \[24, 24, 2\]"):
        panel(masks=masks).opinions(cases[0])
    write_nifti(masks / "p0.nii.gz", np.full((24, 24, DEPTH), 2, np.uint8))
    with pytest.raises(DataError, match="values from 2 to 2"):
        panel(masks=masks).opinions(cases[0])
    (masks / "p0.nii.gz").unlink()
    with pytest.raises(DataError, match="there is no mask of case 'p0'"):
        panel(masks=masks).check(cases)


def test_logits_that_are_no_numbers_are_refused(folder: Path) -> None:
    class Broken(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * torch.nan

    with pytest.raises(ModelError, match="not finite"):
        Panel(Broken(), describe(), CPU).opinions(cases_in(folder)[0])


# the function


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    for number in range(3):
        write_nifti(tmp_path / "scans" / f"c{number}.nii.gz", make_case(number, False)[0])
    return tmp_path / "scans"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    classes = ("background", "disk", "ring")
    network = Network(channels=(4, 8), res_units=0)
    info = ModelInfo(network, classes, Prepare(size=(SIZE, SIZE)), ("none",))
    path = tmp_path / "model" / "model.safetensors"
    save_model(path, build(network, 3), info)
    return path


def test_the_file_holds_the_suggestions_and_comes_out_the_same_again(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "suggestions.csv"
    seen: list[str] = []
    found = uda.suggest(
        model, scans, out, k=2, slices=2, compute=ON_CPU, done=lambda one: seen.append(one.case)
    )
    assert seen == ["c0", "c1", "c2"]
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["rank", "case", "slice", "score", "why"]
    assert [row["rank"] for row in rows] == ["1", "1", "2", "2"]
    told = [(row["case"], int(row["slice"]), row["why"]) for row in rows]
    assert told == [(one.case, one.slice, one.why) for one in found]
    before = out.read_bytes()
    assert uda.suggest(model, scans, out, k=2, slices=2, compute=ON_CPU) == found
    assert out.read_bytes() == before
    uda.suggest(model, scans, out, k=1, slices=1, compute=ON_CPU)
    assert len(out.read_text().splitlines()) == 2


def test_a_file_of_the_user_stops_the_work_before_it_begins(
    scans: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "suggestions.csv"
    out.write_text("mine")
    seen: list[Opinions] = []
    with pytest.raises(DataError, match="not written by uda"):
        uda.suggest(model, scans, out, compute=ON_CPU, done=seen.append)
    assert (out.read_text(), seen) == ("mine", [])
    uda.suggest(model, scans, tmp_path / "own.csv", k=1, compute=ON_CPU)
    (tmp_path / "own.csv").write_text("rank,case,slice,score,why\nmine\n")
    with pytest.raises(DataError, match="changed after uda wrote it"):
        uda.suggest(model, scans, tmp_path / "own.csv", k=1, compute=ON_CPU)


def test_nothing_is_written_through_a_link(scans: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match="is a link to"):
        uda.suggest(model, scans, tmp_path / "link" / "s.csv", compute=ON_CPU)
    assert list((tmp_path / "precious").iterdir()) == []


@pytest.mark.parametrize("bad", [{"k": 0}, {"slices": 0}])
def test_bad_numbers_are_refused(scans: Path, model: Path, bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        uda.suggest(model, scans, compute=ON_CPU, **bad)


def test_an_unreadable_image_leaves_no_file(scans: Path, model: Path, tmp_path: Path) -> None:
    (scans / "c1.nii.gz").write_bytes(b"not an image")
    with pytest.raises(UdaError, match=r"c1\.nii\.gz"):
        uda.suggest(model, scans, tmp_path / "new" / "s.csv", compute=ON_CPU)
    assert not (tmp_path / "new").exists()


def test_an_image_that_changes_while_it_is_read_is_noticed(
    scans: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Panel.opinions

    def edited(self: Panel, case: Case) -> Opinions:
        found = read(self, case)
        if case.name == "c1":
            write_nifti(case.image, make_case(7, True)[0])
        return found

    monkeypatch.setattr(Panel, "opinions", edited)
    with pytest.raises(DataError, match="changed while it was read"):
        uda.suggest(model, scans, tmp_path / "s.csv", compute=ON_CPU)
    assert not (tmp_path / "s.csv").exists()


def test_a_model_beside_another_and_masks(scans: Path, model: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    assert not any(o.fault for o in uda.predict(model, scans, masks, compute=ON_CPU))
    same = uda.suggest(model, scans, other=model, predictions=masks, compute=ON_CPU)
    assert {one.score for one in same} == {0}
    shutil.rmtree(masks / "cases")
    with pytest.raises(DataError, match="of the same command"):
        uda.suggest(model, scans, masks / "s.csv", predictions=masks, compute=ON_CPU)


def test_photographs_have_one_slice(tmp_path: Path) -> None:
    root, card = write_world(tmp_path / "streets"), card_of("cityscapes")
    path = write_model(tmp_path / "model.safetensors", card)
    pattern = root / "cityscapes" / "leftImg8bit" / "val" / "*" / "*.png"
    found = uda.suggest(path, pattern, k=2, compute=ON_CPU)
    assert [(one.rank, one.slice) for one in found] == [(1, 0), (2, 0)]
    assert all(0 <= one.score <= 1 and "of the dispute" not in one.why for one in found)
    masks = tmp_path / "masks"
    assert not any(o.fault for o in uda.predict(path, pattern, masks, compute=ON_CPU))
    network, info = load_model(path)
    own = Panel(network, info, CPU, masks=masks)
    case = cases_in(pattern, photos=True)[0]
    assert np.nanmin(own.opinions(case).dice) > 0.5  # the mask is on the file's pixels
