"""Trust without a label: confidence is exact however planes come, and what is unlike the model's images is flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from uda.config.card import PhotoPrepare, Prepare
from uda.config.networks import DeepLab, Network
from uda.data.geometry import Geometry
from uda.data.images import photo_geometry
from uda.errors import ModelError
from uda.networks.image_ranges import ImageRanges, Range, ranges_over
from uda.networks.limits import FEWEST, Limits, limits_from
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import CaseStatistics, _Shape, worse
from uda.prediction.trust import KINDS, OWN, accepted, expectations, flags_of, in_words, unknown

CLASSES = ("background", "disk", "ring")
SIZE, DEPTH = (8, 10), 5
OWN_IMAGES = [
    {
        "intensity_p5": -10.0 + n,
        "intensity_p50": 100.0 + n,
        "intensity_p95": 190.0 + n,
        "roughness": 0.05,
        "slices": 30.0,
        "height_mm": 200.0 + n,
        "ratio/disk": 0.02 + 0.001 * n,
        "ratio/ring": 0.05,
        "confidence": 0.9,
        "confidence/disk": 0.85,
        "confidence/ring": 0.95,
    }
    for n in range(10)
]


def describe(images: ImageRanges | None = None, **extra: object) -> ModelInfo:
    return ModelInfo(
        Network(), CLASSES, Prepare(size=SIZE), ("source_labels",), images=images, **extra
    )


KNOWS = describe(ranges_over(OWN_IMAGES))


def geometry(start: tuple[int, int] = (0, 0), whole: tuple[int, int] = SIZE) -> Geometry:
    identity = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
    turn = ((1, 1), (2, 1), (0, 1))
    return Geometry(identity, (*whole, DEPTH), turn, 0, whole, DEPTH, start, SIZE)


def logits(seed: int = 0, classes: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(DEPTH, classes, *SIZE, generator=generator)


def tallied(planes: list[torch.Tensor], where: Geometry | None = None) -> CaseStatistics:
    statistics = CaseStatistics(where or geometry())
    for _ in statistics.watch(planes):
        pass
    return statistics


def defined(values: torch.Tensor) -> dict[str, float]:
    """Soft Dice confidence as the paper has it, over the whole case at once."""
    p, mask = values.double().softmax(1), values.argmax(1)
    found = {}
    for k, name in list(enumerate(CLASSES))[1:]:
        hard = (mask == k).double()
        found[f"ratio/{name}"] = float(hard.mean())
        if hard.sum():
            soft = float(p[:, k].sum() + hard.sum())
            found[f"confidence/{name}"] = float(2 * (p[:, k] * hard).sum()) / soft
    sure = [value for name, value in found.items() if name.startswith("confidence/")]
    return found | ({"confidence": sum(sure) / len(sure)} if sure else {})


# sums of a CaseStatistics


def test_confidence_is_soft_dice_over_the_whole_case_and_not_a_mean_over_slices() -> None:
    values = logits()
    assert tallied([values]).measures(KNOWS) == pytest.approx(defined(values), rel=1e-6)
    slices = [defined(values[i : i + 1])["confidence"] for i in range(DEPTH)]
    assert defined(values)["confidence"] != pytest.approx(np.mean(slices), rel=1e-3)


@pytest.mark.parametrize("count", [1, 2, DEPTH])
def test_how_many_planes_come_at_a_time_changes_nothing(count: int) -> None:
    values = logits()
    one, other = tallied([values]), tallied(list(values.split(count)))
    assert one.measures(KNOWS) == other.measures(KNOWS)
    np.testing.assert_array_equal(one.plane, other.plane)


def test_planes_pass_through_unchanged_and_are_not_kept() -> None:
    values, statistics = logits(), CaseStatistics(geometry())
    for seen, part in enumerate(statistics.watch(plane[None] for plane in values)):
        assert torch.equal(part[0], values[seen])
        assert statistics.planes == seen + 1


def test_a_sure_network_is_confident_and_an_unsure_one_is_not() -> None:
    values = logits()
    sure, unsure = (tallied([factor * values]).measures(KNOWS) for factor in (100, 0.01))
    assert sure["confidence"] > 0.99
    assert unsure["confidence"] < 0.5
    assert sure["ratio/disk"] == unsure["ratio/disk"]


def test_a_structure_that_is_not_found_has_a_ratio_and_no_confidence() -> None:
    values = logits()
    values[:, 1] = -100
    found = tallied([values]).measures(KNOWS)
    assert found["ratio/disk"] == 0
    assert "confidence/disk" not in found
    assert found["confidence"] == found["confidence/ring"]


def test_where_nothing_is_found_there_is_no_confidence() -> None:
    values = logits()
    values[:, 0] = 100
    assert tallied([values]).measures(KNOWS) == {"ratio/disk": 0, "ratio/ring": 0}


def test_padding_does_not_count() -> None:
    """A crop that reaches two rows and three columns over the edge of the image."""
    values, where = logits(), geometry(start=(-2, -3), whole=(6, 7))
    inner = values[:, :, 2:8, 3:10]
    assert tallied([values], where).measures(KNOWS) == pytest.approx(defined(inner), rel=1e-6)


def test_all_classes_of_a_photograph_count() -> None:
    prepare = PhotoPrepare(kind="photo", size=SIZE)
    info = ModelInfo(DeepLab(kind="deeplab_v2"), CLASSES, prepare, ("source_labels",))
    statistics = CaseStatistics(photo_geometry((16, 20), SIZE))
    statistics.add(logits()[0])
    found = statistics.measures(info)
    assert found["ratio/background"] + found["ratio/disk"] + found["ratio/ring"] == pytest.approx(1)
    assert "confidence/background" in found


def test_the_plane_to_look_at_shows_most_of_the_structures() -> None:
    values = torch.zeros(DEPTH, 3, *SIZE)
    values[:, 0] = 1
    values[3, 2, :4] = 9
    values[1, 1, :1] = 9
    statistics = tallied([values])
    assert statistics.number == 3
    assert (statistics.plane[0] == 2).sum() == 4 * SIZE[1]
    assert statistics.plane[1][0, 0] < 5 < 200 < statistics.plane[1][7, 0]


def test_the_plane_to_look_at_is_the_middle_one_where_nothing_is_found() -> None:
    values = torch.zeros(DEPTH, 3, *SIZE)
    values[:, 0] = 1
    assert tallied([values]).number == DEPTH // 2


def test_an_answer_that_is_no_number_is_noticed() -> None:
    values = logits()
    values[2, 1, 3, 3] = float("nan")
    statistics = tallied([values])
    assert not statistics.finite
    assert statistics.measures(KNOWS) == {}
    assert tallied([logits()]).finite


# what a model knows of its images


def test_ranges_are_over_the_cases_that_have_a_measure() -> None:
    found = ranges_over([{"a": 1.0}, {"a": 3.0, "b": 5.0}]).ranges
    assert found["b"] == Range(5, 5, 1)
    assert found["a"].cases == 2
    assert 1 <= found["a"].low < 1.05 < 2.95 < found["a"].high <= 3


def test_one_stray_case_of_many_does_not_open_a_range() -> None:
    cases = [{"a": float(n % 10)} for n in range(400)] + [{"a": 1e6}]
    assert ranges_over(cases).ranges["a"].high <= 9


def test_a_description_with_ranges_comes_back_from_json() -> None:
    path = Path("model")
    assert ModelInfo.from_json(KNOWS.to_json(), path) == KNOWS
    assert "images" not in describe().to_json()  # of older models: unchanged, and readable
    assert ModelInfo.from_json(describe().to_json(), path).images is None


@pytest.mark.parametrize(
    "broken", ['{"slices": 3}', '{"slices": {"low": 2, "high": 1, "cases": 3}}', "[1]"]
)
def test_ranges_that_cannot_be_true_are_refused(broken: str) -> None:
    text = describe().to_json()[:-1] + f', "images": {broken}}}'
    with pytest.raises(ModelError, match="description is incomplete"):
        ModelInfo.from_json(text, Path("model"))


# flags


def flagged(info: ModelInfo = KNOWS, **changed: float) -> list[tuple[str, str]]:
    names = {name.replace("__", "/"): value for name, value in changed.items()}
    return [(f.kind, f.measure) for f in flags_of({**OWN_IMAGES[4], **names}, info)]


def test_a_case_like_the_models_own_images_has_no_flag() -> None:
    for case in OWN_IMAGES:
        assert flags_of(case, KNOWS) == ()


def test_each_kind_of_stranger_is_flagged_by_its_kind() -> None:
    assert flagged(intensity_p95=600) == [("intensity", "intensity_p95")]
    assert flagged(roughness=0.4) == [("intensity", "roughness")]
    assert flagged(height_mm=90) == [("field of view", "height_mm")]
    assert flagged(slices=60) == [("field of view", "slices")]
    assert flagged(ratio__disk=0.2) == [("class ratio", "ratio/disk")]
    assert flagged(ratio__ring=0) == [("class ratio", "ratio/ring")]
    assert flagged(confidence__ring=0.6) == [("confidence", "confidence/ring")]


def test_flags_come_by_kind_and_in_the_order_of_the_classes() -> None:
    found = flagged(confidence=0.1, ratio__ring=0.9, ratio__disk=0.9, slices=1, intensity_p5=-900)
    assert [kind for kind, _ in found] == [KINDS[1], KINDS[2], KINDS[3], KINDS[3], KINDS[4]]
    assert found[2:4] == [("class ratio", "ratio/disk"), ("class ratio", "ratio/ring")]


def test_a_flag_says_value_usual_range_and_what_to_do() -> None:
    (flag,) = flags_of({**OWN_IMAGES[0], "height_mm": 90.0}, KNOWS)
    assert flag.what == f"height of a slice is 90 mm (200 to 209 mm {OWN})"
    assert flag.low == pytest.approx(200.09 / 1.25)
    assert flag.high == pytest.approx(208.91 * 1.25)
    assert "voxel size in its header" in flag.fix
    (lost,) = flags_of({**OWN_IMAGES[0], "ratio/ring": 0.0}, KNOWS)
    assert lost.what == "ring is not found"


def test_where_no_structure_is_found_that_is_said_once() -> None:
    (flag,) = flags_of({"ratio/disk": 0.0, "ratio/ring": 0.0}, KNOWS)
    assert flag.what == "none of the structures is found"
    assert [f.what for f in flags_of({"ratio/disk": 0.0}, describe())] == [flag.what]


def test_a_structure_that_was_never_found_has_no_usual_size() -> None:
    info = describe(ranges_over([{**case, "ratio/disk": 0.0} for case in OWN_IMAGES]))
    assert flagged(info, ratio__disk=0.3) == []


def test_margins_widen_in_the_measures_own_way() -> None:
    assert accepted("intensity_p5", -900, -800, span=1000) == (-1150, -550)
    assert accepted("height_mm", 100, 200, span=1000) == (80, 250)
    assert accepted("ratio/disk", 0.1, 0.2, span=0) == (0.05, 0.4)
    assert accepted("ratio/disk", 0.0, 0.2, span=0)[0] == 0  # may be missing where it sometimes was
    assert accepted("confidence", 0.75, 0.9, span=0) == (0.65, 1.0)
    assert accepted("red", 0.25, 0.5, span=0) == pytest.approx((0.2, 0.55))


def test_a_model_that_does_not_know_its_images_says_so_and_judges_by_its_training_labels() -> None:
    info = describe(class_ratio=(0.9, 0.02, 0.08))
    assert unknown(info) == ("intensity", "field of view")
    assert unknown(KNOWS) == ()
    assert set(expectations(info)) == {"confidence", "ratio/disk", "ratio/ring"}
    assert flagged(info, intensity_p95=1e6) == []
    assert flagged(info, ratio__disk=0.09) == [("class ratio", "ratio/disk")]
    assert flagged(info, confidence=0.69) == [("confidence", "confidence")]
    (flag,) = flags_of({**OWN_IMAGES[0], "ratio/disk": 0.09}, info)
    assert "labels it was trained with" in flag.what


def test_of_a_photograph_the_confidence_of_a_single_class_is_no_reason() -> None:
    prepare = PhotoPrepare(kind="photo", size=SIZE)
    info = ModelInfo(
        DeepLab(kind="deeplab_v2"), CLASSES, prepare, (), images=ranges_over(OWN_IMAGES)
    )
    assert flagged(info, confidence__ring=0.1) == []
    assert flagged(info, confidence=0.1) == [("confidence", "confidence")]


def test_numbers_are_worded_for_a_reader() -> None:
    assert in_words("ratio/disk", 0.0123, 0.5) == "1.23 to 50 %"
    assert in_words("ratio/disk", 0.00001) == "below 0.01 %"
    assert in_words("height_mm", 163.4, 163.4) == "163 mm"
    assert in_words("intensity_p5", -980.2, -12.34) == "-980 to -12.3"


# measures that validation images calibrate


def masks(seed: int = 0) -> torch.Tensor:
    """Logits whose most likely classes are blobs in several pieces; all are far from even."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).normal(size=(3, DEPTH, *SIZE))
    smooth = np.stack([gaussian_filter(one, 1.0) for one in noise])
    return torch.from_numpy(20 * smooth).float().movedim(0, 1)


