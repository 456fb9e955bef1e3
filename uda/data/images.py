"""Read and resize photographs, their geometry, and an ordered map over threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from uda.data.geometry import Geometry, turn_to
from uda.data.image_files import Header, opencv, pixels, read_file
from uda.errors import DataError, RunError, UdaError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items per thread that are in progress or wait to be fetched."""


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Stored pixels RGB ``[h, w, 3]`` of a PNG or JPEG; an opaque alpha channel is dropped.

    A photograph with an EXIF orientation other than 1 is refused, because its label may follow either the stored or
    the rotated pixels.

    Raises:
        UnreadableError: the file cannot be decoded completely.
        DataError: the file is missing, is no RGB image of 8 bits per channel, or has transparent pixels.
    """
    data, header = read_file(path)
    _check_rgb(header, path)
    image = pixels(data, header, path)
    return opaque(image, path) if header.alpha else image


def _check_rgb(header: Header, path: Path) -> None:
    if header.color == "RGB" and header.bits == 8:
        return
    held = f"{header.bits} bits a colour" if header.color == "RGB" else header.color
    raise DataError(
        f"is a {header.format} of {held}",
        where=path,
        expected="a photograph in RGB, 8 bits a colour",
        fix="convert it, or correct the card's pattern if this is no photograph",
    )


def opaque(image: NDArray[Any], path: Path) -> NDArray[Any]:
    """An image ``[h, w, 4]`` (uint8 or uint16) without its alpha channel: ``[h, w, 3]``.

    Raises:
        DataError: a pixel is not opaque.
    """
    clear = int((image[..., 3] < np.iinfo(image.dtype).max).sum())
    if clear:
        raise DataError(
            f"{clear} of its pixels are transparent",
            where=path,
            expected="opaque pixels",
            fix="save it without its alpha channel, on the intended background",
        )
    return np.ascontiguousarray(image[..., :3])


def resize_photo(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``[h, w, 3]`` resized to ``size`` rows and columns: by area averages where it shrinks, linear where it grows.

    Pixels are cells and the outer border stays, as in :mod:`uda.data.geometry`; ``label_slices`` resizes labels alike.
    """
    cv2 = opencv()
    shrunk = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
    for (rows, columns), how in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if image.shape[:2] != (rows, columns):
            image = cv2.resize(image, (columns, rows), interpolation=how)
    return image


def photo_geometry(shape: tuple[int, int], size: tuple[int, int]) -> Geometry:
    """Geometry of a photograph of ``shape`` (rows, columns) and its prepared image: one slice without a crop."""
    identity = np.eye(4)
    return Geometry(
        affine=tuple(tuple(float(x) for x in row) for row in identity),
        shape=(shape[0], shape[1], 1),
        turn=tuple((int(to), int(flip)) for to, flip in turn_to(identity, "stored")),
        slice_axis=2,
        resized=size,
        depth=1,
        start=(0, 0),
        size=size,
    )


def processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0
) -> Generator[Result | UdaError]:
    """``function`` of each item in order, computed by threads a few items ahead.

    A :class:`UdaError` is yielded in place of the result, so that one report can list all faults. At most ``AHEAD``
    items per thread are in progress or wait. Closing the iterator ends the threads.

    Args:
        workers: number of threads; 0 = as many as the processors, 1 = the caller's thread alone.

    Raises:
        RunError: ``function`` raised another error; names the item.
    """
    count = workers or processors()
    if count == 1:
        for item in items:
            yield _attempt(function, item)
        return
    pool = ThreadPoolExecutor(count, thread_name_prefix="uda-images")
    waiting: deque[Future[Result | UdaError]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_attempt, function, item))
            if len(waiting) == AHEAD * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | UdaError:
    try:
        return function(item)
    except UdaError as fault:
        return fault
    except Exception as error:
        raise RunError(f"{type(error).__name__}: {error}", where=f"{item}"[:300]) from error
