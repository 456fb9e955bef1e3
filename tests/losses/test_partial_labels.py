"""Partial labels: marginal cross-entropy and Dice against NumPy, against full labels, their optimum, bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import DataError
from uda.losses.partial_labels import partial_dice, partial_labels
from uda.losses.supervised import cross_entropy, dice
from uda.types import IGNORE, OTHER

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
BOTH = pytest.mark.parametrize("loss", [partial_labels, partial_dice])


def draw(
    seed: int, classes: int, space: tuple[int, ...], images: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and named classes; every image leaves one class at least unnamed."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *space, generator=generator)
    labelled = torch.rand(images, classes, generator=generator) < 0.5
    labelled[torch.arange(images), torch.randint(classes, (images,), generator=generator)] = False
    truth = torch.randint(classes, (images, *space), generator=generator)
    named = labelled.gather(1, truth.flatten(1)).view_as(truth)
    labels = truth.where(named, OTHER)
    labels[torch.rand(images, *space, generator=generator) < 0.2] = IGNORE
    return logits, labels, labelled


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Pixels of one image in rows ``[n, k]``, float64."""
    flat = np.moveaxis(logits.astype(np.float64), 0, -1).reshape(-1, logits.shape[0])
    p = np.exp(flat - flat.max(1, keepdims=True))
    return np.asarray(p / p.sum(1, keepdims=True))


def reference(logits: np.ndarray, labels: np.ndarray, labelled: np.ndarray) -> float:
    losses = []
    for z, label, named in zip(logits, labels, labelled, strict=True):
        for pixel, y in zip(probabilities(z), label.ravel(), strict=True):
            if y == OTHER:
                losses.append(-math.log(sum(pixel[c] for c in range(len(named)) if not named[c])))
            elif y != IGNORE:
                losses.append(-math.log(pixel[y]))
    return float(np.mean(losses)) if losses else 0.0


def reference_dice(
    logits: np.ndarray, labels: np.ndarray, labelled: np.ndarray, first: int = 1
) -> float:
    scores = []
    for c in range(first, logits.shape[1]):
        overlap = total = 0.0
        for z, label, named in zip(logits, labels, labelled, strict=True):
            if named[c]:
                counted = label.ravel() != IGNORE
                p, y = probabilities(z)[counted, c], label.ravel()[counted] == c
                overlap += p[y].sum()
                total += p.sum() + y.sum()
        if labelled[:, c].any():
            scores.append(1 - (2 * overlap + 1e-6) / (total + 1e-6))
    return float(np.mean(scores)) if scores else 0.0


REFERENCES: dict[Any, Any] = {partial_labels: reference, partial_dice: reference_dice}


