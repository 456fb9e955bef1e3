"""Losses with labels: references, IGNORE, weights, soft labels, optimum, training, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from uda.errors import DataError, PriorError
from uda.losses import Prediction
from uda.losses.supervised import cross_entropy, dice, partial_cross_entropy, soft_cross_entropy
from uda.types import IGNORE

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(
    seed: int, classes: int, space: tuple[int, ...], ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, classes, *space, generator=generator)
    labels = torch.randint(classes, (2, *space), generator=generator)
    labels[torch.rand(2, *space, generator=generator) < ignored] = IGNORE
    labels.view(-1)[0] = classes - 1  # at least one pixel counts
    return logits, labels


def reference_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    losses = []
    for pixel, label in zip(flat, labels.ravel(), strict=True):
        if label != IGNORE:
            losses.append(np.log(np.exp(pixel - pixel.max()).sum()) + pixel.max() - pixel[label])
    return float(np.mean(losses))


def reference_dice(logits: np.ndarray, labels: np.ndarray, first: int = 1) -> float:
    flat = np.moveaxis(logits.astype(np.float64), 1, -1).reshape(-1, logits.shape[1])
    flat, truth = flat[labels.ravel() != IGNORE], labels.ravel()[labels.ravel() != IGNORE]
    p = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    scores = []
    for k in range(first, logits.shape[1]):
        y = truth == k
        scores.append((2 * p[y, k].sum() + 1e-6) / (p[:, k].sum() + y.sum() + 1e-6))
    return 1 - float(np.mean(scores))


REFERENCES: dict[Any, Any] = {cross_entropy: reference_cross_entropy, dice: reference_dice}
BOTH = pytest.mark.parametrize("loss", [cross_entropy, dice], ids=["cross_entropy", "dice"])


@BOTH
@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(
    loss: Any, seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, labels = draw(seed, classes, space)
    expected = REFERENCES[loss](logits.numpy(), labels.numpy())
    assert float(loss(logits, labels)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@BOTH
def test_gradient_equals_finite_differences_of_the_reference(loss: Any) -> None:
    logits, labels = draw(1, 3, (2, 3))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        ends = [REFERENCES[loss](base + s, labels.numpy()) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_cross_entropy_equals_torch_with_ignore_index(seed: int, classes: int) -> None:
    logits, labels = draw(seed, classes, (4, 5))
    expected = functional.cross_entropy(logits, labels, ignore_index=IGNORE)
    assert float(cross_entropy(logits, labels)) == pytest.approx(float(expected), abs=1e-5)


def test_background_counts_in_dice_only_when_asked() -> None:
    logits, labels = draw(2, 3, (4, 4))
    value = float(dice(logits, labels, include_background=True))
    assert value == pytest.approx(reference_dice(logits.numpy(), labels.numpy(), 0), abs=1e-5)
    assert value != pytest.approx(float(dice(logits, labels)), abs=1e-3)


@BOTH
def test_everything_ignored_is_0_with_a_gradient_of_0(loss: Any) -> None:
    logits = draw(3, 3, (4, 4))[0].requires_grad_()
    value = loss(logits, torch.full((2, 4, 4), IGNORE))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert bool((gradient == 0).all())


@BOTH
def test_an_ignored_pixel_changes_neither_value_nor_gradient(loss: Any) -> None:
    logits, labels = draw(4, 3, (4, 4))
    other = logits.clone()
    other.movedim(1, -1)[labels == IGNORE] += torch.tensor([5.0, -3.0, 1.0])
    assert bool((labels == IGNORE).any())
    assert float(loss(other, labels)) == float(loss(logits, labels))
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits, labels), logits)
    assert bool((gradient.movedim(1, -1)[labels == IGNORE] == 0).all())


@BOTH
@pytest.mark.parametrize("classes", [2, 19])
def test_the_truth_costs_nothing(loss: Any, classes: int) -> None:
    labels = torch.arange(classes).repeat(2, 2).reshape(2, 2, classes)
    logits = 100.0 * functional.one_hot(labels, classes).movedim(-1, 1).float()
    assert float(loss(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_cross_entropy_of_a_uniform_prediction_is_log_k() -> None:
    labels = torch.tensor([[0, 1, 18]])
    value = float(cross_entropy(torch.zeros(1, 19, 3), labels))
    assert value == pytest.approx(math.log(19), abs=1e-5)


def test_a_class_that_is_neither_there_nor_predicted_costs_no_dice() -> None:
    labels = torch.tensor([[0, 1]])
    logits = torch.tensor([[[50.0, -50.0], [-50.0, 50.0], [-200.0, -200.0]]])
    assert float(dice(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_dice_of_a_class_is_defined_on_an_image_that_lacks_it() -> None:
    labels = torch.tensor([[0, 0], [1, 1]])
    logits = torch.tensor([[[50.0, 50.0], [-50.0, -50.0]], [[-50.0, -50.0], [50.0, 50.0]]])
    assert float(dice(logits, labels)) == pytest.approx(0, abs=1e-6)


@BOTH
def test_descent_on_free_logits_finds_the_labels(loss: Any) -> None:
    logits, labels = draw(8, 3, (3, 3))
    logits.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        loss(logits, labels).backward()
        optimizer.step()
    valid = labels != IGNORE
    assert bool((logits.argmax(1)[valid] == labels[valid]).all())


# the bits of models trained so far


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_and_dice_have_the_bits_of_the_operations_that_models_were_trained_with(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    def plain_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        valid = labels != IGNORE
        log_p = logits.float().log_softmax(1)
        known = labels.where(valid, 0).unsqueeze(1)
        chosen = log_p.gather(1, known).squeeze(1).where(valid, 0.0)
        return -chosen.sum() / valid.sum().clamp_min(1)

    def plain_dice(logits: Tensor, labels: Tensor) -> Tensor:
        valid = (labels != IGNORE).unsqueeze(1)
        p = logits.float().softmax(1) * valid
        known = labels.where(labels != IGNORE, 0)
        y = functional.one_hot(known, logits.shape[1]).movedim(-1, 1).to(p) * valid
        overlap, total = (p * y).sum([0, 2, 3]), p.sum([0, 2, 3]) + y.sum([0, 2, 3])
        return (1 - (2 * overlap + 1e-6) / (total + 1e-6))[1:].mean()

    logits, labels = draw(9, 4, (33, 47))
    logits = logits.to(dtype).contiguous(memory_format=layout)
    for loss, plain in ((cross_entropy, plain_cross_entropy), (dice, plain_dice)):
        leaves = [logits.clone().requires_grad_() for _ in range(3)]
        values = [loss(leaves[0], labels), plain(leaves[1], labels)]
        values.append(loss(Prediction(leaves[2]), labels))
        gradients = [torch.autograd.grad(v, z)[0] for v, z in zip(values, leaves, strict=True)]
        assert float(values[0].detach()) == float(values[1].detach()) == float(values[2].detach())
        assert torch.equal(gradients[0], gradients[1])
        assert torch.equal(gradients[0], gradients[2])


# weights and soft labels


def draw_soft(seed: int, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Soft labels, 0 where labels are IGNORE, and weights."""
    generator = torch.Generator().manual_seed(seed)
    soft = torch.rand(2, classes, *labels.shape[1:], generator=generator)
    soft = soft / soft.sum(1, keepdim=True) * (labels != IGNORE).unsqueeze(1)
    return soft, torch.rand(labels.shape, generator=generator)


