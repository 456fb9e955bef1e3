"""Boxes: the three penalties against a sum over pixels, augmentation, visibility, what they teach, bad input."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import ConfigError, DataError, PriorError
from uda.losses import boxes

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(6, 7), (1, 9), (4, 5, 6)])
sharpness = st.sampled_from([None, 2.0, 5.0])
ONLY = {"outside": (1.0, 0.0, 0.0), "tight": (0.0, 1.0, 0.0), "size": (0.0, 0.0, 1.0)}


def draw(
    seed: int, classes: int, space: tuple[int, ...], images: int = 3, count: int = 5
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, boxes (some overlap, some reach out of the image) and the classes whose boxes are all given."""
    rng = np.random.default_rng(seed)
    size = np.array(space)
    first = rng.integers(-1, size, (count, len(space)))
    last = np.minimum(first + rng.integers(0, size, (count, len(space))), size + 1)
    row = np.stack([rng.integers(images, size=count), rng.integers(classes, size=count)], 1)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *space, generator=generator)
    boxed = torch.rand(images, classes, generator=generator) < 0.6
    return logits, torch.from_numpy(np.concatenate([row, first, last], 1)), boxed


def grid(space: tuple[int, ...]) -> np.ndarray:
    """Coordinates of an image that was not moved, ``[a, *s]``."""
    return np.stack(np.meshgrid(*(np.arange(n, dtype=float) for n in space), indexing="ij"))


def phi(z: float, t: float | None) -> float:
    if t is None:
        return max(z, 0.0) ** 2
    if z <= -1 / t**2:
        return -math.log(-z) / t
    return t * z - math.log(1 / t**2) / t + 1 / t


