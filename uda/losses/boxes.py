"""Bounding boxes as constraints: nothing outside of them, something on every line inside, most of each filled."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import product

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from uda.errors import ConfigError, DataError, PriorError
from uda.losses.closed_form import with_gradient
from uda.losses.constraints import barrier
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, predicted
from uda.types import Scalar

TOLERANCE = 2.0
"""How far from each corner of a visible box or band a pixel of the image may be, along each axis."""
UNIT = 2.0**40
"""One in fixed point: 2²² pixels of p = 1 fit into 63 bits."""


def boxes(
    logits: Predicted,
    boxes: Integer[Tensor, "n m"],
    boxed: Bool[Tensor, "b k"],
    coordinates: Float[Tensor, "b a *s"] | None = None,
    width: int = 5,
    filled: tuple[float, float] = (0.2, 1.0),
    t: float | None = None,
    weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Scalar:
    r"""Three penalties for predictions that contradict bounding boxes: emptiness, tightness and size.

    Formula: $w_1\,\mathrm{mean}_{(b,c)}\,V_{bc} + w_2\,\mathrm{mean}_i\,\mathrm{mean}_j\,\varphi(1 - L_{ij}) +
        w_3\,\mathrm{mean}_i\left(\varphi(l - S_i) + \varphi(S_i - u)\right)$ with φ(z) = [z]₊²; with t, φ = ψ_t of
        :func:`log_barrier`, for V too. $V_{bc}$ is the share of image b that is predicted as c outside of c's boxes,
        for the classes whose boxes are all given; $L_{ij}$ the predicted pixels of box i's class per line of its band
        j; $S_i$ the predicted share of box i
    Range: without t [0, w₁ + w₂ + w₃]; with t as :func:`log_barrier`
    Minimum: without t 0, wherever a class is nowhere outside of its boxes, has a pixel on every line of each box in the
        mean over its bands, and fills between l and u of it
    Collapse: none onto one class, but a cross of p = 1 in a box satisfies tightness; what inside a box belongs to the
        object is left to ``filled``, the image and other losses (:func:`potts`, :func:`grid_crf`)
    Source: Kervadec et al., Bounding boxes for weakly supervised segmentation: Global constraints get close to full
        supervision, MIDL 2020 (all three, the log-barrier); tightness: Lempitsky et al., ICCV 2009, Hsu et al., NeurIPS
        2019; here z is a share of the image, line or box, and each box weighs the same

    A band is ``width`` neighbouring lines (in a volume planes) of a box across one axis, the last one the rest; an
    object that touches all sides of its box has at least one pixel on each line. Along an axis where a box is one pixel
    long there are no bands, because those of the other axes say more. So a box that lies in one slice of a volume is
    tight in its plane.
    Overlapping boxes of one class count each by itself; what any of them covers is not outside.

    Boxes keep to the original image's pixels, wherever augmentation moved those: a pixel is in a box, and on a line of
    it, by its coordinate rounded to the nearest integer. L and S are means over the visible pixels times the original
    size, so that scaling does not change them. Of a box or a band that has left the image in part nothing is known but
    the emptiness around it: it counts as visible only if within ``TOLERANCE`` (2) pixels along each axis of each of its
    corners lies a pixel of the image that is inside of it. That is exact to the tolerance for affine augmentation,
    under which what lies between visible corners is visible.

    V counts as it is: squared, its slope would fade long before the outside is empty. ψ_t is linear there as well.

    Where ``boxes`` and ``coordinates`` are on the CPU nothing waits for the device of the logits. A term without
    boxes, or without any visible, is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        boxes: image of the batch, class, first corner, last corner (both inside), ``[n, 2 + 2a]`` with a = 2 or 3.
        boxed: for which classes of which images all boxes are given, ``[b, k]``; without one the class is absent.
        coordinates: where each pixel lies in the original image, in its pixels, ``[b, a, *s]``; a may differ from
            the number of axes of the logits (slices of a volume). By default the pixels are where they were.
        width: lines in a band.
        filled: l and u, bounds of an object's share of its box. The paper's code has (0.5, 0.9) for convex objects; a
            ring whose wall is a tenth of its diameter fills 0.28.
        t: sharpness of the log-barrier, see :func:`barrier_t`; ``None`` for the squared hinge.
        weights: w₁ of the emptiness outside, w₂ of tightness, w₃ of size.

    Returns:
        Scalar.

    Raises:
        DataError: shapes that do not belong together; an image or a class that is not there; a last corner before the
            first one; coordinates that are not finite.
        PriorError: ``filled`` is no range of fractions.
        ConfigError: a width, t or weight that cannot be.

    Example:
        A 2×4 image with p = ½ everywhere for class 1, which has a box over the left half. Outside, 4 · ½ of 8 pixels:
        ¼. Every line has 2 · ½ pixels: 0. The box is half filled: 0.

        >>> import torch
        >>> logits, boxed = torch.zeros(1, 2, 2, 4), torch.tensor([[False, True]])
        >>> left = torch.tensor([[0, 1, 0, 0, 1, 1]])
        >>> float(boxes(logits, left, boxed))
        0.25

        The image moved by one column to the right, with a box over what is now its third column. Both lines of one
        pixel lack ½: (½)².

        >>> place = torch.stack(torch.meshgrid(torch.arange(2.0), torch.arange(4.0) - 1, indexing="ij"))
        >>> column = torch.tensor([[0, 1, 0, 1, 1, 1]])
        >>> float(boxes(logits, column, boxed, place.unsqueeze(0), weights=(0.0, 1.0, 0.0)))
        0.25
    """
    prediction = predicted(logits)
    shape = prediction.shape
    _check(shape, boxes, boxed, coordinates)
    _check_settings(width, filled, t, weights)
    cells = _cells(boxes.detach().cpu().long(), width)
    members = _members(cells, shape, coordinates)
    value, gradient = _penalties(
        prediction.p.detach(), boxed.to(prediction.p.device), cells, members, filled, t, weights
    )
    return with_gradient(prediction.log_p, value, gradient)


@dataclass(frozen=True)
class _Cells:
    """The boxes and their bands, on the CPU: first all bands, then the boxes themselves."""

    row: Integer[Tensor, "n 2"]
    """image and class of each box"""
    first: Integer[Tensor, "n a"]
    last: Integer[Tensor, "n a"]
    width: int
    start: Integer[Tensor, "n a"]
    """number of the first band of each box across each axis; −1 where it has none"""
    box: Integer[Tensor, "c"]
    """of each band and box"""
    low: Integer[Tensor, "c a"]
    high: Integer[Tensor, "c a"]
    line: Float[Tensor, "c"]
    """pixels of the original image on a line; 1 for boxes, so that a mean is a share"""


def _cells(given: Tensor, width: int) -> _Cells:
    axes = (given.shape[1] - 2) // 2
    row, first, last = given.split([2, axes, axes], dim=1)
    extent = last - first + 1
    banded = extent > 1
    banded[(extent == 1).all(1), -1] = True
    bands = (-(-extent // width) * banded).flatten()
    start = (bands.cumsum(0) - bands).view_as(extent)
    pair = torch.arange(bands.numel()).repeat_interleave(bands)
    box, axis = pair // axes, (pair % axes).unsqueeze(1)
    offset = (torch.arange(len(pair)) - start.flatten()[pair]).unsqueeze(1) * width
    low, high = first[box], last[box]
    begin = low.gather(1, axis) + offset
    low.scatter_(1, axis, begin)
    high.scatter_(1, axis, torch.minimum(begin + width - 1, high.gather(1, axis)))
    line = extent.prod(1)[box] / extent[box].gather(1, axis).squeeze(1)
    return _Cells(
        row=row,
        first=first,
        last=last,
        width=width,
        start=start.masked_fill(~banded, -1),
        box=torch.cat([box, torch.arange(len(given))]),
        low=torch.cat([low, first]),
        high=torch.cat([high, last]),
        line=torch.cat([line, torch.ones(len(given))]),
    )


@dataclass(frozen=True)
class _Members:
    """The pixels in boxes, a pixel once for each box that it is in."""

    index: Integer[Tensor, "m"]
    """in the probabilities laid out in a row"""
    cell: Integer[Tensor, "j m"]
    """the pixel's band across each axis, one past the last cell where there is none, and its box"""
    pixels: Integer[Tensor, "c"]
    """in each cell"""
    visible: Bool[Tensor, "c"]

    def to(self, device: torch.device) -> _Members:
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        if device.type == "cuda":
            moved = {k: v if v.is_cuda else v.pin_memory() for k, v in moved.items()}
        return _Members(**{k: v.to(device, non_blocking=True) for k, v in moved.items()})