def reference_soft(logits: np.ndarray, soft: np.ndarray, weights: np.ndarray) -> float:
    """In float64, one pixel at a time."""
    classes = logits.shape[1]
    rows, labels = (
        np.moveaxis(x.astype(np.float64), 1, -1).reshape(-1, classes) for x in (logits, soft)
    )
    total, labelled = 0.0, 0
    for row, y, w in zip(rows, labels, weights.astype(np.float64).ravel(), strict=True):
        if y.sum() > 0:
            log_p = row - row.max() - np.log(np.exp(row - row.max()).sum())
            total -= w * float(y @ log_p)
            labelled += 1
    return total / labelled


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces)
def test_soft_and_weighted_cross_entropy_equal_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits, labels = draw(seed, classes, space)
    soft, weights = draw_soft(seed, labels, classes)
    value = float(soft_cross_entropy(logits, soft, weights))
    expected = reference_soft(logits.numpy(), soft.numpy(), weights.numpy())
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    hard = functional.one_hot(labels.where(labels != IGNORE, 0), classes).movedim(-1, 1)
    hard = hard * (labels != IGNORE).unsqueeze(1)
    value = float(partial_cross_entropy(logits, labels, weights))
    expected = reference_soft(logits.numpy(), hard.numpy(), weights.numpy())
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_gradient_of_soft_cross_entropy_equals_finite_differences_of_the_reference() -> None:
    logits, labels = draw(10, 3, (2, 3))
    soft, weights = draw_soft(10, labels, 3)
    leaf = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(soft_cross_entropy(leaf, soft, weights), leaf)
    base = leaf.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-6
        ends = [reference_soft(base + s, soft.numpy(), weights.numpy()) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts)
