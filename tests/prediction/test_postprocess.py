"""Post-processing: each step equals a plain reference over the whole volume, a few slices at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor, nn

from uda.config.card import PhotoPrepare, Prepare
from uda.config.loading import override, parse
from uda.config.networks import Network
from uda.config.postprocess import NO_STEPS, Postprocess, steps_named
from uda.config.recipe import Compute, Evaluate
from uda.data.cases import Case
from uda.data.slabs import slab_of
from uda.devices.device import make_fabric
from uda.errors import ConfigError
from uda.networks.model_file import ModelInfo
from uda.prediction.photos import photo_logits, read_prepared
from uda.prediction.postprocess import cleaned, smoothed
from uda.prediction.views import VIEWS, View
from uda.prediction.volumes import logit_planes, predict_case, read_case

CPU = make_fabric(Compute(device="cpu"))
CLASSES = ("background", "a", "b")
PATCH = (4, 16, 12)


def dark_corner(image: np.ndarray) -> np.ndarray:
    """With its minimum where every view shows it, so that all are padded alike."""
    image[:, :3, :3] = image.min()
    return image


def describe(patch: tuple[int, int, int] | None = None, **prepare: Any) -> ModelInfo:
    network = Network() if patch is None else Network(spatial_dims=3, patch=patch)
    settings_ = Prepare(**{"size": (20, 16), "normalize": "none", **prepare})
    return ModelInfo(network, CLASSES, settings_, ("source_labels",))


def network(channels: int = 1, dims: int = 2, kernel: int = 3) -> nn.Module:
    kind = nn.Conv2d if dims == 2 else nn.Conv3d
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(channels, 3, kernel, padding=kernel // 2).requires_grad_(False)


def volume(slices: int = 9, shape: tuple[int, int] = (20, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(slices, *shape)).astype(np.float32)


def probabilities(planes: Iterator[Tensor]) -> np.ndarray:
    return torch.cat(list(planes)).softmax(1).numpy()


# views


def warped(planes: np.ndarray, degrees: float, factor: float) -> np.ndarray:
    """Every plane ``[h, w]`` of an array turned and scaled about its centre by scipy."""
    angle = np.radians(degrees)
    matrix = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = (np.array(planes.shape[-2:]) - 1) / 2
    out = np.empty_like(planes)
    for index in np.ndindex(planes.shape[:-2]):
        out[index] = ndimage.affine_transform(
            planes[index], matrix, centre - matrix @ centre, order=1, mode="nearest"
        )
    return out


def shown(shape: tuple[int, int], view: View) -> np.ndarray:
    """Which pixels of the image lie within the view's frame."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in shape)
    angle = np.radians(-view.degrees)
    x, y = x[None, :], y[:, None]
    to_x = view.scale * (np.cos(angle) * x - np.sin(angle) * y)
    to_y = view.scale * (np.sin(angle) * x + np.cos(angle) * y)
    return (abs(to_x) <= (shape[1] - 1) / 2 + 1e-4) & (abs(to_y) <= (shape[0] - 1) / 2 + 1e-4)


def softmax_of(model: nn.Module, info: ModelInfo, image: np.ndarray) -> np.ndarray:
    return probabilities(logit_planes(model, info, image, CPU))


KINDS: dict[str, tuple[nn.Module, ModelInfo, np.ndarray]] = {
    "2-D": (network(), describe(), volume()),
    "slab": (network(3), describe(slab=3), volume()),
    "channels": (
        network(3),
        describe(slab=3),
        slab_of(volume(), np.arange(9), 0, 9, 3) + volume(27).reshape(9, 3, 20, 16),
    ),
    "3-D": (network(dims=3), describe(PATCH), volume()),
    "3-D padded": (network(dims=3), describe((4, 24, 24)), dark_corner(volume(3))),
}
EACH_KIND = pytest.mark.parametrize("kind", KINDS)


