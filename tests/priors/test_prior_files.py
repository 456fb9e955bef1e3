"""A prior's sizes and maps: validated, written atomically, read back unchanged."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from uda.errors import DataError, PriorError, RunError
from uda.files.atomic import write_json
from uda.files.digests import fingerprint
from uda.priors import Prior, SizeDistribution, from_source_labels, relative_maps

CLASSES = ("background", "disk", "ring")
SIZES = SizeDistribution(
    (1.0, 0.5, 0.0),
    ((0.5, 0.6, 0.7, 0.8, 0.9), (0.1, 0.1, 0.2, 0.3, 1 / 3), (0.0, 0.0, 0.0, 0.0, 0.0)),
)


def maps(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed)).softmax(0)


def prior(**changes: Any) -> Prior:
    plain = Prior(CLASSES, (0.7, 0.2, 0.1), ("source_labels",), "by hand")
    return replace(plain, **changes)


# Validation ----------------------------------------------------------------------------------------


def test_sound_sizes_and_maps_are_returned() -> None:
    sound = prior(sizes=SIZES, maps=maps())
    assert sound.validate(CLASSES) is sound


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (replace(SIZES, shown=(1.0, 0.5)), "sizes.shown has 2 entries"),
        (replace(SIZES, quantiles=SIZES.quantiles[:2]), "sizes.quantiles has 2 entries"),
        (replace(SIZES, shown=(1.0, 1.5, 0.0)), "sizes.shown is [1.0, 1.5, 0.0]"),
        (replace(SIZES, shown=(1.0, -0.5, 0.0)), "sizes.shown is [1.0, -0.5, 0.0]"),
        (replace(SIZES, shown=(1.0, float("nan"), 0.0)), "sizes.shown is [1.0, nan, 0.0]"),
        (
            replace(SIZES, quantiles=((0.9, 0.8, 0.7, 0.6, 0.5), *SIZES.quantiles[1:])),
            "sizes.quantiles.0 is [0.9, 0.8",
        ),
        (
            replace(SIZES, quantiles=(*SIZES.quantiles[:2], (0.0, 0.0, float("nan"), 0.0, 0.0))),
            "sizes.quantiles.2 is [0.0, 0.0, nan",
        ),
        (
            replace(SIZES, quantiles=(*SIZES.quantiles[:2], (0.1, 0.2, 0.3))),
            "sizes.quantiles.2 is [0.1, 0.2, 0.3]",
        ),
        (
            replace(SIZES, quantiles=(*SIZES.quantiles[:2], (0.0, 0.0, 0.0, 0.0, 1.2))),
            "sizes.quantiles.2 is [0.0, 0.0, 0.0, 0.0, 1.2]",
        ),
    ],
)
def test_sizes_no_slices_can_have_are_refused(sizes: SizeDistribution, message: str) -> None:
    with pytest.raises(PriorError) as caught:
        prior(sizes=sizes).validate(CLASSES, "prior.json")
    for text in (message, "prior.json", "expected:", "fix:"):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.ones(2, 4, 5) / 2, "maps have shape (2, 4, 5)"),
        (torch.ones(3, 4) / 3, "maps have shape (3, 4)"),
        (torch.ones(3, 4, 5), "do not sum to 1"),
        (torch.ones(3, 0, 5), "do not sum to 1"),
        (torch.tensor([2.0, -0.5, -0.5]).view(3, 1, 1).expand(3, 4, 5), "values from -0.5 to 2"),
        (torch.full((3, 4, 5), float("nan")), "values from nan"),
    ],
)
def test_maps_that_are_no_class_frequencies_are_refused(wrong: torch.Tensor, message: str) -> None:
    with pytest.raises(PriorError) as caught:
        prior(maps=wrong).validate(CLASSES, "prior.json")
    for text in (message, "prior.json", "expected:", "fix:"):
        assert text in str(caught.value)


def test_faults_of_ratio_sizes_and_maps_are_listed_together() -> None:
    wrong = prior(ratio=(0.5, 0.5), sizes=replace(SIZES, shown=()), maps=torch.ones(3, 4, 5))
    with pytest.raises(PriorError, match="3 faults in the prior"):
        wrong.validate(CLASSES)


# Identity ------------------------------------------------------------------------------------------


def test_priors_are_equal_when_all_they_say_is() -> None:
    whole = prior(sizes=SIZES, maps=maps())
    assert whole == prior(sizes=SIZES, maps=maps().clone())
    assert hash(whole) == hash(prior(sizes=SIZES, maps=maps().clone()))
    others = [
        prior(sizes=SIZES, maps=maps(1)),
        prior(sizes=SIZES, maps=maps().reshape(3, 5, 4)),
        prior(sizes=replace(SIZES, shown=(1.0, 0.25, 0.0)), maps=maps()),
        prior(maps=maps()),
        prior(sizes=SIZES),
        prior(images={"a": {0: (1.0, 0.0, 0.0)}}),
        prior(how="otherwise"),
    ]
    assert all(whole != other for other in others)
    assert len({p.fingerprint() for p in others}) == len(others)


def test_a_prior_without_sizes_and_maps_has_the_fingerprint_it_had_before_there_were_any() -> None:
    plain = prior(images={"a": {0: (1.0, 0.0, 0.0)}})
    names = ("classes", "ratio", "supervision", "how", "images")
    assert plain.fingerprint() == fingerprint({name: getattr(plain, name) for name in names})


# Files ---------------------------------------------------------------------------------------------


def test_sizes_and_maps_come_back_bit_for_bit(tmp_path: Path) -> None:
    before = prior(sizes=SIZES, maps=maps(), images={"a": {3: (0.2, 0.3, 0.5)}})
    before.save(tmp_path / "prior.json")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"prior.json", "prior.safetensors", "prior.png"}
    for place in (tmp_path, tmp_path / "prior.json"):
        after = Prior.load(place)
        assert after == before
        assert after.maps is not None
        assert torch.equal(after.maps, maps())
        assert after.sizes == SIZES


def test_maps_are_stored_as_float32_whatever_they_were(tmp_path: Path) -> None:
    prior(maps=maps().double()).save(tmp_path / "prior.json")
    assert Prior.load(tmp_path) == prior(maps=maps().double())
    loaded = Prior.load(tmp_path).maps
    assert loaded is not None
    assert loaded.dtype == torch.float32


def test_the_picture_is_a_png_and_the_same_one_each_time(tmp_path: Path) -> None:
    odd = prior(classes=("a$b$", "x", "y"), maps=maps())
    odd.save(tmp_path / "one.json")
    odd.save(tmp_path / "two.json")
    picture = (tmp_path / "one.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n")
    assert (tmp_path / "two.png").read_bytes() == picture
    prior(maps=maps(1)).save(tmp_path / "three.json")
    assert (tmp_path / "three.png").read_bytes() != picture


def test_a_prior_of_ratios_alone_writes_the_file_it_always_wrote(tmp_path: Path) -> None:
    prior().save(tmp_path / "prior.json")
    raw = json.loads((tmp_path / "prior.json").read_text())
    assert list(raw) == ["format", "classes", "ratio", "supervision", "how", "images"]
    assert [path.name for path in tmp_path.iterdir()] == ["prior.json"]


def test_a_file_of_the_older_kind_is_read(tmp_path: Path) -> None:
    raw = {
        "format": "uda-prior-1",
        "classes": CLASSES,
        "ratio": [0.7, 0.2, 0.1],
        "supervision": ["source_labels"],
        "how": "by hand",
        "images": None,
    }
    write_json(tmp_path / "prior.json", raw)
    assert Prior.load(tmp_path) == prior()


def test_files_take_their_names_from_the_json(tmp_path: Path) -> None:
    prior(maps=maps()).save(tmp_path / "mine.json")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"mine.json", "mine.safetensors", "mine.png"}
    for name in names:
        (tmp_path / name).rename(tmp_path / name.replace("mine", "yours"))
    assert Prior.load(tmp_path / "yours.json") == prior(maps=maps())


def test_maps_that_are_gone_are_missed(tmp_path: Path) -> None:
    prior(maps=maps()).save(tmp_path / "prior.json")
    (tmp_path / "prior.safetensors").unlink()
    with pytest.raises(PriorError, match=r"refers to maps \[3, 4, 5\]") as caught:
        Prior.load(tmp_path)
    assert str(tmp_path / "prior.safetensors") in str(caught.value)
    assert "uda prior" in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [{"maps": maps(1)}, {"maps": maps()[:, :2]}, {"other": maps()}, {"maps": maps().double()}],
    ids=["values", "shape", "name", "type"],
)
def test_maps_of_another_prior_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor]
) -> None:
    prior(maps=maps()).save(tmp_path / "prior.json")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, tmp_path / "prior.safetensors")
    with pytest.raises(PriorError, match=r"not those that prior\.json was written with"):
        Prior.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"half", b"\x80\x04K\x01."])
def test_maps_that_cannot_be_read_are_refused(tmp_path: Path, content: bytes) -> None:
    prior(maps=maps()).save(tmp_path / "prior.json")
    (tmp_path / "prior.safetensors").write_bytes(content)
    with pytest.raises(PriorError, match=r"prior\.safetensors") as caught:
        Prior.load(tmp_path)
    assert "uda prior" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"maps": "prior.safetensors"},
        {"maps": {"shape": [3, 4, 5]}},
        {"maps": {"shape": 3, "sha256": ""}},
        {"sizes": [1, 2]},
        {"sizes": {"shown": [1], "quantiles": [[1]]}},
        {"sizes": {**SIZES.as_json(), "levels": [0, 1]}},
        {"sizes": {**SIZES.as_json(), "quantiles": [0.1]}},
    ],
)
def test_a_json_edited_into_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = tmp_path / "prior.json"
    prior(sizes=SIZES, maps=maps()).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(PriorError, match="is not a prior") as caught:
        Prior.load(path)
    assert str(path) in str(caught.value)


def test_weights_of_that_name_are_not_replaced(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors", metadata={"uda": "{}"})
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(DataError, match="another file of this name, which would be replaced"):
        prior(maps=maps()).save(tmp_path / "model.json")
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    prior().save(tmp_path / "model.json")  # without maps nothing is in its way
    assert (tmp_path / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", ["prior.safetensors", "prior.png"])
def test_a_json_cannot_have_the_name_of_its_own_maps(tmp_path: Path, name: str) -> None:
    with pytest.raises(PriorError, match=f"a prior cannot be called {name}"):
        prior(maps=maps()).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("other", [prior(), prior(maps=maps(1))], ids=["ratios", "maps"])
def test_another_prior_of_this_name_is_not_replaced(tmp_path: Path, other: Prior) -> None:
    prior(maps=maps()).save(tmp_path / "prior.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError, match="another file of this name, which would be replaced"):
        other.save(tmp_path / "prior.json")
    prior(maps=maps()).save(tmp_path / "prior.json")  # the same prior again
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_killed_save_leaves_no_prior_and_the_next_one_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("uda.priors.prior.write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            prior(maps=maps()).save(tmp_path / "prior.json")
    assert list(tmp_path.iterdir()) == []
    prior(maps=maps()).save(tmp_path / "prior.json")
    assert Prior.load(tmp_path) == prior(maps=maps())


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_of_several_files_none_stays_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    calls, link = iter(range(moved)), os.link

    def stopped(*places: Path) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        link(*places)

    monkeypatch.setattr("uda.files.new.os.link", stopped)
    with pytest.raises(KeyboardInterrupt):
        prior(maps=maps()).save(tmp_path / "prior.json")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior(maps=maps()).save(tmp_path / "prior.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("uda.files.atomic.os.replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        prior(maps=maps(1)).save(tmp_path / "another.json")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# All target images and no others -------------------------------------------------------------------

IMAGES = {"a": {0: (1.0, 0.0, 0.0), 1: (0.5, 0.5, 0.0)}}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"b": {0: (1.0, 0.0, 0.0)}}, "1 images that the target does not have: b slice 0"),
        ({"a": {**IMAGES["a"], 2: (1.0, 0.0, 0.0)}}, "does not have: a slice 2"),
    ],
)
def test_rows_of_images_that_are_not_there_are_refused(extra: Any, message: str) -> None:
    places = [("a", 0), ("a", 1)]
    assert prior(images=IMAGES).table(places).shape == (2, 3)
    with pytest.raises(PriorError, match=message) as caught:
        prior(images={**IMAGES, **extra}).table(places)
    assert "2 target images" in str(caught.value)


def test_from_source_labels_takes_the_sizes_along() -> None:
    assert from_source_labels(CLASSES, (0.7, 0.2, 0.1), SIZES).sizes == SIZES
    assert from_source_labels(CLASSES, (0.7, 0.2, 0.1)).sizes is None


# Relative maps -------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    classes=st.sampled_from([2, 5, 19]),
    factor=st.floats(1e-3, 1e3),
    seed=st.integers(0, 99),
    volume=st.booleans(),
)
def test_a_relative_map_has_mean_1_and_knows_no_scale(
    classes: int, factor: float, seed: int, volume: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (classes, 3, 4, 5) if volume else (classes, 6, 7)
    frequencies = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.01
    relative = relative_maps(frequencies, 1e-6, 1e6)
    ones = torch.ones(classes, dtype=torch.float64)
    torch.testing.assert_close(relative.flatten(1).mean(1), ones)
    torch.testing.assert_close(relative_maps(frequencies * factor, 1e-6, 1e6), relative)
    clamped = relative_maps(frequencies, 0.5, 2)
    torch.testing.assert_close(clamped, relative.clamp(0.5, 2))


@pytest.mark.parametrize("share", [0.0, 1e-30, 0.3, 1.0])
def test_a_class_that_is_as_likely_everywhere_becomes_1(share: float) -> None:
    flat = torch.full((2, 3, 4), share)
    torch.testing.assert_close(relative_maps(flat), torch.ones(2, 3, 4))


@pytest.mark.parametrize(("low", "high"), [(0.0, 10.0), (-1.0, 10.0), (2.0, 10.0), (0.1, 0.5)])
def test_bounds_that_forbid_or_force_a_class_are_refused(low: float, high: float) -> None:
    with pytest.raises(PriorError, match="low"):
        relative_maps(maps(), low, high)


@pytest.mark.parametrize(
    "wrong", [-maps(), torch.full((2, 3, 4), float("nan")), torch.full((2, 3), float("inf"))]
)
def test_what_is_no_frequency_has_no_relative_map(wrong: torch.Tensor) -> None:
    with pytest.raises(PriorError, match="cannot be class frequencies"):
        relative_maps(wrong)