def test_one_hot_soft_labels_equal_hard_ones_and_weights_of_1_equal_none(
    seed: int, classes: int
) -> None:
    logits, labels = draw(seed, classes, (3, 4))
    ones = torch.ones(labels.shape)
    expected = float(cross_entropy(logits, labels))
    assert float(partial_cross_entropy(logits, labels)) == expected
    assert float(partial_cross_entropy(logits, labels, ones)) == expected
    hard = functional.one_hot(labels.where(labels != IGNORE, 0), classes).movedim(-1, 1).float()
    hard = hard * (labels != IGNORE).unsqueeze(1)
    assert float(soft_cross_entropy(logits, hard)) == pytest.approx(expected, rel=1e-5)
    assert float(soft_cross_entropy(logits, hard, ones)) == pytest.approx(expected, rel=1e-5)


def test_low_confidence_lowers_the_loss_and_is_not_divided_out() -> None:
    logits, labels = draw(11, 3, (4, 4))
    full = float(partial_cross_entropy(logits, labels))
    half = float(partial_cross_entropy(logits, labels, torch.full((2, 4, 4), 0.5)))
    assert half == pytest.approx(full / 2, rel=1e-6)
    soft, _ = draw_soft(11, labels, 3)
    half = float(soft_cross_entropy(logits, soft, torch.full((2, 4, 4), 0.5)))
    assert half == pytest.approx(float(soft_cross_entropy(logits, soft)) / 2, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts)
def test_soft_cross_entropy_is_least_at_the_soft_labels_where_it_is_their_entropy(
    seed: int, classes: int
) -> None:
    logits, _ = draw(seed, classes, (3, 4))
    soft = draw(seed + 1, classes, (3, 4))[0].softmax(1)
    own = -float((soft * soft.log()).sum(1).mean())
    assert float(soft_cross_entropy(soft.log(), soft)) == pytest.approx(own, rel=1e-4)
    assert float(soft_cross_entropy(logits, soft)) > own


def test_no_gradient_reaches_weights_and_soft_labels() -> None:
    logits, labels = draw(12, 3, (4, 4))
    soft, weights = (x.requires_grad_() for x in draw_soft(12, labels, 3))
    logits.requires_grad_()
    value = partial_cross_entropy(logits, labels, weights)
    (value + soft_cross_entropy(logits, soft, weights)).backward()
    assert logits.grad is not None
    assert soft.grad is None
    assert weights.grad is None


@pytest.mark.parametrize("weighted", [False, True])
def test_without_any_label_both_are_0_with_a_gradient_of_0(weighted: bool) -> None:
    logits = draw(13, 3, (4, 4))[0].requires_grad_()
    weights = torch.ones(2, 4, 4) if weighted else None
    nothing = torch.full((2, 4, 4), IGNORE), torch.zeros(2, 3, 4, 4)
    for value in (
        partial_cross_entropy(logits, nothing[0], weights),
        soft_cross_entropy(logits, nothing[1], weights),
    ):
        assert float(value.detach()) == 0
        assert bool((torch.autograd.grad(value, logits)[0] == 0).all())


def test_an_image_without_labels_takes_nothing_from_the_others_in_its_batch() -> None:
    logits, labels = draw(14, 3, (4, 4))
    labels[1] = IGNORE
    alone = float(partial_cross_entropy(logits[:1], labels[:1]))
    assert float(partial_cross_entropy(logits, labels)) == pytest.approx(alone, rel=1e-6)