@EACH_KIND
def test_views_are_the_mean_over_what_scipy_turns_there_and_back(kind: str) -> None:
    model, info, image = KINDS[kind]
    total, count = np.zeros((len(image), 3, 20, 16)), np.zeros((20, 16))
    for view in VIEWS:
        p = softmax_of(model, info, warped(image, view.degrees, 1 / view.scale))
        inside = shown((20, 16), view)
        total += warped(p, -view.degrees, view.scale) * inside
        count += inside
    found = probabilities(logit_planes(model, info, image, CPU, Postprocess(views=5)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, total / count, atol=2e-4)
    assert count.min() >= 1
    assert np.abs(found - softmax_of(model, info, image)).max() > 0.05  # the views do differ


def smooth_volume() -> np.ndarray:
    z, y, x = np.mgrid[:3, :48, :40]
    return (np.sin(x / 9 + z) + np.cos(y / 8 - x / 15)).astype(np.float32)


@pytest.mark.parametrize("patch", [None, (2, 32, 32)], ids=["2-D", "3-D"])
def test_views_of_a_network_that_moves_with_its_image_predict_the_same(patch: Any) -> None:
    """It looks at one pixel at a time. A view mapped back the wrong way round misses by half and more."""
    model, info = network(dims=2 if patch is None else 3, kernel=1), describe(patch)
    one, five = (
        probabilities(logit_planes(model, info, smooth_volume(), CPU, Postprocess(views=views)))
        for views in (1, 5)
    )
    assert one.std() > 0.05
    assert np.abs(five - one).max() < 0.01


def test_a_view_that_does_not_show_a_pixel_has_no_say_on_it() -> None:
    p, inside = View(scale=1.5).back(torch.ones(1, 1, 9, 9))
    assert inside[0].sum() == 0
    assert inside[4, 4] == 1
    assert p.shape == (1, 1, 9, 9)
    for view in VIEWS[:1] + VIEWS[4:]:
        assert view.back(torch.ones(1, 1, 9, 9))[1].all()


def test_five_views_of_a_constant_image_change_nothing() -> None:
    image = np.full((2, 20, 16), 0.7, np.float32)
    model, info = network(kernel=1), describe()
    five = logit_planes(model, info, image, CPU, Postprocess(views=5))
    np.testing.assert_allclose(probabilities(five), softmax_of(model, info, image), atol=1e-6)


def test_two_views_of_a_photograph_are_the_image_and_its_mirror_image(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    prepare = PhotoPrepare(kind="photo", size=(10, 15))
    photo = read_prepared(Case("a", tmp_path / "a.png"), prepare)
    model, steps = network(3), Postprocess(views=2)
    image = torch.from_numpy(photo.planes)[None].float().div(255)
    image = (image - torch.tensor(prepare.mean)[:, None, None]) / torch.tensor(prepare.sd)[
        :, None, None
    ]
    mean = (model(image).softmax(1) + model(image.flip(-1)).softmax(1).flip(-1)) / 2
    found = photo_logits(model, CPU, photo, prepare, steps).softmax(1)
    torch.testing.assert_close(found, mean)
    plain = photo_logits(model, CPU, photo, prepare)
    assert torch.equal(plain, model(image))
    assert (found - plain.softmax(1)).abs().max() > 0.01


# smoothing


@EACH_KIND
@pytest.mark.parametrize("sd", [0.8, 2.0])
def test_smoothing_is_the_gaussian_of_scipy_over_the_whole_volume(kind: str, sd: float) -> None:
    model, info, image = KINDS[kind]
    p = softmax_of(model, info, image)
    expected = ndimage.gaussian_filter1d(p.astype(np.float64), sd, axis=0, mode="nearest")
    found = probabilities(logit_planes(model, info, image, CPU, Postprocess(smooth=sd)))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=6), sd=st.sampled_from([0.1, 0.8, 3]))
