"""Whether pixels lie inside an image, and what to say where they do not."""

from __future__ import annotations

from uda.data.annotations.faults import Faults
from uda.data.annotations.grids import Grid


def inside(
    what: str,
    case: str,
    grid: Grid,
    pixels: tuple[tuple[int, int, int], ...],
    faults: Faults,
    where: str,
) -> bool:
    """Whether all pixels (slice, row, column) lie inside the image; else a fault that names its size."""
    numbers = [index for index, _, _ in pixels]
    if beyond := [index for index in numbers if not 0 <= index < grid.slices]:
        faults.add(
            f"{what} lies in slice {beyond[0]} of case {case!r}, which has {_slices(grid.slices)}",
            where=where,
            expected=f"a slice from 0 to {grid.slices - 1}, along {_axis(grid)}",
        )
        return False
    out = [p for p in pixels if not (0 <= p[1] < grid.rows and 0 <= p[2] < grid.columns)]
    if not out:
        return True
    _, row, column = out[0]
    swapped = all(0 <= c < grid.rows and 0 <= r < grid.columns for _, r, c in pixels)
    faults.add(
        f"{what} lies outside the image of case {case!r}: row {row}, column {column} of "
        f"{grid.rows} rows and {grid.columns} columns",
        where=where,
        expected=f"rows 0 to {grid.rows - 1} and columns 0 to {grid.columns - 1}",
        fix="rows and columns seem to be exchanged" if swapped else None,
    )
    return False


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _axis(grid: Grid) -> str:
    return "a photograph's only one" if grid.photo else f"axis {grid.slice_axis + 1} of the file"
