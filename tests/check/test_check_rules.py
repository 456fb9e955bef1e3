"""The rules of a check: no finding on valid scans, findings on corrupted ones, exact thresholds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.check.rules import (
    Facts,
    Intensities,
    absent_structures,
    cut_structures,
    data_set_notes,
    eight_bit,
    intensities_of,
    inverted,
    lacks_offset,
    unused_structures,
)
from uda.config.card import DatasetCard
from uda.data.geometry import turn_to, turned
from uda.data.synthetic.phantom.dataset import Modality, render_subject

FILE = Path("scan.nii.gz")
SUBJECTS: list[tuple[Modality, int]] = [("mr", 1004), ("ct", 1002), ("ct", 1004)]


def card(modality: str | None = None, **prepare: Any) -> DatasetCard:
    return DatasetCard.model_validate(
        {
            "name": "c",
            "title": "t",
            "images": "{case}.nii.gz",
            "modality": modality,
            "classes": ["background", "lv", "rv"],
            "label_values": {"background": [0], "lv": [1], "rv": [2]},
            "prepare": {"size": [32, 32], **prepare},
        }
    )


@cache
def slices_of(modality: Modality, subject: int) -> np.ndarray:
    volume = render_subject(modality, subject)
    return turned(volume.image, turn_to(volume.affine, "RAS"), 2)


@pytest.fixture(params=SUBJECTS, ids=lambda p: f"{p[0]}-{p[1]}")
def scan(request: pytest.FixtureRequest) -> tuple[str, np.ndarray]:
    """Modality and slices of a valid scan."""
    modality, subject = request.param
    return modality, slices_of(modality, subject)


def findings(slices: np.ndarray, card: DatasetCard) -> set[str]:
    """Names of the rules with a finding."""
    seen = intensities_of(slices)
    return {rule.__name__ for rule in (lacks_offset, inverted, eight_bit) if rule(seen, card, FILE)}


def test_a_sound_scan_has_nothing_to_tell(scan: tuple[str, np.ndarray]) -> None:
    modality, slices = scan
    assert findings(slices, card(modality)) == set()


def test_an_inverted_scan_is_reported(scan: tuple[str, np.ndarray]) -> None:
    modality, slices = scan
    upside_down = int(slices.max()) + int(slices.min()) - slices.astype(np.int32)
    assert "inverted" in findings(upside_down, card(modality))
    assert "inverted" in findings(-slices.astype(np.int32), card(modality))


def test_a_scan_exported_as_a_picture_is_reported(scan: tuple[str, np.ndarray]) -> None:
    modality, slices = scan
    low, high = np.percentile(slices, (0.5, 99.5))
    picture = (np.clip((slices - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    assert findings(picture, card(modality)) == {"eight_bit"}
    assert findings(picture / np.float32(255), card(modality)) == set()


def test_a_ct_without_its_offset_is_reported_until_the_card_adds_it() -> None:
    slices = slices_of("ct", 1002) + 1024
    error = lacks_offset(intensities_of(slices), card("ct"), FILE)
    assert error is not None
    assert "set prepare.offset: -1024 in the card" in str(error.fix)
    assert error.where == FILE
    assert findings(slices, card("ct", offset=-1024)) == set()
    assert findings(slices, card("mr")) == set()


def test_without_a_modality_nothing_is_expected_of_intensities() -> None:
    slices = -slices_of("ct", 1002).astype(np.int32) + 4000
    assert findings(slices, card()) == set()


SOUND = Intensities(-1000, 1500, (-990, 0, 400), False, 0.0, 0.5, 0.2)


@pytest.mark.parametrize(
    ("changed", "fires"),
    [
        ({"low": 0, "percentiles": (0, 1000, 1001)}, True),
        ({"low": 0, "percentiles": (0, 900, 1000)}, False),
        ({"low": -1, "percentiles": (0, 1000, 1001)}, False),
    ],
)
def test_the_threshold_of_a_missing_offset(changed: dict[str, Any], fires: bool) -> None:
    assert (lacks_offset(replace(SOUND, **changed), card("ct"), FILE) is not None) == fires


@pytest.mark.parametrize(
    ("bright", "dark", "middle", "fires"),
    [
        (0.21, 0.08, 0.1, True),
        (0.20, 0.08, 0.1, False),
        (0.25, 0.10, 0.1, False),
        (0.26, 0.10, 0.1, True),
        (0.26, 0.10, 0.3, False),
    ],
)
def test_the_threshold_of_inversion(bright: float, dark: float, middle: float, fires: bool) -> None:
    seen = replace(SOUND, corners_bright=bright, corners_dark=dark, middle_bright=middle)
    assert (inverted(seen, card("mr"), FILE) is not None) == fires


@pytest.mark.parametrize(
    ("low", "high", "whole", "fires"),
    [
        (0, 255, True, True),
        (0, 128, True, True),
        (0, 127, True, False),
        (0, 256, True, False),
        (-1, 255, True, False),
        (0, 255, False, False),
    ],
)
def test_the_threshold_of_a_picture(low: float, high: float, whole: bool, fires: bool) -> None:
    seen = replace(SOUND, low=low, high=high, whole=whole)
    assert (eight_bit(seen, card("mr"), FILE) is not None) == fires


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), shift=st.floats(-500, 500))
@settings(max_examples=20, deadline=None)
def test_inversion_does_not_depend_on_units_and_never_holds_both_ways(
    seed: int, scale: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    slices = rng.normal(size=(2, 16, 16)) + 2 * rng.normal(size=(1, 16, 16))
    both = [inverted(intensities_of(s), card("mr"), FILE) for s in (slices, -slices)]
    assert None in both
    scaled = inverted(intensities_of(slices * scale + shift), card("mr"), FILE)
    assert (scaled is None) == (both[0] is None)


@given(seed=st.integers(0, 999), flip=st.sampled_from([0, 1, 2]))
@settings(max_examples=10, deadline=None)
def test_statistics_do_not_depend_on_how_a_scan_is_turned(seed: int, flip: int) -> None:
    slices = np.random.default_rng(seed).integers(-1000, 1000, (3, 16, 24))
    expected = intensities_of(slices)
    assert intensities_of(np.flip(slices, flip)) == expected
    assert intensities_of(slices.transpose(0, 2, 1)) == expected


# One case against the others ---------------------------------------------------------------------


def facts(case: str, **changed: Any) -> Facts:
    seen = changed.pop("intensities", SOUND)
    known: dict[str, Any] = {"codes": "RAS", "spacing": (3.0, 1.5, 1.5)} | changed
    return Facts(case, Path(f"{case}.nii.gz"), intensities=seen, **known)


def notes(*odd: Facts, usual: int = 5, orientation: str = "RAS") -> list[str]:
    cases = [*(facts(f"c{i}") for i in range(usual)), *odd]
    return [str(note) for note in data_set_notes(cases, card("ct", orientation=orientation))]


def test_like_cases_have_nothing_to_tell() -> None:
    assert notes() == []


def test_a_spacing_beyond_twice_the_median_is_reported() -> None:
    assert notes(facts("odd", spacing=(6.0, 0.75, 1.5))) == []
    (text,) = notes(facts("odd", spacing=(6.1, 1.5, 1.5)))
    assert "the distance between slices is 6.1 mm" in text
    assert "odd.nii.gz" in text
    assert "median of the 6 cases, 3 mm" in text
    assert "width of a pixel" in notes(facts("odd", spacing=(3.0, 1.5, 0.7)))[0]
    assert notes(facts("odd", spacing=(9.0, 1.5, 1.5)), usual=1) == []


def test_intensities_far_from_the_others_are_reported() -> None:
    far = replace(SOUND, percentiles=(-990, 0, 400 + 3 * SOUND.range + 1))
    flat = replace(SOUND, percentiles=(0, 1, 100))
    near = replace(SOUND, percentiles=(-990, 0, 400 + 3 * SOUND.range - 1))
    assert notes(facts("odd", intensities=near)) == []
    for seen in (far, flat):
        (text,) = notes(facts("odd", intensities=seen))
        assert "intensities differ from other cases" in text
        assert "odd.nii.gz" in text
        assert notes(facts("odd", intensities=seen), usual=3) == []


def test_several_orientations_matter_only_where_axes_are_kept_as_stored() -> None:
    odd = facts("odd", codes="LAS")
    assert notes(odd) == []
    (text,) = notes(odd, orientation="stored")
    assert "RAS (5), LAS (1)" in text
    assert "odd.nii.gz is LAS" in text


def test_a_structure_that_no_label_shows_is_reported_with_its_value() -> None:
    cases = [facts("a", labelled=True, counts={"lv": 3}), facts("b"), facts("c", labelled=True)]
    (error,) = unused_structures(cases, card(), Path("dataset.json"))
    assert "class 'rv' occurs in none of the 2 labels" in error.what
    assert error.where == Path("dataset.json")
    assert "value 2" in str(error.expected)
    assert unused_structures([facts("b")], card(), FILE) == []


def test_absent_and_cut_structures_are_reported_by_name() -> None:
    assert absent_structures({"lv": 1, "rv": 2}, card(), FILE) == []
    assert "no voxel of rv" in absent_structures({"lv": 1}, card(), FILE)[0].what
    assert cut_structures({"lv": 0.99, "rv": 1.0}, card(), FILE) == []
    (error,) = cut_structures({"lv": 0.985, "rv": 1.0}, card(), FILE)
    assert error.what == "the crop cuts off labelled voxels: lv 1.5 %"
    assert "prepare.crop: foreground" in str(error.fix)