def test_smoothing_does_not_depend_on_how_many_slices_come_at_a_time(
    parts: list[int], sd: float
) -> None:
    logits = torch.from_numpy(volume(sum(parts) * 3)).reshape(sum(parts), 3, 20, 16)
    found = torch.cat(list(smoothed(iter(logits.split(parts)), sd)))
    assert torch.equal(found, torch.cat(list(smoothed([logits], sd))))
    assert len(found) == len(logits)


def test_smoothing_reads_no_farther_ahead_than_its_gaussian_reaches() -> None:
    read = 0

    def planes() -> Iterator[Tensor]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield torch.zeros(1, 2, 3, 3)

    stream = smoothed(planes(), 0.8)
    for number in range(10):
        next(stream)
        assert read == number + 4  # itself and int(4 · 0.8 + 0.5) = 3 more


def test_a_slice_alone_is_its_own_neighbour() -> None:
    logits = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1, 1)
    (found,) = smoothed([logits], 5.0)
    torch.testing.assert_close(found.softmax(1), logits.softmax(1))


def test_sure_and_broken_logits_stay_finite_and_broken() -> None:
    sure = torch.tensor([200.0, 0.0]).reshape(1, 2, 1, 1)
    (found,) = smoothed([sure], 0.8)
    assert found.isfinite().all()
    (found,) = smoothed([sure * torch.nan], 0.8)
    assert found.isnan().all()


@EACH_KIND
def test_without_steps_every_logit_is_the_networks_own(kind: str) -> None:
    model, info, image = KINDS[kind]
    plain = torch.cat(list(logit_planes(model, info, image, CPU)))
    none = torch.cat(list(logit_planes(model, info, image, CPU, Postprocess(largest=True))))
    assert torch.equal(plain, none)
    if image.ndim == 3 and kind == "2-D":
        assert torch.equal(plain, model(torch.from_numpy(image)[:, None]))


# label maps


def reached(open_: np.ndarray, start: tuple[int, ...], steps: list[tuple[int, ...]]) -> set[Any]:
    """Voxels that a flood from ``start`` reaches over ``steps``."""
    found, left = {start}, [start]
    while left:
        at = left.pop()
        for step in steps:
            to = tuple(int(a + b) for a, b in zip(at, step, strict=True))
            inside = all(0 <= a < n for a, n in zip(to, open_.shape, strict=True))
            if inside and open_[to] and to not in found:
                found.add(to)
                left.append(to)
    return found


AROUND = [s for s in np.ndindex(3, 3, 3) if s != (1, 1, 1)]
CORNERS = [tuple(a - 1 for a in s) for s in AROUND]
FACES = [s for s in CORNERS if sum(map(abs, s)) == 1]


def regions(mask: np.ndarray, steps: list[tuple[int, ...]]) -> list[set[Any]]:
    """Connected regions in the order of their first voxels."""
    found: list[set[Any]] = []
    for start in map(tuple, np.argwhere(mask).tolist()):
        if not any(start in region for region in found):
            found.append(reached(mask, start, steps))
    return found


