"""Labels that name some of the classes: cases annotated for one organ each, merged into one training."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from uda.errors import DataError
from uda.losses.closed_form import with_gradient
from uda.losses.inspection import readable
from uda.losses.prediction import Predicted, Prediction, predicted
from uda.types import IGNORE, OTHER, Labels, Scalar


def partial_labels(logits: Predicted, labels: Labels, labelled: Bool[Tensor, "b k"]) -> Scalar:
    r"""Marginal cross-entropy: a pixel of none of the named classes may be of any of the others.

    Formula: $-\frac{1}{|\Omega|}\sum_{x\in\Omega}\log\sum_{c\in A(x)} p_c(x)$ with $A(x) = \{y(x)\}$ where the label
        is a class and, where it is OTHER, all classes that the image's labels do not name; Ω the batch's pixels that
        are not IGNORE
    Range: [0, ∞)
    Minimum: 0, where each pixel has all its probability in A
    Collapse: says nothing of how OTHER is divided: a class that no image's labels name may vanish or take all of it;
        pair it with a class ratio (:func:`dual_class_ratio`)
    Source: Shi et al., Marginal loss and exclusion loss, Medical Image Analysis 2021, and Fidon et al., Label-set loss
        functions, MICCAI 2021; the setting of Zhou et al., Prior-aware Neural Network, ICCV 2019

    With every class named it is :func:`cross_entropy`. When no pixel is labelled the value is 0, with a gradient
    of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        labels: ``[b, *s]``, 0 … k−1, OTHER or IGNORE.
        labelled: which classes the labels of each image name, ``[b, k]``.

    Returns:
        Scalar, in nats.

    Raises:
        DataError: shapes that do not belong together; a label that is no class; OTHER in an image whose labels name
            every class.

    Example:
        Three classes with p = (½, ¼, ¼) at four pixels. The labels name class 1 alone: one pixel is of it, −log ¼;
        two are of another class, −log(½ + ¼) each; one has no label. (1.3863 + 2 · 0.2877) / 3:

        >>> import torch
        >>> logits = torch.tensor([2.0, 1.0, 1.0]).log().view(1, 3, 1, 1).expand(1, 3, 2, 2)
        >>> labels = torch.tensor([[[1, 254], [254, 255]]])
        >>> round(float(partial_labels(logits, labels, torch.tensor([[False, True, False]]))), 4)
        0.6539
    """
    prediction = predicted(logits)
    valid = _counted(prediction, labels, labelled)
    log_p = prediction.log_p
    value, gradient = _marginal(log_p.detach(), labels, labelled, valid)
    return with_gradient(log_p, value, gradient)


def partial_dice(
    logits: Predicted,
    labels: Labels,
    labelled: Bool[Tensor, "b k"],
    include_background: bool = False,
) -> Scalar:
    r"""Soft Dice loss of each class over the images whose labels name it.

    Formula: $\frac{1}{|C|}\sum_{c\in C} 1 - \frac{2\sum_{b\in B_c,x} p_c\,y_c}{\sum_{b\in B_c,x} p_c + \sum_{b\in
        B_c,x} y_c}$, B_c the images whose labels name c, C the classes above 0 that an image of the batch names,
        over the pixels that are not IGNORE
    Range: [0, 1]
    Minimum: the named classes one-hot at their labels and 0 elsewhere in the images that name them
    Collapse: none of a named class; says nothing of the others; where p is near one-hot and wrong its gradient
        vanishes, so pair it with :func:`partial_labels`
    Source: Shi et al., Marginal loss and exclusion loss, Medical Image Analysis 2021 (marginal Dice); Fidon et al.,
        Label-set loss functions, MICCAI 2021 (leaf-Dice)

    A pixel labelled OTHER is none of the named classes. With every class named it is :func:`dice`. When no pixel is
    labelled or no class is named the value is 0, with a gradient of 0.

    Args:
        logits: ``[b, k, *s]``, or a :class:`Prediction`.
        labels, labelled: see :func:`partial_labels`.
        include_background: count class 0 too, where it is named.

    Raises:
        DataError: see :func:`partial_labels`.

    Example:
        Two images of two pixels, undecided between three classes. The first names class 1 and shows it once:
        1 − 2 · ⅓ / (⅔ + 1) = 0.6. The second names class 2 and shows it twice: 1 − 2 · ⅔ / (⅔ + 2) = 0.5.

        >>> import torch
        >>> labels = torch.tensor([[1, 254], [2, 2]])
        >>> labelled = torch.tensor([[False, True, False], [False, False, True]])
        >>> round(float(partial_dice(torch.zeros(2, 3, 2), labels, labelled)), 4)
        0.55
    """
    prediction = predicted(logits)
    valid = _counted(prediction, labels, labelled)
    log_p = prediction.log_p
    value, gradient = _dice(log_p.detach(), labels, labelled, valid, include_background)
    return with_gradient(log_p, value, gradient)


@torch.no_grad()
def _marginal(
    log_p: Tensor, labels: Tensor, labelled: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """The marginal cross-entropy and its gradient by log p, −p_c / Σ_A p over the classes of A."""
    other = (labels == OTHER).unsqueeze(1)
    allowed = _is_class(labels, log_p).logical_or_(other & _per_class(~labelled, log_p))
    share = log_p.masked_fill(~allowed.logical_and_(valid.unsqueeze(1)), -torch.inf)
    top = share.amax(1, keepdim=True).masked_fill_(~valid.unsqueeze(1), 0.0)
    share.sub_(top).exp_()
    total = share.sum(1, keepdim=True).clamp_min_(1)  # 0 where nothing is allowed
    count = valid.sum().clamp_min(1)
    value = -(top.sum() + total.log().sum()) / count
    return value, share.div_(total.mul_(-count))


@torch.no_grad()
def _dice(
    log_p: Tensor, labels: Tensor, labelled: Tensor, valid: Tensor, include_background: bool
) -> tuple[Tensor, Tensor]:
    """The Dice loss and its gradient by log p: one factor of p where y = 1, another where y = 0."""
    named = labelled.clone()
    if not include_background:
        named[:, 0] = False
    p = log_p.exp().masked_fill_(~valid.unsqueeze(1), 0.0)
    y = _is_class(labels, log_p)
    space = list(range(2, p.dim()))
    sizes = p.sum(space) + y.sum(space, dtype=p.dtype)
    total = (sizes * named).sum(0) + 1e-6
    overlap = 2 * (p.where(y, 0.0).sum(space) * named).sum(0) + 1e-6
    counted = named.any(0)
    count = counted.sum().clamp_min(1)
    value = (1 - overlap / total).where(counted, 0.0).sum() / count
    elsewhere = named * (overlap / total.square() / count)
    at_label = elsewhere - named * (2 / total / count)
    gradient = p.mul_(torch.where(y, _per_class(at_label, p), _per_class(elsewhere, p)))
    return value, gradient


def _per_class(values: Tensor, like: Tensor) -> Tensor:
    """``[b, k]`` as ``[b, k, 1, …]``."""
    return values.view(*values.shape, *[1] * (like.dim() - 2))


def _is_class(labels: Tensor, like: Tensor) -> Bool[Tensor, "b k *s"]:
    """Where the label is the class."""
    classes = torch.arange(like.shape[1], device=labels.device)
    return labels.unsqueeze(1) == classes.view(-1, *[1] * (like.dim() - 2))


def _counted(prediction: Prediction, labels: Tensor, labelled: Tensor) -> Bool[Tensor, "b *s"]:
    """Pixels whose label allows some class; what contradicts itself is refused."""
    batch, classes, *space = prediction.shape
    if labels.shape != (batch, *space):
        raise DataError(
            f"the labels have shape {tuple(labels.shape)}",
            expected=f"{(batch, *space)}, one label for each pixel of the logits",
        )
    if labelled.shape != (batch, classes):
        raise DataError(
            f"labelled has shape {tuple(labelled.shape)}",
            expected=f"{(batch, classes)}, for each image which classes its labels name",
        )
    all_named = labelled.all(1).view(-1, *[1] * len(space))
    if readable(labels):
        _check_labels(labels, labelled)
    return (labels != IGNORE) & ~((labels == OTHER) & all_named)


def _check_labels(labels: Tensor, labelled: Tensor) -> None:
    classes = labelled.shape[1]
    for image, (label, names) in enumerate(zip(labels, labelled.cpu(), strict=True)):
        found = set(label.unique().tolist()) - {IGNORE}
        wrong = sorted(v for v in found - {OTHER} if not 0 <= v < classes)
        if wrong:
            raise DataError(
                f"the labels hold {', '.join(map(str, wrong[:5]))}",
                expected=f"0 … {classes - 1} for the {classes} classes, {OTHER} for none of those that are named,"
                f" or {IGNORE} for no label",
                fix="map the label values in the data set's card",
            )
        if OTHER in found and bool(names.all()):
            raise DataError(
                f"image {image} of the batch has OTHER ({OTHER}), though its labels name every class",
                expected=f"OTHER only where a class is not named; {IGNORE} for no label",
            )
