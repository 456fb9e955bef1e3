"""Photographs: read, resized, their place on the file's grid; and any such work by threads, in order."""

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
"""Items under way or waiting to be fetched, for each thread."""


def read_photo(path: Path) -> NDArray[np.uint8]:
    """RGB ``[h, w, 3]`` of a PNG or JPEG as its pixels are stored; an opaque alpha channel is left out.

    A photograph with an EXIF orientation other than 1 is refused: whether its label was drawn on the stored or on
    the turned pixels cannot be known.

    Raises:
        UnreadableError: it cannot be decoded whole.
        DataError: there is none, or it is no RGB image of 8 bits a colour, or parts of it are transparent.
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
        fix="convert it, or correct the card's pattern if it is no photograph",
    )


def opaque(image: NDArray[Any], path: Path) -> NDArray[Any]:
    """``[h, w, 3]`` of ``[h, w, 4]``, uint8 or uint16.

    Raises:
        DataError: a pixel is not opaque.
    """
    clear = int((image[..., 3] < np.iinfo(image.dtype).max).sum())
    if clear:
        raise DataError(
            f"{clear} of its pixels are transparent",
            where=path,
            expected="opaque pixels",
            fix="save it without its alpha channel, on the background that is meant",
        )
    return np.ascontiguousarray(image[..., :3])


def resize_photo(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """``[h, w, 3]`` on other rows and columns: averaged over areas where it shrinks, linear where it grows.

    Pixels are cells whose outer border stays, as in :mod:`uda.data.geometry`; labels follow by ``label_slices``.
    """
    cv2 = opencv()
    shrunk = (min(image.shape[0], size[0]), min(image.shape[1], size[1]))
    for (rows, columns), how in ((shrunk, cv2.INTER_AREA), (size, cv2.INTER_LINEAR)):
        if image.shape[:2] != (rows, columns):
            image = cv2.resize(image, (columns, rows), interpolation=how)
    return image


def photo_geometry(shape: tuple[int, int], size: tuple[int, int]) -> Geometry:
    """The way between a photograph of ``shape`` (rows, columns) and its prepared image: one slice, never cropped."""
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
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int = 0
) -> Generator[Result | UdaError]:
    """``function`` of each item in the items' order, by threads that run a few items ahead.

    What a file's fault raises is yielded in the file's place, so that one report can list all. No more than
    ``AHEAD`` results a thread wait, however many items there are. Closing the iterator ends the threads.

    Args:
        workers: threads; 0 takes as many as there are processors, 1 works in the caller's own.

    Raises:
        RunError: anything but a :class:`UdaError` was raised; it names the item.
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
