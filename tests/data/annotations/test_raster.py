"""Which pixels coordinates stand for, against naive computations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from uda.data.annotations import raster
from uda.data.annotations.raster import disk, filled, line, pixel, span

SHAPE = (9, 11)
reals = st.floats(-3, 14, allow_nan=False).map(lambda x: round(x, 3) + 0.00037)
"""coordinates that lie on no centre of a pixel"""


def inside(x: float, y: float, corners: list[tuple[float, float]]) -> bool | None:
    """Even–odd rule: edges that a ray to the right crosses. None on an edge, within rounding."""
    crossed = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y):
            at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
            if abs(x - at) < 1e-6:
                return None
            crossed ^= x < at
    return crossed


@given(st.lists(st.tuples(reals, reals), min_size=3, max_size=9))
def test_a_polygon_has_the_pixels_whose_centre_lies_inside(
    corners: list[tuple[float, float]],
) -> None:
    found = filled(np.array(corners), SHAPE)
    for row, column in np.ndindex(SHAPE):
        expected = inside(column + 0.5, row + 0.5, corners)
        assert expected is None or found[row, column] == expected


@given(st.integers(0, 11), st.integers(0, 11), st.integers(0, 9), st.integers(0, 9))
def test_a_rectangle_of_whole_pixels_is_exact(x0: int, x1: int, y0: int, y1: int) -> None:
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=float)
    expected = np.zeros(SHAPE, bool)
    expected[min(y0, y1) : max(y0, y1), min(x0, x1) : max(x0, x1)] = True
    assert np.array_equal(filled(corners, SHAPE), expected)
    columns, rows = (span(min(a, b), max(a, b)) for a, b in ((x0, x1), (y0, y1)))
    if columns is None or rows is None:
        assert not expected.any()
    else:
        found = np.zeros(SHAPE, bool)
        found[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1] = True
        assert np.array_equal(found, expected)


@given(st.lists(st.tuples(reals, reals), min_size=3, max_size=9), st.integers(1, 3))
def test_parts_of_a_polygon_do_not_depend_on_how_many_edges_are_drawn_at_once(
    corners: list[tuple[float, float]], chunk: int
) -> None:
    whole = filled(np.array(corners), SHAPE)
    before, raster.CHUNK = raster.CHUNK, chunk
    try:
        assert np.array_equal(filled(np.array(corners), SHAPE), whole)
    finally:
        raster.CHUNK = before


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    """Also where their border goes through centres of pixels."""
    middle = [(5.5, 0.0), (2.5, 4.5), (7.5, 9.0)]
    left = np.array([(0.0, 0.0), *middle, (0.0, 9.0)])
    right = np.array([(11.0, 0.0), *middle, (11.0, 9.0)])
    assert np.array_equal(filled(left, SHAPE), ~filled(right, SHAPE))


@given(st.lists(st.tuples(st.floats(0, 10.99), st.floats(0, 8.99)), min_size=1, max_size=6))
def test_a_line_is_connected_and_one_pixel_wide(corners: list[tuple[float, float]]) -> None:
    drawn = line(np.array(corners), SHAPE)
    at = [(pixel(x), pixel(y)) for x, y in corners]
    assert all(drawn[y, x] for x, y in at)
    longest = sum(max(abs(a[0] - b[0]), abs(a[1] - b[1])) for a, b in pairwise(at))
    assert drawn.sum() <= longest + 1
    reached, todo = set(), [at[0]]
    pixels = {(int(x), int(y)) for y, x in np.argwhere(drawn)}
    while todo:
        x, y = todo.pop()
        if (x, y) in pixels - reached:
            reached.add((x, y))
            todo += [(x + a, y + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
    assert reached == pixels


def test_a_line_stays_within_half_a_pixel() -> None:
    drawn = line(np.array([[0.5, 0.5], [10.5, 4.5]]), SHAPE)
    for x in range(11):
        (rows,) = np.nonzero(drawn[:, x])
        assert len(rows) == 1
        assert abs(rows[0] - 0.4 * x) <= 0.5


@given(reals, reals, st.floats(0, 9))
def test_a_circle_has_the_pixels_whose_centre_is_near(x: float, y: float, radius: float) -> None:
    found = disk(x, y, radius, SHAPE)
    for row in range(9):
        for column in range(11):
            away = math.hypot(column + 0.5 - x, row + 0.5 - y)
            if abs(away - radius) > 1e-9:
                assert found[row, column] == (away < radius)


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [
        (0, 640, (0, 639)),
        (0.0004, 640.0004, (0, 639)),
        (9.9996, 20.0, (10, 19)),
        (9.99, 20.01, (9, 20)),
        (3, 2, None),
        (3, 3.0005, None),
    ],
)
def test_rounding_adds_no_pixel_to_a_box(
    low: float, high: float, found: tuple[int, int] | None
) -> None:
    assert span(low, high) == found


def test_a_shape_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raster, "MOST_STEPS", 100)
    zigzag = np.array([(n % 7, 9.0 * (n % 2)) for n in range(50)])
    with pytest.raises(ValueError, match="more than 100 rows"):
        filled(zigzag, SHAPE)
    with pytest.raises(ValueError, match="more than 100 pixels"):
        line(np.minimum(zigzag, 8.5), SHAPE)