def bands_of(
    first: list[int], last: list[int], width: int
) -> list[tuple[list[int], list[int], int]]:
    """First and last corner of each band, and how many pixels its lines have."""
    extent = [b - a + 1 for a, b in zip(first, last, strict=True)]
    found = []
    for axis, size in enumerate(extent):
        single = max(extent) == 1 and axis == len(extent) - 1
        if size > 1 or single:
            for begin in range(first[axis], last[axis] + 1, width):
                low, high = list(first), list(last)
                low[axis], high[axis] = begin, min(begin + width - 1, last[axis])
                found.append((low, high, math.prod(extent) // size))
    return found


def mean_inside(p: np.ndarray, place: np.ndarray, low: list[int], high: list[int]) -> float | None:
    """Mean of p over the pixels between two corners; None if a corner is not visible."""
    inside = [
        x
        for x in np.ndindex(p.shape)
        if all(a <= c <= b for a, c, b in zip(low, place[(slice(None), *x)], high, strict=True))
    ]
    for corner in itertools.product(*zip(low, high, strict=True)):
        if not any(np.abs(place[(slice(None), *x)] - corner).max() <= 2 for x in inside):
            return None
    return float(np.mean([p[x] for x in inside]))


def reference(
    logits: np.ndarray,
    given_boxes: np.ndarray,
    boxed: np.ndarray,
    coordinates: np.ndarray | None = None,
    width: int = 5,
    filled: tuple[float, float] = (0.2, 1.0),
    t: float | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> float:
    """One pixel after the other, in float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    p = exponentials / exponentials.sum(1, keepdims=True)
    space = logits.shape[2:]
    moved = np.stack([grid(space)] * len(p)) if coordinates is None else coordinates
    place = np.floor(moved.astype(np.float64) + 0.5).astype(int)
    axes = place.shape[1]
    parsed = [(b, c, r[:axes], r[axes:]) for b, c, *r in given_boxes.tolist()]
    outside = []
    for b, c in zip(*np.nonzero(boxed), strict=True):
        total = 0.0
        for x in np.ndindex(*space):
            at = place[(b, slice(None), *x)]
            covered = any(
                (b, c) == (i, k) and all(at >= first) and all(at <= last)
                for i, k, first, last in parsed
            )
            total += 0.0 if covered else p[(b, c, *x)]
        share = total / math.prod(space)
        outside.append(share if t is None else phi(share, t))
    tight, sizes = [], []
    for b, c, first, last in parsed:
        levels = []
        for low, high, line in bands_of(first, last, width):
            mean = mean_inside(p[b, c], place[b], low, high)
            if mean is not None:
                levels.append(phi(1 - mean * line, t))
        if levels:
            tight.append(np.mean(levels))
        share = mean_inside(p[b, c], place[b], first, last)
        if share is not None:
            sizes.append(phi(filled[0] - share, t) + phi(share - filled[1], t))
    parts = [float(np.mean(part)) if part else 0.0 for part in (outside, tight, sizes)]
    return sum(w * part for w, part in zip(weights, parts, strict=True))


@settings(max_examples=30, deadline=None)
@given(seeds, class_counts, spaces, st.integers(1, 6), sharpness)
def test_value_equals_a_float64_sum_over_the_pixels(
    seed: int, classes: int, space: tuple[int, ...], width: int, t: float | None
) -> None:
    given_ = draw(seed, classes, space)
    settings_: dict[str, Any] = {"width": width, "filled": (0.4, 0.8), "t": t}
    for weights in (*ONLY.values(), (0.3, 2.0, 0.7)):
        value = float(boxes(*given_, **settings_, weights=weights))
        arrays = [tensor.numpy() for tensor in given_]
        expected = reference(*arrays, **settings_, weights=weights)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


def motion(rng: np.random.Generator, space: tuple[int, ...], images: int) -> np.ndarray:
    """Coordinates of images turned, scaled and shifted, each in its own way, ``[b, 2, h, w]``."""
    found = []
    for _ in range(images):
        angle, scale = rng.uniform(-math.pi, math.pi), rng.uniform(0.7, 1.5)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        middle = (np.array(space) - 1) / 2
        moved = np.einsum("ij,jhw->ihw", turn / scale, grid(space) - middle[:, None, None])
        found.append(moved + (middle + rng.uniform(-3, 3, 2))[:, None, None])
    return np.stack(found)


@settings(max_examples=30, deadline=None)
@given(seeds, class_counts, st.integers(1, 6), sharpness)
def test_value_under_a_motion_equals_the_sum(
    seed: int, classes: int, width: int, t: float | None
) -> None:
    space = (9, 8)
    given_ = draw(seed, classes, space)
    place = motion(np.random.default_rng(seed), space, 3)
    for weights in ONLY.values():
        value = float(boxes(*given_, torch.from_numpy(place), width, t=t, weights=weights))
        arrays = [tensor.numpy() for tensor in given_]
        expected = reference(*arrays, place, width, t=t, weights=weights)
        assert value == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("t", [None, 5.0])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("weights", ONLY.values(), ids=ONLY)
def test_gradient_equals_finite_differences_of_the_sum(weights: Any, moved: bool, t: Any) -> None:
    logits, _, _ = draw(1, 2, (5, 6), images=1)
    # two that overlap, one beside them
    listed = torch.tensor([[0, 1, 0, 0, 3, 3], [0, 1, 2, 1, 4, 3], [0, 0, 1, 4, 3, 4]])
    boxed = torch.ones(1, 2, dtype=torch.bool)
    place = motion(np.random.default_rng(3), (5, 6), 1) if moved else None
    more: dict[str, Any] = {"width": 2, "filled": (0.6, 0.7), "t": t, "weights": weights}
    leaf = (logits - 1).double().requires_grad_()
    coordinates = None if place is None else torch.from_numpy(place)
    value = boxes(leaf, listed, boxed, coordinates, **more)
    (gradient,) = torch.autograd.grad(value, leaf)
    base = leaf.detach().numpy()
    for at in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[at] = 1e-5
        ends = [
            reference(base + s, listed.numpy(), boxed.numpy(), place, **more) for s in (step, -step)
        ]
        assert float(gradient[at]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6)
    assert float(gradient.abs().max()) > 1e-3


def sure(labels: Tensor, classes: int = 2) -> Tensor:
    return 200.0 * torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()


def disk(space: tuple[int, ...], middle: tuple[float, ...], radius: float) -> Tensor:
    far = sum((torch.from_numpy(g) - m) ** 2 for g, m in zip(grid(space), middle, strict=True))
    return (far <= radius**2).long().unsqueeze(0)


def box_of(labels: Tensor, label: int = 1) -> Tensor:
    """The box of a class, ``[1, 2 + 2a]``."""
    places = (labels[0] == label).nonzero()
    row = torch.tensor([0, label])
    return torch.cat([row, places.amin(0), places.amax(0)]).unsqueeze(0)


BOXED = torch.tensor([[False, True]])


@pytest.mark.parametrize("width", [1, 2, 5, 50])
@pytest.mark.parametrize(
    "truth", [disk((16, 18), (7.0, 9.0), 4.5), disk((8, 9, 10), (4.0, 4.0, 5.0), 3.5)]
)
def test_an_object_that_fills_its_box_costs_nothing(truth: Tensor, width: int) -> None:
    assert float(boxes(sure(truth), box_of(truth), BOXED, width=width)) == pytest.approx(
        0, abs=1e-9
    )


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.0])
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6])
def test_under_an_augmentation_the_moved_object_costs_next_to_nothing(
    angle: float, scale: float
) -> None:
    space, middle = (48, 48), np.array([23.5, 23.5])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    place = np.einsum("ij,jhw->ihw", turn / scale, grid(space) - middle[:, None, None])
    place += (middle + np.array([1.3, -2.6]))[:, None, None]
    truth = disk(space, (29.0, 19.0), 7.5)
    nearest = np.clip(np.floor(place + 0.5).astype(int), 0, 47)
    moved = truth[0, nearest[0], nearest[1]].unsqueeze(0)
    coordinates = torch.from_numpy(place).unsqueeze(0)
    right = float(boxes(sure(moved), box_of(truth), BOXED, coordinates))
    assert right == pytest.approx(0, abs=1e-3)
    # the same prediction against the box where it was
    assert float(boxes(sure(moved), box_of(truth), BOXED)) > right + 1e-3
    nothing = boxes(sure(torch.zeros_like(moved)), box_of(truth), BOXED, coordinates)
    assert float(nothing) == pytest.approx(1 + 0.04, abs=1e-6)


def test_uniform_predictions_miss_by_hand_reckoned_amounts() -> None:
    logits, box = torch.zeros(1, 4, 6, 10), torch.tensor([[0, 1, 1, 2, 4, 4]])
    boxed = torch.tensor([[False, True, True, False]])
    # p = ¼: 48 pixels of 60 outside of class 1's box, all 60 of class 2, which has none
    outside = float(boxes(logits, box, boxed, weights=ONLY["outside"]))
    assert outside == pytest.approx((48 / 240 + 1 / 4) / 2)
    # 4 lines of 3 pixels in bands of 3 and 1, 3 lines of 4 pixels in one band
    tight = float(boxes(logits, box, boxed, width=3, weights=ONLY["tight"]))
    assert tight == pytest.approx((0.25**2 + 0.25**2 + 0) / 3)
    assert float(
        boxes(logits, box, boxed, filled=(0.5, 1.0), weights=ONLY["size"])
    ) == pytest.approx(0.25**2)
    barrier = float(boxes(logits, box, boxed, filled=(0.5, 1.0), t=5.0, weights=ONLY["size"]))
    assert barrier == pytest.approx(phi(0.25, 5.0) + phi(-0.75, 5.0))


def test_wide_bands_may_be_met_on_single_lines() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[:, 1] = -200.0
    logits[:, 1, 1] = 200.0  # one row of four
    box = torch.tensor([[0, 1, 0, 0, 3, 3]])
    narrow, wide = (
        float(boxes(logits, box, BOXED, width=w, weights=ONLY["tight"])) for w in (1, 4)
    )
    assert narrow == pytest.approx(3 / 8)  # three empty rows of eight lines
    assert wide == pytest.approx(0)


def test_boxes_in_slices_of_a_volume_are_tight_in_their_planes() -> None:
    flat = torch.zeros(1, 2, 6, 7)
    plane = torch.tensor([[0, 1, 1, 2, 4, 4]])
    volume = torch.zeros(1, 2, 3, 6, 7)
    in_slice = torch.tensor([[0, 1, 1, 1, 2, 1, 4, 4]])
    for name in ("tight", "size"):
        found = float(boxes(volume, in_slice, BOXED, width=2, weights=ONLY[name]))
        assert found == pytest.approx(float(boxes(flat, plane, BOXED, width=2, weights=ONLY[name])))
    # an image that is the volume's slice 1, by its coordinates
    place = torch.stack([torch.ones(6, 7), *torch.from_numpy(grid((6, 7)))]).unsqueeze(0)
    assert float(boxes(flat, in_slice, BOXED, place, 2)) == pytest.approx(
        float(boxes(flat, plane, BOXED, width=2))
    )
    # of another slice it only says that the class is not there
    place[:, 0] = 2
    assert float(boxes(flat, in_slice, BOXED, place, 2)) == pytest.approx(0.5)


@pytest.mark.parametrize("last", [[2, 2], [2, 5], [5, 2]])
def test_a_box_of_one_pixel_or_one_line_wants_its_pixels(last: list[int]) -> None:
    box = torch.tensor([[0, 1, 2, 2, *last]])
    empty = sure(torch.zeros(1, 8, 8).long())
    assert float(boxes(empty, box, BOXED)) == pytest.approx(1 + 0.04)
    full = torch.zeros(1, 8, 8).long()
    full[:, 2 : last[0] + 1, 2 : last[1] + 1] = 1
    assert float(boxes(sure(full), box, BOXED)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    "coordinates", [None, torch.from_numpy(grid((4, 4))).expand(2, -1, -1, -1)]
)
def test_without_boxes_the_boxed_classes_are_suppressed_and_others_are_free(
    coordinates: Tensor | None,
) -> None:
    logits, none = torch.zeros(2, 3, 4, 4), torch.zeros(0, 6, dtype=torch.long)
    boxed = torch.tensor([[False, True, False], [False, False, False]])
    value = float(boxes(logits, none, boxed, coordinates))
    assert value == pytest.approx(1 / 3)
    logits.requires_grad_()
    free = boxes(logits, none, torch.zeros_like(boxed), coordinates)
    assert float(free.detach()) == 0
    assert bool((torch.autograd.grad(free, logits)[0] == 0).all())


def test_a_box_whose_class_has_others_missing_is_tight_but_suppresses_nothing() -> None:
    logits, box = torch.zeros(1, 2, 6, 6), torch.tensor([[0, 1, 1, 1, 2, 2]])
    some = float(boxes(logits, box, torch.tensor([[False, False]]), width=1))
    everything = float(boxes(logits, box, BOXED, width=1))
    assert everything - some == pytest.approx(32 / 72)


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 20])
def test_a_box_that_left_the_image_in_part_says_nothing_of_size(shift: int) -> None:
    empty, box = (
        sure(torch.zeros(1, 10, 10).long()),
        torch.tensor([[0, 1, 4, 5 + shift, 7, 9 + shift]]),
    )
    coordinates = torch.from_numpy(grid((10, 10))).unsqueeze(0)
    for place in (None, coordinates):
        seen = float(boxes(empty, box, BOXED, place, weights=ONLY["size"]))
        assert seen == pytest.approx(0.04 if shift <= 2 else 0)
        bands = float(boxes(empty, box, BOXED, place, 1, weights=ONLY["tight"]))
        # three columns and more are gone, so no row is whole; columns that are there still count
        assert bands == pytest.approx(1 if shift < 20 else 0)


def test_a_motion_that_does_not_move_equals_none() -> None:
    for seed in range(5):
        given_ = draw(seed, 3, (7, 8))
        still = torch.from_numpy(grid((7, 8))).expand(3, -1, -1, -1)
        for t in (None, 5.0):
            assert float(boxes(*given_, still, 2, t=t)) == float(boxes(*given_, None, 2, t=t))


def test_the_order_of_boxes_and_their_integer_type_do_not_matter() -> None:
    logits, listed, boxed = draw(4, 3, (7, 8), count=8)
    value = float(boxes(logits, listed, boxed, width=2))
    assert float(boxes(logits, listed.flip(0), boxed, width=2)) == pytest.approx(value, abs=1e-6)
    assert float(boxes(logits, listed.int(), boxed, width=2)) == value


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, st.floats(0, 3), st.floats(0, 3))
def test_without_a_barrier_it_is_between_0_and_the_sum_of_the_weights(
    seed: int, classes: int, first: float, second: float
) -> None:
    logits, listed, boxed = draw(seed, classes, (6, 7))
    for scale in (1.0, 1e4):
        value = float(boxes(scale * logits, listed, boxed, weights=(first, second, 1.0)))
        assert 0 <= value <= first + second + 1 + 1e-5


@pytest.mark.parametrize("t", [None, 5.0])
def test_it_moves_a_network_to_what_the_boxes_hold(t: float | None) -> None:
    truth = disk((20, 20), (9.0, 11.0), 5.0)
    noise = 0.3 * torch.randn(1, 20, 20, generator=torch.Generator().manual_seed(0))
    image = (truth + noise).unsqueeze(1)
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        boxes(network(image), box_of(truth), BOXED, filled=(0.6, 0.9), t=t).backward()
        optimizer.step()
    found = network(image).argmax(1)
    overlap = 2 * (found * truth).sum() / (found.sum() + truth.sum())
    assert float(overlap) > 0.7


# bad input


def plain() -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(2, 3, 4, 5), torch.tensor([[0, 1, 0, 0, 1, 1]]), torch.ones(2, 3).bool()


@pytest.mark.usefixtures("as_users_see")
def test_shapes_that_do_not_belong_together_are_refused() -> None:
    logits, listed, boxed = plain()
    with pytest.raises(DataError, match="the boxes have shape"):
        boxes(logits, torch.zeros(1, 8).long(), boxed)
    with pytest.raises(DataError, match="the boxes have shape"):
        boxes(logits, listed[0], boxed)
    with pytest.raises(DataError, match="boxed has shape"):
        boxes(logits, listed, boxed[:1])
    with pytest.raises(DataError, match="the coordinates have shape"):
        boxes(logits, listed, boxed, torch.zeros(2, 2, 4, 4))
    with pytest.raises(DataError, match="the boxes have shape"):
        boxes(logits, listed, boxed, torch.zeros(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ([2, 1, 0, 0, 1, 1], "a box is of image 2"),
        ([-1, 1, 0, 0, 1, 1], "a box is of image -1"),
        ([0, 3, 0, 0, 1, 1], "a box is of class 3"),
        ([0, 1, 0, 2, 1, 1], "box 1 ends before it begins"),
    ],
)
def test_a_box_that_cannot_be_is_refused(row: list[int], what: str) -> None:
    logits, listed, boxed = plain()
    with pytest.raises(DataError, match=what):
        boxes(logits, torch.cat([listed, torch.tensor([row])]), boxed)


def test_coordinates_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        boxes(*plain(), torch.full((2, 2, 4, 5), math.nan))


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"width": 0}, ConfigError),
        ({"t": 0.0}, ConfigError),
        ({"t": math.nan}, ConfigError),
        ({"weights": (1.0, -1.0, 1.0)}, ConfigError),
        ({"weights": (1.0, math.inf, 1.0)}, ConfigError),
        ({"filled": (0.9, 0.5)}, PriorError),
        ({"filled": (0.5, 1.1)}, PriorError),
        ({"filled": (-0.1, 1.0)}, PriorError),
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any], error: Any) -> None:
    with pytest.raises(error, match=next(iter(setting))):
        boxes(*plain(), **setting)
