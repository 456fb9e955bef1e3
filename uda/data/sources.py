"""Reading and preparing a case, whatever kind of file it lies in; the file's ending says which.

Volume files (:mod:`uda.data.formats`) say how their axes run. TFRecords and npz do not, so the card does. Photographs
have no axes in the world: they are one slice of three channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray

from uda.config.card import DatasetCard, PhotoPrepare
from uda.data.cases import Case
from uda.data.geometry import Geometry, Volume, label_slices
from uda.data.images import photo_geometry, read_photo, resize_photo
from uda.data.photo_labels import check_same_size, read_classes
from uda.data.records import read_images as record_images
from uda.data.records import read_npz, read_records
from uda.data.traits import Traits, photo_traits, volume_traits
from uda.data.volumes import prepare_image, prepare_label, read_volume, say_remarks
from uda.errors import ConfigError, DataError
from uda.files.untrusted import check_memory

RECORDS, ARRAYS = ".tfrecords", ".npz"


def holds_both(path: Path) -> bool:
    """Whether this kind of file holds image and label together."""
    return path.suffix in (RECORDS, ARRAYS)


def prepared_stack(case: Case, card: DatasetCard) -> tuple[NDArray[Any], Geometry, Traits]:
    """A case's prepared slices, the way back to its file, and what its image was like before.

    Returns:
        float32 ``[s, h, w]``, or ``[s, c, h, w]`` where the file holds each slice's neighbours too; of a
        photograph uint8 ``[1, 3, h, w]``.

    Raises:
        DataError: the image cannot be read or prepared.
    """
    prepare = card.prepare
    if isinstance(prepare, PhotoPrepare):
        photo = read_photo(case.image)
        rows, columns = prepare.size
        check_memory(3 * rows * columns, f"an image of {rows}×{columns} pixels", case.image)
        planes = resize_photo(photo, prepare.size).transpose(2, 0, 1)
        return planes[None], photo_geometry(photo.shape[:2], prepare.size), photo_traits(photo)
    volumes = read_images(case, card)
    say_remarks(volumes[0])
    prepared = [prepare_image(volume, prepare, case.image) for volume in volumes]
    slices, geometry = prepared[0]
    if len(prepared) > 1:
        slices = np.stack([channel for channel, _ in prepared], axis=1)
    return slices, geometry, volume_traits(volumes[len(volumes) // 2], geometry)


def prepared_label(case: Case, geometry: Geometry, card: DatasetCard) -> NDArray[np.uint8]:
    """A case's class indices ``[s, h, w]`` on its prepared grid.

    Raises:
        DataError: there is no label, it cannot be read, lies on another grid, or holds a value without a class.
    """
    if not card.photos:
        return prepare_label(read_label(case, card), geometry, card, case.label or case.image)
    return label_slices(photo_classes(case, geometry, card)[..., None], geometry)


def photo_classes(case: Case, geometry: Geometry, card: DatasetCard) -> NDArray[np.uint8]:
    """Class indices ``[rows, columns]`` of a photograph, on the file's own pixels.

    Raises:
        MismatchError: the label has another size than its image.
        DataError: there is no label, it cannot be read, or holds a value without a class.
    """
    if case.label is None:
        raise DataError(f"case {case.name!r} has no label", where=case.image)
    classes = read_classes(case.label, card)
    check_same_size(classes, geometry.shape[:2], case.label)
    return classes


def read_images(case: Case, card: DatasetCard) -> tuple[Volume, ...]:
    """The case's image; one volume for each stored channel, which is one but for records.

    Records give their middle slice, or with ``prepare.slab`` 3 the slice between its two neighbours.

    Raises:
        DataError: it cannot be read.
        ConfigError: the card does not say how the axes of such a file run.
    """
    if case.image.suffix == RECORDS:
        return _record_images(case.image, card)
    if case.image.suffix == ARRAYS:
        return (_placed(read_npz(case.image, labels=False)[0], case.image, card),)
    return (read_volume(case.image),)


def read_label(case: Case, card: DatasetCard) -> Volume:
    """The case's label, raw values in the file's axes.

    Raises:
        DataError: there is none, or it cannot be read.
        ConfigError: the card does not say how the axes of such a file run.
    """
    path = case.label
    if path is None:
        raise DataError(f"case {case.name!r} has no label", where=case.image)
    if path.suffix == RECORDS:
        slices = [record.label[..., record.label.shape[2] // 2] for record in read_records(path)]
        return _placed(_stacked(slices, path), path, card)
    if path.suffix == ARRAYS:
        label = read_npz(path)[1]
        if label is None:
            raise DataError("holds no label", where=path, expected="an array arr_1 beside arr_0")
        return _placed(label, path, card)
    return read_volume(path)


def _record_images(path: Path, card: DatasetCard) -> tuple[Volume, ...]:
    slab = card.prepare.channels
    channels: list[list[NDArray[np.float32]]] = [[] for _ in range(slab)]
    for image in record_images(path):
        depth = image.shape[2]
        if depth < slab:
            raise DataError(
                f"a record has {depth} channels",
                where=path,
                expected=f"the {slab} of the card's prepare.slab",
            )
        first = (depth - slab) // 2
        for channel, slices in enumerate(channels):
            slices.append(image[..., first + channel])
    return tuple(_placed(_stacked(slices, path), path, card) for slices in channels)


def _stacked(slices: list[NDArray[np.float32]], path: Path) -> NDArray[np.float32]:
    shapes = {array.shape for array in slices}
    if len(shapes) != 1:
        raise DataError(f"its records have several sizes: {sorted(shapes)}", where=path)
    return np.stack(slices, axis=-1)


def _placed(array: NDArray[Any], path: Path, card: DatasetCard) -> Volume:
    """An array with the affine that its axis code stands for, one unit a voxel."""
    kind = path.suffix.removeprefix(".")
    axes = {str(key): code for key, code in card.axes.items()}.get(kind)
    if axes is None:
        raise ConfigError(
            f"card {card.name!r} does not say how the axes of a {path.suffix} file run",
            where=path,
            fix=f"add for example `axes: {{{kind}: RSP}}` (rows to the right, columns to the head)",
        )
    affine = np.zeros((4, 4))
    for axis, (to, sign) in enumerate(axcodes2ornt(tuple(axes))):
        affine[int(to), axis] = sign
    affine[3, 3] = 1
    return Volume(array, affine)