def floods(labels: np.ndarray, largest: list[int], holes: list[int]) -> np.ndarray:
    """What ``cleaned`` promises, voxel by voxel."""
    out = labels.copy()
    for k in largest:
        parts = regions(labels == k, CORNERS)
        kept = max(parts, key=len, default=set())
        for part in parts:
            for at in part if part is not kept else ():
                out[at] = 0
    filled = out.copy()
    for region in regions(out == 0, FACES):
        near: set[int | None] = set()
        for at in region:
            for step in FACES:
                to = tuple(a + b for a, b in zip(at, step, strict=True))
                inside = all(0 <= a < n for a, n in zip(to, out.shape, strict=True))
                near.add(int(out[to]) if inside else None)
        if len(near - {0}) == 1 and (near - {0}) <= set(holes):
            for at in region:
                filled[at] = next(iter(near - {0}))
    return filled


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("largest", "holes"), [(True, False), (False, True), (True, True), (["b"], ["a"])]
)
def test_components_and_holes_are_those_of_a_flood(seed: int, largest: Any, holes: Any) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.choice([0, 1, 2], (6, 7, 8), p=[0.15, 0.7, 0.15]).astype(np.uint8)
    sparse = rng.choice([0, 1, 2], (6, 7, 8), p=[0.8, 0.1, 0.1]).astype(np.uint8)
    chosen = [
        [1, 2] if which is True else [CLASSES.index(name) for name in which or []]
        for which in (largest, holes)
    ]
    steps = Postprocess(largest=largest, holes=holes)
    for labels in (dense, sparse):
        before = labels.copy()
        np.testing.assert_array_equal(cleaned(labels, CLASSES, steps), floods(labels, *chosen))
        np.testing.assert_array_equal(labels, before)


def box(size: int = 9) -> np.ndarray:
    return np.zeros((size, size, size), np.uint8)


def test_of_equal_components_the_first_in_the_order_of_the_array_stays() -> None:
    labels = box()
    labels[6:8, 1, 1] = labels[1, 6:8, 1] = labels[1, 1, 6:8] = 1
    found = cleaned(labels, CLASSES, Postprocess(largest=True))
    assert np.argwhere(found).tolist() == [[1, 1, 6], [1, 1, 7]]


def test_what_touches_at_a_corner_is_one_component() -> None:
    labels = box()
    labels[1:3, 1:3, 1:3] = labels[3, 3, 3] = 1
    np.testing.assert_array_equal(cleaned(labels, CLASSES, Postprocess(largest=True)), labels)


def test_a_structure_of_two_parts_keeps_both_where_another_is_named() -> None:
    labels = box()
    labels[0, 0, 0] = labels[4:6, 4:6, 4:6] = 1
    labels[0, 8, 0] = labels[8, 4:6, 4:6] = 2
    found = cleaned(labels, CLASSES, Postprocess(largest=("b",)))
    assert ((found == 1) == (labels == 1)).all()
    assert (found == 2).sum() == 4


def test_what_a_ring_surrounds_in_the_plane_alone_is_no_hole() -> None:
    """Else a myocardium would swallow the blood of a ventricle that was not found."""
    labels = box()
    labels[2:7, 2:7, :] = 1
    labels[3:6, 3:6, :] = 0
    steps = Postprocess(holes=True)
    np.testing.assert_array_equal(cleaned(labels, CLASSES, steps), labels)
    labels[2:7, 2:7, [0, 8]] = 1  # a lid at either end
    assert (cleaned(labels, CLASSES, steps)[2:7, 2:7] == 1).all()


def test_a_gap_between_two_structures_belongs_to_neither() -> None:
    labels = box()
    labels[1:8, 1:8, 1:8], labels[2:7, 2:7, 2:7], labels[3:6, 3:6, 3:6] = 1, 0, 2
    steps = Postprocess(holes=True)
    np.testing.assert_array_equal(cleaned(labels, CLASSES, steps), labels)
    labels[2:7, 2:7, 2:7] = 2
    labels[4, 4, 4] = 0
    assert cleaned(labels, CLASSES, steps)[4, 4, 4] == 2  # the inner structure's, not the outer's


def test_a_piece_that_is_removed_inside_another_structure_is_filled_by_it() -> None:
    labels = box()
    labels[1:8, 1:8, 1:8] = 1
    labels[4, 4, 4], labels[8, 8, 7:9] = 2, 2
    found = cleaned(labels, CLASSES, Postprocess(largest=True, holes=True))
    assert found[4, 4, 4] == 1
    assert (found == 2).sum() == 2


def test_an_empty_label_map_stays_empty() -> None:
    assert not cleaned(box(), CLASSES, Postprocess(largest=True, holes=True)).any()