@pytest.mark.parametrize("seed", range(8))
def test_shape_is_that_of_the_whole_volume(seed: int) -> None:
    from scipy.ndimage import label

    values = masks(seed)
    found, seen = tallied([values]).calibrated(KNOWS), values.argmax(1).numpy()
    assert all(0 <= value <= 1 for value in found.values())
    for k, name in list(enumerate(CLASSES))[1:]:
        mask = seen == k
        pieces, _ = label(mask)
        largest = np.bincount(pieces.ravel())[1:].max()
        assert found[f"stray/{name}"] == pytest.approx(1 - largest / mask.sum())
        both = 2 * (mask[1:] & mask[:-1]).sum()
        neighbours = both / (mask[1:].sum() + mask[:-1].sum())
        length = mask.any((1, 2)).sum()
        assert found[f"continuity/{name}"] == pytest.approx(neighbours ** (length / 10))
        assert found[f"share/{name}"] == pytest.approx(mask.sum() / (seen > 0).sum())
    assert max(found["stray/disk"], found["stray/ring"]) > 0
    assert tallied(list(values.split(2))).calibrated(KNOWS) == found


def test_pieces_that_meet_in_a_later_slice_are_one() -> None:
    values = torch.zeros(DEPTH, 3, *SIZE)
    values[:, 0] = 1
    values[:, 1, 2, 1] = values[:, 1, 2, 5] = 9  # two columns …
    assert tallied([values]).calibrated(KNOWS)["stray/disk"] == pytest.approx(0.5)
    values[-1, 1, 2, 1:6] = 9  # … and a bridge
    assert tallied([values]).calibrated(KNOWS)["stray/disk"] == 0


