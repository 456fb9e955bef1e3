"""Run lengths of COCO: masks as lengths of runs, plain or as text, column after column, beginning with the outside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUP, MORE, SIGN = 0x1F, 0x20, 0x10
"""Five bits of a number, whether more follow, and the sign in the last ones."""
FIRST = 48
"""Code of the letter that stands for 0."""
LONGEST = 7
"""Letters of one number: 35 bits."""


def mask_of(segmentation: Any, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels ``[rows, columns]`` of a run-length encoding.

    Args:
        segmentation: ``{"size": [rows, columns], "counts": […] or "…"}``.

    Raises:
        ValueError: it is anything else, has another size, or runs that do not fill the image.

    Example:
        >>> mask_of({"size": [2, 3], "counts": [1, 2, 2, 1]}, (2, 3)).astype(int)
        array([[0, 1, 0],
               [1, 0, 1]])
        >>> mask_of({"size": [2, 3], "counts": "122O"}, (2, 3)).astype(int)
        array([[0, 1, 0],
               [1, 0, 1]])
    """
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != list(shape):
        raise ValueError(f"its run lengths are of an image of size {str(size)[:60]}, not {shape}")
    runs = unpacked_runs(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("its run lengths are no whole numbers")
    if sum(runs) != shape[0] * shape[1]:
        raise ValueError(f"its run lengths add up to {sum(runs)}, not {shape[0] * shape[1]} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, np.array(runs, dtype=np.int64))
    return flat.reshape(shape, order="F")


def unpacked_runs(text: str) -> list[int]:
    """Run lengths of COCO's text: numbers of five bits a letter, from the fourth on as differences to the last but one.

    Raises:
        ValueError: another letter, or a number that is cut short or too long.

    Example:
        >>> unpacked_runs("6320004")
        [6, 3, 2, 3, 2, 3, 6]
    """
    runs: list[int] = []
    value = letters = 0
    for sign in text:
        code = ord(sign) - FIRST
        if not 0 <= code < 2 * MORE or letters == LONGEST:
            raise ValueError("its run lengths are no text of COCO")
        value |= (code & GROUP) << 5 * letters
        letters += 1
        if not code & MORE:
            if code & SIGN:
                value -= 1 << 5 * letters
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = letters = 0
    if letters:
        raise ValueError("its run lengths are cut short")
    return runs