@pytest.mark.parametrize("patch", [None, PATCH], ids=["2-D", "3-D"])
def test_all_steps_together_end_on_the_files_own_grid(tmp_path: Path, patch: Any) -> None:
    array = np.random.default_rng(1).normal(size=(22, 18, 7)).astype(np.float32)
    path = write_nifti(tmp_path / "a.nii.gz", array)
    info = describe(patch, orientation="LPS")
    case, steps = read_case(Case("a", path), info.prepare), steps_named("recommended")
    model = network(dims=2 if patch is None else 3)
    found = predict_case(model, info, case, CPU, steps)
    p = probabilities(logit_planes(model, info, case.slices, CPU, Postprocess(views=5)))
    p = ndimage.gaussian_filter1d(p, 0.8, axis=0, mode="nearest")
    crop = np.zeros((22, 18, 7), np.uint8)
    crop[1:21, 1:17] = p.argmax(1).transpose(1, 2, 0)
    expected = floods(np.ascontiguousarray(crop[::-1, ::-1]), [1, 2], [1, 2])
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, expected)
    plain = predict_case(model, info, case, CPU)
    assert (plain != found).any()


# settings


def test_steps_that_are_off_leave_no_trace() -> None:
    assert "postprocess" not in Evaluate().model_dump(mode="json")
    assert not NO_STEPS.on
    assert NO_STEPS.record() == {}
    on = parse(Evaluate, {"postprocess": "recommended"}, "here")
    assert on.postprocess == Postprocess(views=5, smooth=0.8, largest=True, holes=True)
    assert parse(Evaluate, on.model_dump(mode="json"), "here") == on


def test_steps_say_what_is_on_and_nothing_else() -> None:
    assert str(Postprocess(smooth=1, largest=("a",))) == 'smooth: 1.0, largest: ["a"]'
    assert str(steps_named("recommended")) == "views: 5, smooth: 0.8, largest: true, holes: true"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"views": 3}, "views: got 3"),
        ({"smooth": -1}, "smooth: got -1"),
        ({"smooth": float("nan")}, "smooth: got nan"),
        ({"smooth": 6}, "smooth: got 6"),
        ({"largest": "a"}, "largest: expected true, false or a list of structures, got 'a'"),
        ({"holes": []}, "holes: expected true, false or a list of structures"),
        ({"hole": True}, "unknown key 'hole'"),
    ],
)
def test_a_step_that_cannot_be_is_refused_by_its_name(given: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(Postprocess, given, "here")


def test_an_unknown_set_is_refused_wherever_it_is_named() -> None:
    with pytest.raises(ConfigError, match="no set of steps 'recomended'") as caught:
        parse(Evaluate, {"postprocess": "recomended"}, "here")
    assert "recommended" in str(caught.value)
    with pytest.raises(ConfigError, match="no set of steps 'all'"):
        steps_named("all")


@pytest.mark.parametrize(
    ("steps", "photos", "says"),
    [
        (Postprocess(views=2), False, "views: not for volumes"),
        (Postprocess(views=5), True, "views: not for photographs"),
        (Postprocess(smooth=1, largest=True), True, "smooth, largest: not for photographs"),
        (Postprocess(holes=("a",)), True, "holes: not for photographs"),
        (Postprocess(largest=("a", "c")), False, "no structure 'c'"),
        (Postprocess(holes=("background",)), False, "no structure 'background'"),
    ],
)
def test_steps_that_do_not_fit_the_images_are_refused(
    steps: Postprocess, photos: bool, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        steps.check(("a", "b"), photos)
    Postprocess(views=2).check(("a",), photos=True)
    steps_named("recommended").check(("a",), photos=False)


def test_a_single_step_of_a_set_can_be_changed() -> None:
    changed = override(steps_named("recommended"), ["largest=[a]", "views=1"])
    assert changed == Postprocess(smooth=0.8, largest=("a",), holes=True)