def cone(slices: int) -> torch.Tensor:
    """Logits of a square that shrinks along the stack and lies inside it."""
    values = torch.zeros(slices + 2, 2, 64, 64)
    values[:, 0] = 1
    for at in range(slices):
        side = round(60 * (1 - at / (2 * slices)))
        values[at + 1, 1, :side, :side] = 9
    return values


def test_continuity_is_the_same_of_thin_and_of_thick_slices() -> None:
    found = []
    for slices in (8, 16, 32):
        shape = _Shape()
        for plane in cone(slices).argmax(1).numpy():
            shape.add(plane.astype(np.uint8), 2)
        found.append(shape.continuity(1))
    assert found == pytest.approx([found[0]] * 3, abs=0.01)
    assert 0.75 < found[0] < 0.9


def test_a_structure_that_is_not_found_counts_as_no_confidence() -> None:
    values = logits()
    values[:, 2] = -50
    found = tallied([values]).calibrated(KNOWS)
    alone = tallied([values]).measures(KNOWS)["confidence/disk"]
    assert found["confidence_overall"] == pytest.approx(alone / 2)
    assert found["continuity/ring"] == found["share/ring"] == 0
    assert "stray/ring" not in found


def test_a_single_plane_has_no_shape() -> None:
    statistics = CaseStatistics(photo_geometry(SIZE, SIZE))
    statistics.add(logits()[0])
    assert statistics.measures(KNOWS)
    assert statistics.calibrated(KNOWS) == {}


