"""Make priors of class ratios without target labels; each names its supervision for the ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from uda.data.geometry import Geometry
from uda.errors import DataError, PriorError, nearest
from uda.networks.model_file import union
from uda.networks.size_distribution import SizeDistribution
from uda.priors.prior import Prior, listed

Floats = NDArray[np.float64]
Place = tuple[str, int]
"""case, and index along the file's own slice axis"""


def from_source_labels(
    classes: Sequence[str], ratio: Sequence[float], sizes: SizeDistribution | None = None
) -> Prior:
    """The source's mean class ratio, assumed to hold in the target."""
    how = "mean class ratio over the source's labelled slices"
    return Prior(tuple(classes), tuple(ratio), ("source_labels",), how, sizes=sizes)


def from_source_maps(
    classes: Sequence[str],
    ratio: Sequence[float],
    maps: Tensor,
    sigma: float,
    sizes: SizeDistribution | None = None,
) -> Prior:
    """The source's mean class ratio and class frequency at each pixel, see :func:`uda.priors.label_maps`.

    Source: Zou et al., Unsupervised Domain Adaptation via Class-Balanced Self-Training, ECCV 2018.
    """
    how = (
        "class frequency at each pixel of the source's labelled slices, "
        f"smoothed by a Gaussian of {sigma:g} pixels"
    )
    ledger = ("source_labels",)
    prior = Prior(tuple(classes), tuple(ratio), ledger, how, sizes=sizes, maps=maps)
    return prior.validate(classes)


def from_tags(
    classes: Sequence[str],
    presence_ratio: Sequence[float],
    tags: Mapping[Place, Sequence[bool]],
    sizes: SizeDistribution | None = None,
) -> Prior:
    """Per-image ratios from image tags.

    An absent structure gets 0, a present one its mean ratio over the source slices that show it, background
    the rest. Where every class has a tag (photographs), the ratios of the present ones are scaled to sum to 1.

    Source: Bateson et al., Constrained / source-free domain adaptation, 2019–2022: a prior of image tags.

    Args:
        presence_ratio: mean ratio of each class over the source slices that show it, background first.
        tags: for each image, which structures it shows (background left out), or which classes (photographs).

    Raises:
        PriorError: there are no tags, the structures together exceed the image, or a photograph shows no class.
    """
    if not tags:
        raise PriorError("the tags name no image", fix="add a line for each target image")
    images: dict[str, dict[int, tuple[float, ...]]] = {}
    for (case, index), shown in tags.items():
        row = np.asarray(presence_ratio[-len(shown) :]) * np.asarray(shown, dtype=float)
        if len(shown) < len(classes):
            row = np.array([1 - row.sum(), *row])
        elif row.sum() == 0:
            raise PriorError(
                f"the tags of {case} slice {index} name no class that the source shows",
                expected="one class or more: in a photograph every pixel has one",
                fix="correct this line of the tags",
            )
        else:
            row /= row.sum()
        images.setdefault(case, {})[index] = tuple(row.tolist())
    rows = [row for of_case in images.values() for row in of_case.values()]
    mean = tuple(np.mean(rows, axis=0).tolist())
    how = "image tags; a shown structure has its mean ratio in source slices that show it"
    supervision = union(("source_labels",), ("target_tags",))
    return Prior(tuple(classes), mean, supervision, how, images, sizes).validate(classes)


def presence_ratio(
    ratios: Floats, tags: NDArray[np.bool_], numbers: Sequence[int]
) -> tuple[float, ...]:
    """Mean ratio ``[k]`` of each tagged class over the images that show it; 0 for the others.

    Args:
        ratios: ``[n, k]`` of the images.
        tags: ``[n, s]`` which structures they show.
        numbers: class number of each structure.

    Example:
        >>> ratios = np.array([[0.9, 0.1], [0.5, 0.5], [0.7, 0.3]])
        >>> presence_ratio(ratios, np.array([[False], [True], [True]]), [1])
        (0.0, 0.4)
    """
    mean = np.zeros(ratios.shape[1])
    mean[list(numbers)] = (ratios[:, list(numbers)] * tags).sum(0) / np.maximum(tags.sum(0), 1)
    return tuple(mean.tolist())