@BOTH
@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(
    loss: Any, seed: int, classes: int, space: tuple[int, ...]
) -> None:
    given_ = draw(seed, classes, space)
    expected = REFERENCES[loss](*(tensor.numpy() for tensor in given_))
    assert float(loss(*given_)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@BOTH
def test_gradient_equals_finite_differences_of_the_reference(loss: Any) -> None:
    logits, labels, labelled = draw(4, 3, (2, 3))
    assert bool((labels == OTHER).any())
    assert bool(labelled.any())
    leaf = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf, labels, labelled), leaf)
    base = leaf.detach().numpy()
    others = labels.numpy(), labelled.numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-6
        ends = [REFERENCES[loss](base + s, *others) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)
    assert float(gradient.abs().max()) > 1e-3


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts, spaces)
def test_with_every_class_named_they_are_cross_entropy_and_dice(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, labels, labelled = draw(seed, classes, space)
    labels = labels.masked_fill(labels == OTHER, 0)
    everything = torch.ones_like(labelled)
    value = float(partial_labels(logits, labels, everything))
    assert value == pytest.approx(float(cross_entropy(logits, labels)), abs=1e-5)
    for background in (False, True):
        value = float(partial_dice(logits, labels, everything, background))
        assert value == pytest.approx(float(dice(logits, labels, background)), abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds, st.sampled_from([3, 19]))
def test_merging_the_unnamed_classes_first_changes_nothing(seed: int, classes: int) -> None:
    logits, _, _ = draw(seed, classes, (4, 4))
    labels = torch.randint(2, (3, 4, 4), generator=torch.Generator().manual_seed(seed))
    # class 1 against the rest, whose probability is the sum of theirs
    rest = torch.cat([logits[:, :1], logits[:, 2:]], 1).logsumexp(1)
    merged = torch.stack([rest, logits[:, 1]], 1)
    named = (torch.arange(classes) == 1).expand(3, -1)
    value = float(partial_labels(logits, labels.where(labels == 1, OTHER), named))
    assert value == pytest.approx(float(cross_entropy(merged, labels)), abs=1e-5)


def test_a_class_is_compared_only_in_images_that_name_it() -> None:
    logits, labels, _ = draw(6, 3, (4, 4), images=2)
    labels = torch.stack([labels[0].fill_(1), labels[1].fill_(OTHER)])
    labelled = torch.tensor([[False, True, False], [False, False, True]])
    other = logits.clone()
    other[1, :2] = other[1, :2].flip(0)  # classes 0 and 1 of the image that names 2 alone
    for loss in (partial_labels, partial_dice):
        value = float(loss(logits, labels, labelled))
        assert float(loss(other, labels, labelled)) == pytest.approx(value, abs=1e-6)
    gone = logits.clone()
    gone[0, 1] -= 5
    assert float(partial_dice(gone, labels, labelled)) > float(
        partial_dice(logits, labels, labelled)
    )


@BOTH
def test_the_truth_costs_nothing_however_the_rest_is_divided(loss: Any) -> None:
    labels = torch.tensor([[[1, OTHER, OTHER, IGNORE]]])
    labelled = torch.tensor([[False, True, False, False]])
    logits = torch.full((1, 4, 1, 4), -200.0)
    logits[0, 1, 0, 0] = logits[0, 0, 0, 1] = logits[0, 3, 0, 2] = 200.0
    assert float(loss(logits, labels, labelled)) == pytest.approx(0, abs=1e-6)
    logits[0, 2, 0, 2] = 200.0
    assert float(loss(logits, labels, labelled)) == pytest.approx(0, abs=1e-6)


def test_unlikely_classes_are_added_in_the_log_domain() -> None:
    logits = torch.tensor([0.0, -300.0, -300.0]).view(1, 3, 1).requires_grad_()
    value = partial_labels(logits, torch.tensor([[OTHER]]), torch.tensor([[True, False, False]]))
    assert float(value.detach()) == pytest.approx(300 - math.log(2), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    np.testing.assert_allclose(gradient.flatten().numpy(), [1, -0.5, -0.5], atol=1e-6)


@BOTH
def test_everything_ignored_is_0_with_a_gradient_of_0(loss: Any) -> None:
    logits, labels, labelled = draw(7, 3, (4, 4))
    logits.requires_grad_()
    value = loss(logits, torch.full_like(labels, IGNORE), labelled)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert bool((torch.autograd.grad(value, logits)[0] == 0).all())


def test_without_a_named_class_both_are_0() -> None:
    logits, labels, labelled = draw(8, 3, (4, 4))
    labels, nothing = torch.full_like(labels, OTHER), torch.zeros_like(labelled)
    assert float(partial_labels(logits, labels, nothing)) == pytest.approx(0, abs=1e-6)
    assert float(partial_dice(logits, labels, nothing)) == 0


def test_an_ignored_pixel_changes_neither_value_nor_gradient() -> None:
    logits, labels, labelled = draw(9, 3, (4, 4))
    other = logits.clone()
    other.movedim(1, -1)[labels == IGNORE] += torch.tensor([5.0, -3.0, 1.0])
    for loss in (partial_labels, partial_dice):
        assert float(loss(other, labels, labelled)) == float(loss(logits, labels, labelled))
        leaf = logits.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, labels, labelled), leaf)
        assert bool((gradient.movedim(1, -1)[labels == IGNORE] == 0).all())


def test_images_that_name_one_class_each_teach_all_of_them() -> None:
    truth = torch.arange(3).repeat_interleave(12).view(1, 6, 6).expand(3, -1, -1)
    image = torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
    labelled = torch.eye(3, dtype=torch.bool)
    labels = torch.stack([truth[0].where(truth[0] == c, OTHER) for c in range(3)])
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 3, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        logits = network(image)
        partial_labels(logits, labels, labelled).backward()
        optimizer.step()
    assert torch.equal(network(image).argmax(1), truth)


# bad input


@pytest.mark.usefixtures("as_users_see")
@BOTH
@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 4, 4), (2, 16), (2, 1, 4, 4)])
def test_labels_of_another_shape_are_refused(loss: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the labels have shape"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(shape).long(), torch.ones(2, 3).bool())


@pytest.mark.usefixtures("as_users_see")
@BOTH
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3,), (2, 3, 1)])
def test_named_classes_of_another_shape_are_refused(loss: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="labelled has shape"):
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4).long(), torch.ones(shape).bool())


@BOTH
@pytest.mark.parametrize("wrong", [-1, 3, 253, 256])
def test_a_label_that_is_no_class_is_refused(loss: Any, wrong: int) -> None:
    labels = torch.full((1, 4, 4), OTHER)
    labels[0, 1, 1] = wrong
    with pytest.raises(DataError, match=f"the labels hold {wrong}"):
        loss(torch.zeros(1, 3, 4, 4), labels, torch.tensor([[False, True, True]]))


def test_a_click_on_a_class_that_the_label_map_does_not_name_counts() -> None:
    """A case may have a map of some classes and clicks on others."""
    labels, named = torch.tensor([[[2, OTHER]]]), torch.tensor([[False, True, False]])
    value = partial_labels(torch.zeros(1, 3, 1, 2), labels, named)
    assert float(value) == pytest.approx((math.log(3) + math.log(1.5)) / 2)


@BOTH
def test_other_where_every_class_is_named_is_refused(loss: Any) -> None:
    with pytest.raises(DataError, match="image 0 of the batch has OTHER"):
        loss(torch.zeros(1, 3, 1, 2), torch.tensor([[[OTHER, 1]]]), torch.ones(1, 3).bool())