# calibrated limits


PEOPLE = [f"p{number:02d}" for number in range(99)]


def limits_of(measures: list[dict[str, float]], dice: list[float], people: int = 99) -> Limits:
    return limits_from(measures, dice, [PEOPLE[at % people] for at in range(len(dice))])


def test_a_limit_lies_between_the_last_sound_prediction_and_the_next_poor_one() -> None:
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.6, *[0.9] * 9]
    dice = [0.2, 0.3, 0.1, 0.4, 0.6, 0.5, *[0.9] * 10]  # the poor one at 0.7 lies among the sound
    for name, sign in (("low", 1), ("high", -1)):
        found = limits_of([{name: v if sign > 0 else 1 - v} for v in values], dice)
        assert found.accepted == {name: (0.55, 1.0) if sign > 0 else (0.0, 0.45)}
        assert (found.dice, found.predictions, found.poor) == (0.7, 16, 6)


@pytest.mark.parametrize("dice", [[0.5] * 8, [0.9] * 8, [0.9, *[0.5] * 7]])
def test_where_predictions_do_not_tell_there_is_no_limit(dice: list[float]) -> None:
    assert limits_of([{"a": n / 8} for n in range(8)], dice).accepted.get("a", (0, 1))[0] == 0


def test_few_poor_predictions_say_too_little() -> None:
    def limits(poor: int) -> dict[str, tuple[float, float]]:
        dice = [0.5] * poor + [0.9] * 10
        return dict(limits_of([{"a": n / 20} for n in range(len(dice))], dice).accepted)

    assert limits(FEWEST - 1) == {}
    assert limits(FEWEST) == {"a": ((FEWEST - 0.5) / 20, 1.0)}