def select_tags(
    tags: Mapping[Place, Sequence[bool]],
    wanted: Collection[str],
    known: Collection[str],
    where: Path | str,
) -> dict[Place, Sequence[bool]]:
    """The tags of the wanted cases.

    Args:
        wanted: the cases of the ``adapt`` split.
        known: every case of the domain; a tag file may cover the test cases too.
        where: the tag file, for messages.

    Raises:
        DataError: a tag names an unknown case.
    """
    if unknown := sorted(place for place in tags if place[0] not in known):
        raise DataError(
            f"tags name {len(unknown)} images of unknown cases: {listed(unknown)}",
            where=where,
            expected=nearest(unknown[0][0], known),
            fix="correct the case names; `uda check` compares a card's tags with its images",
        )
    return {place: shown for place, shown in tags.items() if place[0] in wanted}


def from_sizes_ml(
    classes: Sequence[str],
    sizes_ml: Mapping[str, float],
    geometries: Sequence[Geometry],
    supervision: str,
) -> Prior:
    """Ratios from volumes in ml: structure volume over the physical volume of the prepared slices.

    The ratios are averaged over the target volumes; background gets the rest.

    Raises:
        PriorError: an unknown or missing structure, a negative size, or sizes larger than the images.
    """
    images_ml = [
        g.depth * g.size[0] * g.size[1] * float(np.prod(g.prepared_spacing)) * g.skew / 1000
        for g in geometries
    ]
    shares = _shares(classes, sizes_ml, images_ml, None, ("sizes_ml", "ml", "mm³"))
    how = "volumes in ml over the physical volume of the prepared target images: " + ", ".join(
        f"{name} {sizes_ml[name]:g}" for name in classes[1:]
    )
    return Prior(tuple(classes), shares, (supervision,), how)


def from_areas_mm2(
    classes: Sequence[str],
    areas_mm2: Mapping[str, float],
    geometries: Sequence[Geometry],
    supervision: str,
) -> Prior:
    """Ratios from areas in mm²: a structure's mean in-plane area over the area of a prepared slice.

    The mean area is over ALL slices; slices without the structure count as 0. The ratios are averaged over the
    target's slices; background gets the rest. A structure of V ml in a stack of n slices d mm apart has
    1000 · V / (n · d) mm².

    Raises:
        PriorError: an unknown or missing structure, a negative area, or areas larger than the images.
    """
    images_mm2 = [
        g.size[0] * g.size[1] * g.prepared_spacing[1] * g.prepared_spacing[2] * g.skew
        for g in geometries
    ]
    slices = [g.depth for g in geometries]
    shares = _shares(classes, areas_mm2, images_mm2, slices, ("areas_mm2", "mm²", "cm² or pixels"))
    how = (
        "mean area in mm² over all slices, over the area of a prepared target slice: "
        + ", ".join(f"{name} {areas_mm2[name]:g}" for name in classes[1:])
    )
    return Prior(tuple(classes), shares, (supervision,), how)


def _shares(
    classes: Sequence[str],
    sizes: Mapping[str, float],
    images: Sequence[float],
    weights: Sequence[int] | None,
    names: tuple[str, str, str],
) -> tuple[float, ...]:
    """Mean share of the images that each structure fills, background first.

    Args:
        images: size of each image in the unit of ``sizes``.
        weights: weight of each image in the mean; None weighs all the same.
        names: the setting, its unit, and the unit that users often confuse with it.
    """
    setting, unit, confused = names
    if wrong := [name for name in sizes if name not in classes[1:]]:
        raise PriorError(f"{setting} names {wrong[0]!r}", expected=nearest(wrong[0], classes[1:]))
    if absent := [name for name in classes[1:] if name not in sizes]:
        raise PriorError(
            f"{setting} says nothing about {absent}", fix=f"give {unit} for every structure"
        )
    if wrong := [name for name, size in sizes.items() if not 0 <= size < float("inf")]:
        raise PriorError(
            f"{setting} gives {wrong[0]} {sizes[wrong[0]]:g} {unit}", expected="0 or more, finite"
        )
    if not images:
        raise PriorError(
            f"sizes in {unit} need the target images, which give the physical image size",
            fix="give the folder of the target images",
        )
    shares = [[sizes[name] / image for name in classes[1:]] for image in images]
    mean = np.average(shares, axis=0, weights=weights)
    if mean.sum() >= 1:
        raise PriorError(
            f"the sizes fill {mean.sum():.3g} of the mean target image",
            expected="less than the image",
            fix=f"give {unit}, not {confused}; check the spacing in the image headers",
        )
    return (float(1 - mean.sum()), *mean.tolist())