def test_a_batch_is_the_mean_over_its_labelled_pixels_not_over_its_images() -> None:
    logits, labels = draw(15, 3, (4, 4))
    labels[1].view(-1)[3:] = IGNORE
    counts = [int((labels[i] != IGNORE).sum()) for i in range(2)]
    parts = [float(cross_entropy(logits[i : i + 1], labels[i : i + 1])) for i in range(2)]
    pixels = sum(c * part for c, part in zip(counts, parts, strict=True)) / sum(counts)
    assert float(cross_entropy(logits, labels)) == pytest.approx(pixels, rel=1e-5)
    assert pixels != pytest.approx(sum(parts) / 2, abs=1e-3)


def test_scribbles_train_a_network_on_pixels_that_have_no_label() -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 12, 12)
    truth = (image[:, 0] > 0).long() + (image[:, 1] > 0.5).long()
    scribbles = truth.where(torch.rand(truth.shape) < 0.2, IGNORE)
    hidden = scribbles == IGNORE
    found = {}
    for name in ("hard", "soft"):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 1), torch.nn.ReLU(), torch.nn.Conv2d(16, 3, 1)
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        known = functional.one_hot(truth, 3).movedim(-1, 1) * ~hidden.unsqueeze(1)
        for _ in range(100):
            optimizer.zero_grad()
            logits = network(image)
            loss = (
                partial_cross_entropy(logits, scribbles)
                if name == "hard"
                else soft_cross_entropy(logits, known.float())
            )
            loss.backward()
            optimizer.step()
        found[name] = float((network(image).argmax(1) == truth)[hidden].float().mean())
    assert min(found.values()) > 0.8


# bad input


@pytest.mark.usefixtures("as_users_see")
@BOTH
@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 4, 5), (2, 16), (2, 1, 4, 4)])
def test_labels_of_another_shape_are_refused(loss: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the labels have shape") as caught:
        loss(torch.zeros(2, 3, 4, 4), torch.zeros(shape, dtype=torch.long))
    assert "(2, 4, 4)" in str(caught.value.expected)


@BOTH
@pytest.mark.parametrize("wrong", [3, -1, 254, 256])
def test_a_label_that_is_no_class_is_refused(loss: Any, wrong: int) -> None:
    labels = torch.tensor([[0, wrong, IGNORE, 2]])
    with pytest.raises(DataError, match=f"the labels hold {wrong}") as caught:
        loss(torch.zeros(1, 3, 4), labels)
    assert "0 … 2 for the 3 classes, or 255" in str(caught.value.expected)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("soft", [False, True])
def test_weights_of_another_shape_or_below_0_are_refused(soft: bool) -> None:
    logits, labels = draw(16, 3, (4, 4))
    given_labels = draw_soft(16, labels, 3)[0] if soft else labels
    loss: Any = soft_cross_entropy if soft else partial_cross_entropy
    with pytest.raises(PriorError, match="the pixel weights have shape"):
        loss(logits, given_labels, torch.ones(2, 1, 4, 4))
    for wrong in (-0.1, math.nan, math.inf):
        weights = torch.ones(2, 4, 4)
        weights[1, 2, 3] = wrong
        with pytest.raises(PriorError, match="negative or not finite"):
            loss(logits, given_labels, weights)


@pytest.mark.usefixtures("as_users_see")
def test_soft_labels_that_are_no_probabilities_are_refused() -> None:
    logits = torch.zeros(1, 2, 4)
    with pytest.raises(DataError, match="the soft labels have shape"):
        soft_cross_entropy(logits, torch.full((1, 3, 4), 1 / 3))
    for wrong in ([0.5, 0.6], [1.5, -0.5], [0.2, 0.2], [math.nan, 1.0]):
        soft = torch.full((1, 2, 4), 0.5)
        soft[0, :, 1] = torch.tensor(wrong)
        with pytest.raises(DataError, match="no probabilities"):
            soft_cross_entropy(logits, soft)


def test_soft_labels_rounded_to_half_precision_are_taken() -> None:
    logits = torch.zeros(1, 19, 64)
    soft = draw(17, 19, (64,))[0][:1].softmax(1).bfloat16()
    value = float(soft_cross_entropy(logits, soft))
    assert value == pytest.approx(math.log(19), rel=0.02)