def test_a_measure_that_some_predictions_lack_is_judged_by_the_others() -> None:
    measures = [{"a": n / 20} if n != 5 else {} for n in range(20)]
    found = limits_of(measures, [0.5] * 7 + [0.9] * 13).accepted
    assert found["a"] == pytest.approx((0.325, 1.0))


def test_limits_lie_on_the_sides_on_which_a_prediction_may_be_poor() -> None:
    names = ["stray/a", "continuity/a", "confidence_overall", "share/a"]
    ends = []
    for poor in (0.1, 0.9):
        measures = [{name: value} for name in names for value in [poor] * 9 + [0.5] * 9]
        found = limits_from(measures, ([0.5] * 9 + [0.9] * 9) * 4, PEOPLE[:72], worse)
        ends.append(set(found.accepted))
    assert ends == [{*names[1:]}, {"stray/a", "share/a"}]


def poor_in_turn(people: int) -> Limits:
    """Limits where a is low in 5 poor predictions, b in 10, c in 15 and d in 20; each finds those before it, too."""
    measures = [
        {name: 0.1 if at < FEWEST * (1 + "abcd".index(name)) else 0.5 for name in "abcd"}
        for at in range(4 * FEWEST)
    ]
    dice = [0.5] * len(measures) + [0.9] * people
    return limits_of(measures + [dict.fromkeys("abcd", 0.5) for _ in range(people)], dice, people)


@pytest.mark.parametrize(
    ("people", "taken"), [(8, ""), (9, "d"), (19, "cd"), (29, "bcd"), (99, "abcd")]
)
def test_so_many_limits_are_taken_that_few_sound_predictions_of_new_cases_are_flagged(
    people: int, taken: str
) -> None:
    """Chances of 1 / (n + 1) each, and of 0.1 together; those that find most come first."""
    assert "".join(poor_in_turn(people).accepted) == taken


LIMITED = describe(
    ranges_over(OWN_IMAGES),
    limits=Limits(0.7, 70, 27, {"confidence_overall": (0.8, 1.0), "stray/disk": (0.0, 0.1)}),
)


def test_calibrated_limits_flag_and_say_where_they_come_from() -> None:
    case = {**OWN_IMAGES[0], "confidence_overall": 0.75, "stray/disk": 0.25}
    assert flags_of(case, KNOWS) == ()  # a model without limits has no such flag
    sure, shape = flags_of(case, LIMITED)
    assert (shape.kind, shape.measure, shape.low, shape.high) == ("shape", "stray/disk", 0.0, 0.1)
    assert shape.what == (
        "share of disk outside its largest piece is 25 % "
        "(0 to 10 % where source images have a Dice of 70 or more)"
    )
    assert sure.what.startswith("confidence over all structures is 0.75 (0.80 to 1 where source")
    assert sure.fix
    sound = {**case, "confidence_overall": 0.9, "stray/disk": 0.05}
    assert flags_of(sound, LIMITED) == ()


@pytest.mark.parametrize(("poor", "flagged"), [(70, True), (69, False)])
def test_every_case_of_a_model_that_was_never_good_is_flagged(poor: int, flagged: bool) -> None:
    flags = flags_of(
        OWN_IMAGES[0], describe(ranges_over(OWN_IMAGES), limits=Limits(0.7, 70, poor, {}))
    )
    assert [flag.kind for flag in flags] == ["model"] * flagged
    for flag in flags:
        assert (
            flag.what
            == "all 70 predictions of the source's own labelled images had a Dice below 70"
        )
        assert flag.fix.startswith("no limit tells")


def test_a_description_with_limits_comes_back_from_json_and_one_without_has_no_trace() -> None:
    assert ModelInfo.from_json(LIMITED.to_json(), Path("model")) == LIMITED
    assert '"limits"' not in KNOWS.to_json()


@pytest.mark.parametrize(
    "broken", ["[0.9, 0.1]", "[NaN, 1.0]", "[-0.1, 1.0]", "[0.1]", '"0.1"', "[0.1, 1.5]"]
)
def test_limits_that_cannot_be_true_are_refused(broken: str) -> None:
    text = LIMITED.to_json().replace("[0.8, 1.0]", broken)
    assert text != LIMITED.to_json()
    with pytest.raises(ModelError):
        ModelInfo.from_json(text, Path("model"))