def from_predictions(
    classes: Sequence[str],
    ratios: Floats,
    places: Sequence[Place],
    *,
    per_image: bool = False,
    batchnorm: str = "source",
) -> Prior:
    """The model's mean softmax over the target images before adaptation.

    It needs no source images and no supervision. The model's errors are part of it.

    Args:
        ratios: ``[n, k]`` mean softmax of each target image.
        places: (case, slice index) of these images.
        per_image: keep the ratio of each image beside their mean.
        batchnorm: the domain of the BatchNorm statistics behind the predictions, for the record.

    Raises:
        PriorError: impossible ratios.
    """
    how = f"mean softmax of the model on the target images, BatchNorm statistics of the {batchnorm}"
    images = _images(ratios, places)
    mean = tuple(ratios.mean(0).tolist())
    prior = Prior(tuple(classes), mean, ("none",), how, images if per_image else None)
    return prior.validate(classes)


def from_image_level(
    classes: Sequence[str],
    ratios: Floats,
    places: Sequence[Place],
    method: str,
    sizes: SizeDistribution | None = None,
) -> Prior:
    """Each target image's label distribution as predicted by :func:`uda.priors.image_level_ratios`.

    Source: Zhang et al., Curriculum Domain Adaptation for Semantic Segmentation of Urban Scenes, ICCV 2017.

    Args:
        ratios: ``[n, k]`` of the target images.
        places: (case, slice index) of these images.
        method: nearest, logistic or ridge.

    Raises:
        PriorError: impossible ratios.
    """
    how = {
        "nearest": "mean class ratio of the nearest source images in the features of the source model",
        "logistic": "logistic regression from features of the source model to source class ratios",
        "ridge": "ridge regression from features of the source model to source class ratios",
    }[method]
    mean = tuple(ratios.mean(0).tolist())
    images = _images(ratios, places)
    return Prior(tuple(classes), mean, ("source_labels",), how, images, sizes).validate(classes)


def from_size_counts(
    classes: Sequence[str],
    counts: Mapping[Place, Sequence[float]],
    places: Sequence[Place],
    supervision: str,
    where: Path | str,
) -> Prior:
    """Per-image ratios from pixel counts: each class's count over the sum of the counts.

    Args:
        counts: from :func:`uda.priors.read_sizes`.
        places: (case, slice index) of the target images.
        supervision: ledger entry of the counts.
        where: the file of the counts, for messages.

    Raises:
        PriorError: counts of images that the target does not have, or images without counts.
    """
    target = set(places)
    if unknown := [place for place in counts if place not in target]:
        raise PriorError(
            f"sizes of {len(unknown)} images that the target does not have: {listed(unknown)}",
            where=where,
            expected="ids <case>_<slice>, slices counted from 0 along the file's own axis",
            fix="correct these ids or remove their lines",
        )
    if missing := [place for place in places if place not in counts]:
        raise PriorError(
            f"no sizes of {len(missing)} of {len(places)} target images: {listed(missing)}",
            where=where,
            expected="a line for each target image",
            fix="add their sizes, or use a prior for the whole data set",
        )
    table = np.array([counts[place] for place in places], dtype=np.float64)
    table /= table.sum(1, keepdims=True)
    how = "pixel counts of each target image, as shares of the image"
    mean = tuple(table.mean(0).tolist())
    images = _images(table, places)
    return Prior(tuple(classes), mean, (supervision,), how, images).validate(classes)


def _images(
    ratios: Floats, places: Sequence[Place]
) -> dict[str, dict[int, tuple[float, ...]]] | None:
    """Rows ``[n, k]`` by case and slice index."""
    if len(ratios) != len(places) or not len(places):
        raise PriorError(
            f"{len(ratios)} ratios for {len(places)} images", expected="one ratio for each image"
        )
    images: dict[str, dict[int, tuple[float, ...]]] = {}
    for (case, index), row in zip(places, ratios, strict=True):
        images.setdefault(case, {})[index] = tuple(row.tolist())
    return images
