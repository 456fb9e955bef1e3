"""Entropy, min-entropy, maximum squares: ranges, optima, references, masks and weights, and where they lead."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from uda.errors import DataError, PriorError
from uda.losses.class_ratio import class_ratio, class_ratio_kl
from uda.losses.entropy import entropy, max_square, min_entropy
from uda.losses.prediction import Prediction, winners

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])
alphas = st.sampled_from([0.0, 0.2, 0.7, 1.0])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, classes, *space, generator=generator)


def one_hot(classes: int, space: tuple[int, ...] = (3, 3)) -> Tensor:
    logits = torch.full((2, classes, *space), -200.0)
    logits[:, 0] = 200.0
    return logits


def pixels(logits: np.ndarray) -> np.ndarray:
    """p in float64 as ``[image, pixel, class]``."""
    flat = np.moveaxis(logits.astype(np.float64), 1, -1)
    flat = flat.reshape(len(logits), -1, logits.shape[1])
    p = np.exp(flat - flat.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def reference_entropy(
    logits: np.ndarray, weights: np.ndarray | None = None, mask: np.ndarray | None = None
) -> float:
    """Nats, one pixel at a time."""
    p = pixels(logits)
    keep = np.ones(p.shape[:2], bool) if mask is None else mask.reshape(p.shape[:2])
    nu = np.ones(p.shape[2]) if weights is None else weights
    return float(np.mean([-np.sum(nu * pixel * np.log(pixel)) for pixel in p[keep]]))


def reference_min_entropy(logits: np.ndarray) -> float:
    return float(np.mean([-np.log(pixel.max()) for image in pixels(logits) for pixel in image]))


def reference_max_square(logits: np.ndarray) -> float:
    return -float(np.mean([np.sum(pixel**2) / 2 for image in pixels(logits) for pixel in image]))


def reference_weighted_max_square(logits: np.ndarray, alpha: float) -> float:
    total = 0.0
    p = pixels(logits)
    for image in p:
        winner = image.argmax(1)
        for pixel, c in zip(image, winner, strict=True):
            size = (winner == c).sum() ** alpha * len(image) ** (1 - alpha)
            total += np.sum(pixel**2) / 2 / max(size, 1)
    return -total / (p.shape[0] * p.shape[2])


Reference = Callable[[np.ndarray], float]
PAIRS: dict[str, tuple[Callable[[Tensor], Tensor], Reference]] = {
    "entropy": (lambda z: entropy(z, normalized=False), reference_entropy),
    "entropy weighted": (
        lambda z: entropy(z, torch.arange(1.0, z.shape[1] + 1), normalized=False),
        lambda z: reference_entropy(z, np.arange(1.0, z.shape[1] + 1)),
    ),
    "min_entropy": (min_entropy, reference_min_entropy),
    "max_square": (max_square, reference_max_square),
    "max_square weighted": (
        lambda z: max_square(z, image_weighted=True),
        lambda z: reference_weighted_max_square(z, 0.2),
    ),
}
EACH = pytest.mark.parametrize(("loss", "reference"), PAIRS.values(), ids=PAIRS.keys())


@EACH
@settings(max_examples=15, deadline=None)
@given(seeds, class_counts, spaces)
def test_value_equals_a_float64_reference(
    loss: Any, reference: Reference, seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    assert float(loss(logits)) == pytest.approx(reference(logits.numpy()), rel=1e-4, abs=1e-6)
    exact = float(loss(logits.double()))
    assert exact == pytest.approx(reference(logits.double().numpy()), rel=1e-10, abs=1e-12)


@EACH
def test_gradient_equals_finite_differences_of_the_reference(
    loss: Any, reference: Reference
) -> None:
    logits = draw(1, 3, (2, 2)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    base = logits.detach().numpy()
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        slope = (reference(base + step) - reference(base - step)) / 2e-5
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-9, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, alphas)
def test_ranges(seed: int, classes: int, space: tuple[int, ...], alpha: float) -> None:
    logits = draw(seed, classes, space)
    assert 0 < float(entropy(logits)) < 1
    assert 0 < float(entropy(logits, normalized=False)) < math.log(classes)
    assert 0 < float(min_entropy(logits)) < float(entropy(logits, normalized=False))
    assert -1 / 2 < float(max_square(logits)) < -1 / (2 * classes)
    weighted = float(max_square(logits, image_weighted=True, ratio=alpha))
    assert -(classes ** (alpha - 1)) / 2 < weighted < 0


@pytest.mark.parametrize("classes", [2, 19])
def test_values_of_a_uniform_and_of_a_one_hot_prediction(classes: int) -> None:
    uniform, sure = torch.zeros(2, classes, 3, 3), one_hot(classes)
    assert float(entropy(uniform)) == pytest.approx(1, abs=1e-6)
    assert float(entropy(uniform, normalized=False)) == pytest.approx(math.log(classes), abs=1e-5)
    assert float(min_entropy(uniform)) == pytest.approx(math.log(classes), abs=1e-5)
    assert float(max_square(uniform)) == pytest.approx(-1 / (2 * classes))
    assert float(entropy(sure)) == 0
    assert float(min_entropy(sure)) == 0
    assert float(max_square(sure)) == -0.5
    # 9 pixels weigh 1/9 each, and the classes that are not there count in the divisor
    assert float(max_square(sure, image_weighted=True)) == pytest.approx(-1 / (2 * classes))


def test_a_single_class_has_entropy_0_and_a_gradient_of_0() -> None:
    for normalized in (True, False):
        logits = draw(2, 1, (3, 3)).requires_grad_()
        value = entropy(logits, normalized=normalized)
        (gradient,) = torch.autograd.grad(value, logits)
        assert float(value.detach()) == 0
        assert bool((gradient == 0).all())


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_masked_pixels_count_neither_in_the_value_nor_in_the_gradient(
    seed: int, classes: int
) -> None:
    logits = draw(seed, classes, (4, 4)).requires_grad_()
    mask = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(seed)) < 0.4
    mask[0, 0, 0] = True
    value = entropy(logits, normalized=False, mask=mask)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = reference_entropy(logits.detach().numpy(), mask=mask.numpy())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert bool((gradient.movedim(1, -1)[~mask] == 0).all())
    assert bool((gradient.movedim(1, -1)[mask] != 0).any())


def test_nothing_unmasked_is_0_with_a_gradient_of_0() -> None:
    logits = draw(7, 3, (4, 4)).requires_grad_()
    value = entropy(logits, mask=torch.zeros(2, 4, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert bool((gradient == 0).all())


def test_a_full_mask_changes_nothing() -> None:
    logits = draw(8, 3, (4, 4))
    full = torch.ones(2, 4, 4, dtype=torch.bool)
    assert float(entropy(logits, mask=full)) == pytest.approx(float(entropy(logits)), abs=1e-6)


def test_a_class_of_weight_0_costs_nothing() -> None:
    # K = 3, p = (½, ½, 0): with ν = (1, 0, 1) only the first half of log 2 is left
    logits = torch.tensor([[[0.0], [0.0], [-200.0]]])
    value = entropy(logits, torch.tensor([1.0, 0.0, 1.0]), normalized=False)
    assert float(value) == pytest.approx(math.log(2) / 2, abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(seeds, class_counts)
def test_at_ratio_0_all_pixels_weigh_the_same(seed: int, classes: int) -> None:
    logits = draw(seed, classes, (4, 5))
    value = float(max_square(logits, image_weighted=True, ratio=0.0))
    assert value == pytest.approx(float(max_square(logits)) / classes, rel=1e-5)


def test_weights_raise_the_classes_that_cover_little_of_their_image() -> None:
    # 1 and 9 pixels of classes 0 and 1, all sure, K = 2: −(0.1^(1−α) + 0.9^(1−α)) / 4
    logits = 200.0 * torch.tensor([[1.0] + [-1.0] * 9, [-1.0] + [1.0] * 9]).unsqueeze(0)
    for alpha in (0.0, 0.2, 1.0):
        expected = -(0.1 ** (1 - alpha) + 0.9 ** (1 - alpha)) / 4
        value = max_square(logits, image_weighted=True, ratio=alpha)
        assert float(value) == pytest.approx(expected, rel=1e-5)
    equal = logits[..., [0] * 5 + [1] * 5]
    assert float(max_square(equal, True)) < float(max_square(logits, True))


def test_the_weights_of_an_image_do_not_depend_on_the_others() -> None:
    logits = torch.cat([draw(9, 3, (4, 4)), one_hot(3, (4, 4))])
    alone = [float(max_square(image[None], image_weighted=True)) for image in logits]
    assert float(max_square(logits, image_weighted=True)) == pytest.approx(np.mean(alone), abs=1e-6)


def test_a_batch_is_the_mean_of_its_halves_unless_a_mask_gives_them_other_sizes() -> None:
    logits = draw(3, 4, (5, 5), images=4)
    mask = torch.ones(4, 5, 5, dtype=torch.bool)
    mask[:2, 1:] = False

    def mean_of_halves(mask: Tensor) -> float:
        halves = [float(entropy(logits[s], mask=mask[s])) for s in (slice(2), slice(2, 4))]
        return sum(halves) / 2

    full = torch.ones_like(mask)
    assert float(entropy(logits, mask=full)) == pytest.approx(mean_of_halves(full), abs=1e-6)
    # with 10 and 50 pixels the halves count as 1 and 5 of 6
    halves = [float(entropy(logits[s], mask=mask[s])) for s in (slice(2), slice(2, 4))]
    whole = float(entropy(logits, mask=mask))
    assert whole == pytest.approx((halves[0] + 5 * halves[1]) / 6, abs=1e-6)
    assert whole != pytest.approx(mean_of_halves(mask), abs=1e-4)


@pytest.mark.parametrize(
    "loss", [entropy, min_entropy, max_square, lambda z: max_square(z, image_weighted=True)]
)
def test_an_undecided_pixel_is_pushed_nowhere(loss: Any) -> None:
    logits = torch.zeros(1, 4, 2, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


def test_classes_that_tie_share_the_win() -> None:
    log_p = torch.tensor([[[0.5, 0.2], [0.5, 0.2], [0.0, 0.6]]]).log()
    torch.testing.assert_close(winners(log_p), torch.tensor([[[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]]))


def test_a_look_without_gradient_does_not_take_the_gradient_away() -> None:
    logits = draw(10, 3, (4, 4)).requires_grad_()
    prediction = Prediction(logits)
    with torch.no_grad():
        seen = float(entropy(prediction))
    value = entropy(prediction)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == seen
    assert float(gradient.abs().amax()) > 0


def test_a_prediction_made_without_gradient_has_none() -> None:
    with torch.no_grad():
        prediction = Prediction(draw(10, 3, (4, 4)).requires_grad_())
    assert not entropy(prediction).requires_grad


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("given_weights", [torch.ones(3), torch.ones(1), torch.ones(2, 2)])
def test_wrong_number_of_class_weights_is_refused(given_weights: Tensor) -> None:
    with pytest.raises(PriorError, match="class_weights has shape") as caught:
        entropy(torch.zeros(1, 2, 3, 3), given_weights)
    assert "each of the 2 classes" in str(caught.value)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_impossible_class_weights_are_refused(bad: float) -> None:
    with pytest.raises(PriorError, match="class_weights are") as caught:
        entropy(torch.zeros(1, 2, 3, 3), torch.tensor([1.0, bad]))
    assert "finite weights" in str(caught.value)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(1, 3, 4), (3, 3), (1, 1, 3, 3), (2, 3, 3)])
def test_a_mask_of_other_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the mask has shape") as caught:
        entropy(torch.zeros(1, 2, 3, 3), mask=torch.ones(shape, dtype=torch.bool))
    assert "(1, 3, 3)" in str(caught.value)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_a_ratio_outside_0_to_1_is_refused(bad: float) -> None:
    with pytest.raises(PriorError, match="ratio is"):
        max_square(torch.zeros(1, 2, 3, 3), image_weighted=True, ratio=bad)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (1, 2, 0, 3), (1, 0, 3, 3), (4, 2)])
def test_logits_without_pixels_or_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="the logits have shape"):
        entropy(torch.zeros(shape))


PRIOR = torch.tensor([0.6, 0.3, 0.1])


def train_bias(loss: Callable[[Tensor], Tensor], steps: int = 150) -> Tensor:
    """Class ratio after training one bias a class on fixed features: the way into the one-class solution."""
    features = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor([0.3, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.SGD([bias], lr=1.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(features + bias[:, None]).backward()
        torch.nn.utils.clip_grad_norm_([bias], 1.0)
        optimizer.step()
    return class_ratio(features + bias[:, None]).mean(0).detach()


def ratio_kl(logits: Tensor) -> Tensor:
    return class_ratio_kl(logits, PRIOR, "prior_to_prediction", "batch")


@pytest.mark.parametrize("loss", [entropy, min_entropy, max_square])
def test_alone_it_collapses_onto_the_class_that_leads_at_the_start(loss: Any) -> None:
    assert float(train_bias(lambda z: 2 * loss(z))[0]) > 0.98


def test_class_ratio_alone_brings_the_ratio_to_the_prior() -> None:
    torch.testing.assert_close(train_bias(ratio_kl), PRIOR, atol=0.01, rtol=0)


@pytest.mark.parametrize("loss", [entropy, min_entropy, max_square])
def test_a_prior_prevents_the_collapse(loss: Any) -> None:
    found = train_bias(lambda z: loss(z) + 4 * ratio_kl(z))
    torch.testing.assert_close(found, PRIOR, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    "loss", [entropy, min_entropy, max_square, lambda z: max_square(z, image_weighted=True)]
)
def test_it_makes_a_small_network_sure_of_every_pixel(loss: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    image = torch.randn(2, 1, 8, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    before = float(Prediction(network(image).detach()).p.amax(1).mean())
    for _ in range(100):
        optimizer.zero_grad()
        loss(network(image)).backward()
        optimizer.step()
    after = float(Prediction(network(image).detach()).p.amax(1).mean())
    assert before < 0.6
    assert after > 0.95