@torch.no_grad()
def _members(cells: _Cells, shape: torch.Size, coordinates: Tensor | None) -> _Members:
    _, classes, *space = shape
    if coordinates is None:
        box, place = _inside_grid(cells, space)
        pixel = _flat(place, space)
    else:
        box, pixel, place = _inside_moved(cells, coordinates)
    image, own_class = cells.row.to(box.device).unbind(1)
    index = (image * classes + own_class).index_select(0, box) * math.prod(space) + pixel
    count, bands = len(cells.box), len(cells.box) - len(cells.first)
    cell = torch.empty(len(place) + 1, len(box), dtype=torch.int32, device=box.device)
    torch.add(box, bands, out=cell[-1])
    for axis, at in enumerate(place):
        first, start = (x[:, axis].to(box).index_select(0, box) for x in (cells.first, cells.start))
        band = (at - first).div_(cells.width, rounding_mode="floor").add_(start)
        cell[axis] = band.masked_fill_(start < 0, count)
    pixels = torch.bincount(cell.flatten(), minlength=count + 1)[:count]
    if coordinates is None:
        visible = _visible_in_grid(cells, space) & (pixels > 0)
    else:
        visible = _visible_moved(cells, cell, place)
    return _Members(index, cell, pixels, visible)


def _inside_grid(cells: _Cells, space: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Box and place along each axis of every pixel in a box, pixels where they were."""
    low = cells.first.clamp_min(0)
    extent = (torch.minimum(cells.last, torch.tensor(space) - 1) - low + 1).clamp_min(0)
    area = extent.prod(1)
    box = torch.arange(len(area), dtype=torch.int32).repeat_interleave(area)
    rest = torch.arange(len(box), dtype=torch.int32)
    rest -= (area.cumsum(0) - area).int().index_select(0, box)
    place = []
    for axis in reversed(range(len(space))):
        size = extent[:, axis].int().index_select(0, box)
        place.append((rest % size).add_(low[:, axis].int().index_select(0, box)))
        rest = rest.div_(size, rounding_mode="floor")
    return box, place[::-1]


def _flat(place: list[Tensor], space: list[int]) -> Tensor:
    """Number of each pixel of an image in a row."""
    number = torch.zeros_like(place[0])
    for at, size in zip(place, space, strict=True):
        number.mul_(size).add_(at)
    return number


def _inside_moved(cells: _Cells, coordinates: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Box, pixel and rounded coordinates of every pixel in a box, on the device of the coordinates."""
    flat = coordinates.detach().flatten(2)
    image, first, last = (x.to(flat.device) for x in (cells.row[:, 0], cells.first, cells.last))
    inside = torch.ones(len(first), flat.shape[2], dtype=torch.bool, device=flat.device)
    for axis in range(flat.shape[1]):
        own = flat[:, axis].index_select(0, image)
        inside &= own >= first[:, axis, None] - 0.5
        inside &= own < last[:, axis, None] + 0.5
    box, pixel = inside.nonzero(as_tuple=True)
    number = image.index_select(0, box) * flat.shape[2] + pixel
    place = []
    for axis in range(flat.shape[1]):
        at = flat[:, axis].flatten().index_select(0, number).add_(0.5).floor_().int()
        # a half far from 0 can round to either side
        ends = (end[:, axis].int().index_select(0, box) for end in (first, last))
        place.append(at.clamp_(*ends))
    return box.int(), pixel.int(), place


def _visible_in_grid(cells: _Cells, space: list[int]) -> Tensor:
    end = torch.tensor(space) - 1
    return ((cells.low >= -TOLERANCE) & (cells.high <= end + TOLERANCE)).all(1)


def _visible_moved(cells: _Cells, cell: Tensor, place: list[Tensor]) -> Tensor:
    """Cells that have a pixel near each of their corners."""
    corners = list(product((0, 1), repeat=len(place)))
    # one more cell for the pixels of none
    seen = torch.zeros(len(corners), len(cells.box) + 1, dtype=torch.bool, device=cell.device)
    low, high = (
        torch.cat([x, x.new_zeros(1, len(place))]).to(cell) for x in (cells.low, cells.high)
    )
    for row in cell:
        near = [
            [(at - end[:, axis].index_select(0, row)).abs_() <= TOLERANCE for end in (low, high)]
            for axis, at in enumerate(place)
        ]
        for number, corner in enumerate(corners):
            at_corner = near[0][corner[0]]
            for axis in range(1, len(place)):
                at_corner = at_corner & near[axis][corner[axis]]
            seen[number].index_fill_(0, row[at_corner].long(), True)
    return seen.all(0)[:-1]


@torch.no_grad()
def _penalties(
    p: Tensor,
    boxed: Tensor,
    cells: _Cells,
    members: _Members,
    filled: tuple[float, float],
    t: float | None,
    weights: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """The weighted sum of the three, and its gradient by log p."""
    members = members.to(p.device)
    index, cell = members.index, members.cell
    own = p.flatten(2).clone(memory_format=torch.contiguous_format)
    in_boxes = own.view(-1).index_select(0, index)
    covered = torch.zeros_like(own, dtype=torch.bool)
    covered.view(-1).index_fill_(0, index, True)
    own.masked_fill_(covered, 0.0)
    del covered
    fixed = (in_boxes * UNIT).round_().long()
    sums = fixed.new_zeros(len(cells.box) + 1)
    for row in cell:
        sums.index_add_(0, row, fixed)
    del fixed
    # from a pixel's p to the pixels per line, or to the share of the box
    scale = cells.line.to(own) / members.pixels.clamp_min(1)
    with torch.enable_grad():
        outside = (own.sum(2) / own.shape[2]).requires_grad_()
        level = (sums[:-1].to(own) / UNIT * scale).requires_grad_()
        parts = _parts(outside, level, boxed, cells, members.visible, filled, t)
        value = sum(
            (w * part for w, part in zip(weights, parts, strict=True)), outside.new_zeros(())
        )
        by_outside, by_level = torch.autograd.grad(value, (outside, level))
    own.mul_(by_outside.unsqueeze(2) / own.shape[2])
    slope = torch.cat([by_level * scale, by_level.new_zeros(1)])
    steps = slope.index_select(0, cell[0])
    for row in cell[1:]:
        steps += slope.index_select(0, row)
    own.view(-1).index_add_(0, index, in_boxes.mul_(steps))
    return value.detach(), own.view(p.shape)


def _parts(
    outside: Tensor,
    level: Tensor,
    boxed: Tensor,
    cells: _Cells,
    visible: Tensor,
    filled: tuple[float, float],
    t: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Emptiness, tightness and size."""

    def penalty(z: Tensor) -> Tensor:
        return z.relu().square() if t is None else barrier(z, t)

    leak = outside if t is None else barrier(outside, t)
    emptiness = (leak * boxed).sum() / boxed.sum().clamp_min(1)
    bands = len(cells.box) - len(cells.first)
    box = cells.box[:bands].to(visible.device, non_blocking=True)
    seen = visible[:bands].long()
    of_box = seen.new_zeros(len(cells.first)).index_add_(0, box, seen)
    share = seen / of_box.clamp_min(1)[box] / (of_box > 0).sum().clamp_min(1)
    tightness = (penalty(1 - level[:bands]) * share).sum()
    size, whole = level[bands:], visible[bands:]
    size = penalty(filled[0] - size) + penalty(size - filled[1])
    return emptiness, tightness, (size * whole).sum() / whole.sum().clamp_min(1)


def _check(shape: torch.Size, given: Tensor, boxed: Tensor, coordinates: Tensor | None) -> None:
    batch, classes, *space = shape
    axes = len(space) if coordinates is None else coordinates.shape[1]
    if coordinates is not None and coordinates.shape != (batch, axes, *space):
        raise DataError(
            f"the coordinates have shape {tuple(coordinates.shape)}",
            expected=f"({batch}, axes of the boxes, {', '.join(map(str, space))}), the pixels of the logits",
        )
    if given.dim() != 2 or given.shape[1] != 2 + 2 * axes:
        raise DataError(
            f"the boxes have shape {tuple(given.shape)}",
            expected=f"(n, {2 + 2 * axes}): image, class, first corner and last corner along {axes} axes",
        )
    if boxed.shape != (batch, classes):
        raise DataError(
            f"boxed has shape {tuple(boxed.shape)}",
            expected=f"{(batch, classes)}, for each image the classes whose boxes are all given",
        )
    if coordinates is not None and readable(coordinates) and not bool(coordinates.isfinite().all()):
        raise DataError("a coordinate is not finite", expected="where each pixel lies, in pixels")
    if readable(given) and len(given):
        _check_values(given.long(), batch, classes, axes)


def _check_values(given: Tensor, batch: int, classes: int, axes: int) -> None:
    for column, name, count in ((0, "image", batch), (1, "class", classes)):
        low, high = int(given[:, column].min()), int(given[:, column].max())
        if low < 0 or high >= count:
            raise DataError(
                f"a box is of {name} {low if low < 0 else high}", expected=f"0 to {count - 1}"
            )
    first, last = given[:, 2:].split(axes, dim=1)
    if bool((last < first).any()):
        number = int((last < first).any(1).int().argmax())
        raise DataError(
            f"box {number} ends before it begins: {first[number].tolist()} to {last[number].tolist()}",
            expected="the first and the last pixel inside, along each axis",
        )


def _check_settings(
    width: int, filled: tuple[float, float], t: float | None, weights: tuple[float, float, float]
) -> None:
    if width < 1:
        raise ConfigError(f"width is {width}", expected="a whole number of at least 1")
    if not 0 <= filled[0] <= filled[1] <= 1:
        raise PriorError(
            f"filled is {filled}", expected="the least and the largest share of a box, from 0 to 1"
        )
    if t is not None and not 0 < t < math.inf:
        raise ConfigError(f"t is {t}", expected="a positive number", fix="start with 5")
    if not all(0 <= weight < math.inf for weight in weights):
        raise ConfigError(f"the weights are {weights}", expected="three numbers of 0 or more")
