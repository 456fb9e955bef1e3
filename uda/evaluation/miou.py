"""IoU per class and mIoU of label maps without a background, from confusion matrices on the device.

Definitions, after the PASCAL VOC and Cityscapes benchmarks:

* A confusion matrix counts pixels, reference (rows) by prediction (columns). Pixels that are
  ``IGNORE`` in the reference are in no row.
* IoU = TP / (TP + FP + FN) of a class, from the sum of the matrices of all images; mIoU is its mean
  over the classes.

Counts are exact (int64) and deterministic, and counting an image does not make the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uda.errors import DataError, nearest
from uda.types import IGNORE

Floats = npt.NDArray[np.float64]

IOU_RULES = (
    "One confusion matrix over all images, on each file's own grid; "
    "pixels that the reference ignores count nowhere.",
    "IoU per class = TP / (TP + FP + FN) of all images together, not a mean over images.",
    "Class in neither reference nor prediction of any image: it does not count (n/a).",
    "Class in the reference, none predicted, or predicted, none in the reference: IoU 0.",
    "missed: images that show a class of which nothing was predicted; spurious: the reverse.",
    "Mean: over the classes that count. A subset's mean: over its classes, each with the IoU it has "
    "among all classes.",
    "Interval: 95 % bootstrap over images.",
)

VALUES = IGNORE + 1  # possible values of a uint8 reference
RESAMPLES = 2000  # bootstrap draws; 50 of them lie beyond each end of a 95 % interval


class Confusion:
    """Confusion matrices ``[images, k, k]`` (reference by prediction), filled image by image.

    The device also counts reference values without a class. The error comes when the counts are read, because
    a check of every image would make the host wait.

    Args:
        classes: number of classes, at most 255.
        images: number of images; the matrices take ``8 · images · classes²`` bytes.
        device: where to count.

    Raises:
        DataError: the number of classes is 0 or above 255.
    """

    def __init__(self, classes: int, images: int, device: torch.device | str = "cpu") -> None:
        if not 1 <= classes <= IGNORE:
            raise DataError(
                f"{classes} classes",
                expected=f"1 to {IGNORE}, because labels are bytes and {IGNORE} means ignored",
            )
        self.classes = classes
        self.counts = torch.zeros(images, classes, classes, dtype=torch.int64, device=device)
        # Pixels whose value is no class, by image and by value.
        self._stray_pixels = torch.zeros(images, dtype=torch.int64, device=device)
        self._stray_values = torch.zeros(VALUES, dtype=torch.int64, device=device)
        self._added: set[int] = set()

    def add(self, number: int, prediction: Tensor, reference: Tensor) -> None:
        """Count one image.

        Args:
            number: of the image, from 0.
            prediction: ``[h, w]`` of any integer type; every value is a class.
            reference: ``[h, w]`` uint8 on any device; ``IGNORE`` is not counted.

        Raises:
            DataError: shapes or types differ from these, or the image is counted already.
        """
        self._check(number, prediction, reference)
        device = self.counts.device
        index = pair_index(prediction.to(device), reference.to(device), self.classes)
        found = histogram(index, VALUES * self.classes).view(VALUES, self.classes)
        self.counts[number] += found[: self.classes]
        stray = found[self.classes : IGNORE].sum(1)
        self._stray_pixels[number] += stray.sum()
        self._stray_values[self.classes : IGNORE] += stray
        self._added.add(number)

    def merge(self, other: Confusion) -> None:
        """Add the images that another one has counted.

        Raises:
            DataError: numbers of images or classes differ, or both have counted an image.
        """
        if self.counts.shape != other.counts.shape:
            raise DataError(
                f"confusion matrices {tuple(other.counts.shape)} do not fit {tuple(self.counts.shape)}",
                expected="the same images and classes in both",
            )
        if twice := sorted(self._added & other._added):
            raise _counted_twice(twice[0])
        device = self.counts.device
        self.counts += other.counts.to(device)
        self._stray_pixels += other._stray_pixels.to(device)
        self._stray_values += other._stray_values.to(device)
        self._added |= other._added

    def total(self, names: Sequence[str] = ()) -> Tensor:
        """Sum ``[k, k]`` over all images, on the device; names and errors as of :meth:`matrices`."""
        self._check_strays(names)
        return self.counts.sum(0)

    def matrices(self, names: Sequence[str] = ()) -> npt.NDArray[np.int64]:
        """Matrices ``[images, k, k]`` on the host; zero for an image that was not counted.

        Args:
            names: of the images, for the message.

        Raises:
            DataError: a reference had a value that is neither a class nor ``IGNORE``.
        """
        self._check_strays(names)
        return np.asarray(self.counts.cpu().numpy())

    def _check(self, number: int, prediction: Tensor, reference: Tensor) -> None:
        if prediction.shape != reference.shape:
            raise DataError(
                f"the prediction has shape {tuple(prediction.shape)}, "
                f"the reference {tuple(reference.shape)}",
                where=f"image {number}",
                expected="one shape for both",
                fix="resample the prediction to the grid of the reference before scoring",
            )
        integer = prediction.dtype != torch.bool and not prediction.is_floating_point()
        if not integer or reference.dtype != torch.uint8:
            raise DataError(
                f"the prediction is {prediction.dtype}, the reference {reference.dtype}",
                where=f"image {number}",
                expected="integer labels (the argmax of the logits) and torch.uint8",
            )
        if number in self._added:
            raise _counted_twice(number)

    def _check_strays(self, names: Sequence[str]) -> None:
        pixels = self._stray_pixels.cpu().numpy()
        if not pixels.any():
            return
        values = self._stray_values.cpu().numpy()
        listed = ", ".join(f"{v} ({values[v]} pixels)" for v in np.flatnonzero(values))
        images = np.flatnonzero(pixels)
        shown = [names[i] if i < len(names) else f"image {i}" for i in images[:5]]
        more = f" and {len(images) - 5} more" if len(images) > 5 else ""
        raise DataError(
            f"the reference holds values without a class: {listed}",
            where=", ".join(shown) + more,
            expected=f"0 to {self.classes - 1}, the {self.classes} classes, or {IGNORE} for ignored",
            fix="correct the label table of the dataset card",
        )


def _counted_twice(number: int) -> DataError:
    return DataError(
        f"image {number} is counted twice",
        expected="one prediction per image",
        fix="give every image a unique number",
    )


def pair_index(prediction: Tensor, reference: Tensor, classes: int) -> Tensor:
    """``reference · classes + prediction`` of each pixel ``[h·w]``, as int16 if it fits, else int32.

    Reference values that are no class have their own bins, so no mask or look-up table is needed. int16 has a
    quarter of the bytes of an argmax's int64.
    """
    kind = torch.int16 if VALUES * classes <= torch.iinfo(torch.int16).max + 1 else torch.int32
    return reference.to(kind).mul_(classes).add_(prediction.to(kind)).flatten()


def histogram(index: Tensor, bins: int) -> Tensor:
    """Count each of ``0 … bins - 1`` in a vector: int64 ``[bins]`` on its device.

    ``torch.bincount`` of a CUDA tensor reads the least and the largest value back to the host, and its threads
    wait for each other if many pixels share a bin, as here. Sorting does neither.
    """
    if index.device.type == "cuda":
        return histogram_by_sorting(index, bins)
    return torch.bincount(index, minlength=bins)


def histogram_by_sorting(index: Tensor, bins: int) -> Tensor:
    """:func:`histogram` by sorting: a bin ends in the sorted vector where the next value would be inserted."""
    last = torch.arange(bins, dtype=index.dtype, device=index.device)
    ends = torch.searchsorted(index.sort().values, last, right=True)
    return ends.diff(prepend=ends.new_zeros(1))


def summarise_iou(
    matrices: npt.NDArray[np.int64],
    classes: Sequence[str],
    subsets: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """IoU of one row, ready for JSON: ``None`` without a defined value, never NaN. Rules: ``IOU_RULES``.

    ``iou``: ``mean``, ``ci95`` (percentile bootstrap over images of ``mean``; needs two images with
    labels; a resample's mean is over the classes that occur in it) and ``per_class``: ``mean`` (the
    class's IoU), ``n`` (images whose reference shows it), ``missed``, ``spurious`` (images), ``share``
    (of the labelled pixels). ``accuracy``: share of correct pixels among the labelled ones.
    ``subsets``: mean IoU over the classes of each subset.

    Args:
        matrices: ``[n, k, k]``, reference by prediction, one per image.
        classes: names of the k classes.
        subsets: classes by the name of the subset, such as the 13 of SYNTHIA.
        seed: of the bootstrap.

    Raises:
        DataError: the shape does not fit the classes, or a subset names an unknown class.
    """
    names, subsets = list(classes), subsets or {}
    _check_matrices(matrices, names, subsets)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    shown, predicted = matrices.sum(2), matrices.sum(1)
    iou = _iou(hits.sum(0), shown.sum(0), predicted.sum(0))
    labelled = int(shown.sum())
    per_class = {
        name: {
            "mean": _mean(iou[k : k + 1]),
            "n": int((shown[:, k] > 0).sum()),
            "missed": int(((shown[:, k] > 0) & (predicted[:, k] == 0)).sum()),
            "spurious": int(((shown[:, k] == 0) & (predicted[:, k] > 0)).sum()),
            "share": int(shown[:, k].sum()) / labelled if labelled else None,
        }
        for k, name in enumerate(names)
    }
    return {
        "iou": {
            "mean": _mean(iou),
            "ci95": _interval(hits, shown, predicted, seed),
            "per_class": per_class,
        },
        "accuracy": int(hits.sum()) / labelled if labelled else None,
        "subsets": {
            label: _mean(iou[[names.index(name) for name in members]])
            for label, members in subsets.items()
        },
    }


def _iou(hits: npt.NDArray[Any], shown: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> Floats:
    """TP / (TP + FP + FN) of each class; NaN if the denominator is 0."""
    union = (shown + predicted - hits).astype(np.float64)
    return np.asarray(np.divide(hits, union, out=np.full_like(union, np.nan), where=union > 0))


def _interval(
    hits: npt.NDArray[np.int64],
    shown: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    seed: int,
) -> list[float] | None:
    labelled = shown.any(axis=1)  # so every draw has a class with pixels
    n = int(labelled.sum())
    if n < 2:
        return None
    # Counts of the drawn images replace 2000 resampled copies by one matrix product.
    # The sums are integers below 2**53, which float64 holds exactly, in any order.
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    times = draws.astype(np.float64)
    sums = [times @ counts[labelled].astype(np.float64) for counts in (hits, shown, predicted)]
    low, high = np.quantile(np.nanmean(_iou(*sums), axis=1), [0.025, 0.975])
    return [float(low), float(high)]


def _mean(iou: Floats) -> float | None:
    counted = iou[np.isfinite(iou)]
    return float(counted.mean()) if len(counted) else None


def _check_matrices(
    matrices: npt.NDArray[np.int64], names: Sequence[str], subsets: Mapping[str, Sequence[str]]
) -> None:
    k = len(names)
    if matrices.ndim != 3 or matrices.shape[1:] != (k, k):
        raise DataError(
            f"confusion matrices of shape {matrices.shape} for {k} classes",
            expected=f"(images, {k}, {k})",
        )
    for label, members in subsets.items():
        for name in members:
            if name not in names:
                raise DataError(
                    f"subset {label!r} names {name!r}, which is not a class",
                    expected=nearest(name, names),
                )
