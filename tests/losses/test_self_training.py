"""Self-training: thresholds against a full sort, pseudo-labels, soft labels, and the two regularisers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from uda.errors import DataError, PriorError
from uda.losses import (
    ConfidenceHistogram,
    Prediction,
    PseudoLabeler,
    confidence_weight,
    entropy,
    mrkld,
    portion_at,
    spatial_prior_kl,
)
from uda.losses.thresholds import BINS, _bin, _upper_edge
from uda.types import IGNORE

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(1,), (5,), (3, 4), (2, 3, 4)])
portions = st.one_of(st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.floats(0, 1))
DIRECTIONS = ("prediction_to_prior", "prior_to_prediction")
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)
each_scope = pytest.mark.parametrize("over", ["image", "batch"])


# --------------------------------------------------------------------------------------- draws and references


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def draw_image(kind: str, seed: int, classes: int, space: tuple[int, ...]) -> torch.Tensor:
    """One image's logits: ``plain``, full of ``ties``, ``sure`` to nearly p = 1, ``saturated`` at p = 1."""
    logits = draw(seed, classes, space, 1)
    if kind == "ties":
        return logits.round()
    if kind == "sure":
        return 12 * logits
    return 1e4 * logits.sign() if kind == "saturated" else logits


@st.composite
def image_sets(draw_from: Any) -> tuple[list[torch.Tensor], list[torch.Tensor] | None]:
    """Any number of images of any sizes, some of classes never predicted, with maps or without."""
    classes = draw_from(class_counts)
    kinds = st.sampled_from(["plain", "ties", "sure", "saturated"])
    parts = draw_from(st.lists(st.tuples(kinds, seeds, spaces), min_size=1, max_size=5))
    images = [draw_image(kind, seed, classes, space) for kind, seed, space in parts]
    if draw_from(st.booleans()):
        for image in images:
            image[:, -1] = -2e4  # predicted nowhere
    if not draw_from(st.booleans()):
        return images, None
    seed = draw_from(seeds)
    maps = [3 * torch.rand(image.shape[1:], generator=_seeded(seed)) + 0.01 for image in images]
    return images, maps


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def surprise(logits: torch.Tensor, maps: torch.Tensor | None = None) -> np.ndarray:
    """v = −log q, ``[k, pixels]`` in float64. One class at a time, so that 1 − p is never a difference."""
    z = by_class(logits)
    gaps = z[None] - z[:, None]  # [class, other class, pixel]
    for c in range(len(z)):
        gaps[c, c] = -np.inf
    v: np.ndarray = np.logaddexp(0, np.logaddexp.reduce(gaps, axis=1))
    return v if maps is None else v - log_maps(maps, v)


def winners(logits: torch.Tensor, maps: torch.Tensor | None = None) -> np.ndarray:
    """argmax q, ``[pixels]``, the first of equals: from z + log map, where equals are equal exactly."""
    z = by_class(logits)
    return (z if maps is None else z + log_maps(maps, z)).argmax(0)


def by_class(logits: torch.Tensor) -> np.ndarray:
    """``[k, pixels]`` in float64, image after image."""
    z = logits.double().numpy().reshape(logits.shape[0], logits.shape[1], -1)
    return np.concatenate(list(z), axis=1)


def log_maps(maps: torch.Tensor, like: np.ndarray) -> np.ndarray:
    """The same maps for each image."""
    with np.errstate(divide="ignore"):
        flat = np.log(maps.double().numpy().reshape(len(like), -1))
    return np.tile(flat, like.shape[1] // flat.shape[1])


def bin_of(v: float) -> int:
    """Bin of a float32, from its bits: a sign and 15 bits, the negative ones in reverse."""
    bits = int(np.array(v, np.float32).view(np.uint32))
    magnitude = (bits & 0x7FFFFFFF) >> 16
    return BINS // 2 + (-1 - magnitude if bits >> 31 else magnitude)


def test_a_bin_is_the_leading_half_of_the_bits_in_the_order_of_the_numbers() -> None:
    values = [-3e38, -2.0, -1.99, -1.0, -1e-40, 0.0, 1e-45, 1e-9, 2e-9, 0.1, 0.5, 1.0, 88.0, 3e38]
    found = _bin(torch.tensor(values))
    assert found.tolist() == sorted(found.tolist())
    assert found.tolist() == [bin_of(v) for v in values]
    assert int(_bin(torch.tensor([-0.0]))) == int(_bin(torch.tensor([0.0]))) == BINS // 2
    edges = _upper_edge(found)
    assert torch.equal(_bin(edges), found)
    above = torch.nextafter(edges, torch.tensor(math.inf))
    # −0 and 0 are one number in two bins, so the bin that ends at −0 ends at its last number below
    inner = edges != 0
    assert torch.equal(_bin(above[inner]), found[inner] + 1)


def test_a_bin_is_at_most_a_128th_of_its_v_wide() -> None:
    v = torch.logspace(-30, 30, 997)
    lower = _upper_edge(_bin(v) - 1)
    assert bool(((_upper_edge(_bin(v)) - lower) <= v / 128 * (1 + 1e-6)).all())


# ------------------------------------------------------------------------------------------------ thresholds


def histogram_of(
    images: list[torch.Tensor], maps: list[torch.Tensor] | None = None
) -> ConfidenceHistogram:
    histogram = ConfidenceHistogram(images[0].shape[1])
    for i, image in enumerate(images):
        histogram.add(image, None if maps is None else maps[i])
    return histogram


@settings(max_examples=60, deadline=None)
@given(image_sets(), portions)
def test_streamed_thresholds_equal_a_full_sort_to_within_a_bin(
    drawn: tuple[list[torch.Tensor], list[torch.Tensor] | None], portion: float
) -> None:
    images, maps = drawn
    found = histogram_of(images, maps).log_thresholds(portion).numpy()
    each = [surprise(z, None if maps is None else maps[i]) for i, z in enumerate(images)]
    v = np.concatenate(each, axis=1)
    first = [winners(z, None if maps is None else maps[i]) for i, z in enumerate(images)]
    winner = np.concatenate(first)
    least = v[winner, np.arange(v.shape[1])]
    for c in range(len(v)):
        own = np.sort(least[winner == c])
        if len(own) == 0:
            assert found[c] == math.inf
            continue
        sought = own[min(math.floor(len(own) * portion), len(own) - 1)]
        assert abs(bin_of(-found[c]) - bin_of(sought)) <= 1
        assert np.isfinite(found[c])


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, st.lists(st.integers(1, 30), min_size=1, max_size=4), st.booleans())
def test_chunks_batches_and_merged_histograms_count_the_same(
    seed: int, classes: int, cuts: list[int], mapped: bool
) -> None:
    images = 3 * draw(seed, classes, (30,), 4)
    maps = torch.rand(4, classes, 30, generator=_seeded(seed)) + 0.1
    whole, chunks = ConfidenceHistogram(classes), ConfidenceHistogram(classes)
    whole.add(images, maps if mapped else None)
    edges = sorted({0, *cuts, 30})
    for image, own in zip(images, maps, strict=True):
        part = ConfidenceHistogram(classes)
        for start, stop in itertools.pairwise(edges):
            piece = slice(start, stop)
            part.add(image[None, :, piece], own[:, piece] if mapped else None)
        chunks.merge(part)
    assert torch.equal(chunks.counts, whole.counts)
    assert int(whole.counts.sum()) == 4 * 30


@settings(max_examples=25, deadline=None)
@given(image_sets(), portions)
def test_the_labeler_keeps_all_of_the_last_bin_and_nothing_beyond(
    drawn: tuple[list[torch.Tensor], list[torch.Tensor] | None], portion: float
) -> None:
    """With one class's threshold alone, what is kept of its own pixels is what the histogram counted."""
    images, maps = drawn
    histogram = histogram_of(images, maps)
    log_theta = histogram.log_thresholds(portion)
    for c in range(min(3, len(log_theta))):
        alone = torch.full_like(log_theta, math.inf)
        alone[c] = log_theta[c]
        kept = 0
        for i, image in enumerate(images):
            own_maps = None if maps is None else maps[i]
            label = PseudoLabeler(alone, own_maps)(image).flatten().numpy()
            assert set(label) <= {c, IGNORE}
            winner = winners(image, own_maps)
            kept += int(((label == c) & (winner == c)).sum())
        predicted = int(histogram.counts[c].sum())
        if predicted == 0:
            assert kept == 0
            continue
        last = bin_of(-float(log_theta[c]))
        assert kept == int(histogram.counts[c, : last + 1].sum())
        assert kept >= min(math.floor(predicted * portion), predicted - 1) + 1


def test_rank_by_hand() -> None:
    """Ten pixels of class 0 with p = 0.55, 0.60, …, 1.00: portion 0.2 ends at rank 2, p = 0.90."""
    p = torch.linspace(0.55, 1.0, 10).clamp_max(1 - 1e-7)
    logits = torch.stack([p, 1 - p]).log()[None]
    histogram = histogram_of([logits])
    for portion, sought in ((0.0, 1 - 1e-7), (0.2, 0.9), (0.25, 0.9), (0.5, 0.75), (1.0, 0.55)):
        theta = float(histogram.log_thresholds(portion)[0].exp())
        assert theta <= sought + 1e-6
        assert -math.log(theta) <= -math.log(sought) * (1 + 1 / 64) + 1e-7


def test_confidences_of_1_minus_1e_9_and_1_minus_2e_9_are_told_apart() -> None:
    gap = -torch.tensor([1e-9, 2e-9, 2e-9, 2e-9]).log()
    logits = torch.stack([gap, torch.zeros(4)])[None]
    theta = histogram_of([logits]).log_thresholds(0.0)
    assert float(-theta[0]) == pytest.approx(1e-9, rel=1 / 64)
    assert PseudoLabeler(theta)(logits).tolist() == [[0, IGNORE, IGNORE, IGNORE]]


def test_saturated_pixels_are_kept_together() -> None:
    logits = torch.zeros(1, 2, 4)
    logits[0, 0] = torch.tensor([200.0, 300.0, 1e4, 3.0])  # p = 1 exactly in three of four
    theta = histogram_of([logits]).log_thresholds(0.0)
    assert PseudoLabeler(theta)(logits).tolist() == [[0, 0, 0, IGNORE]]


def test_a_single_pixel_is_its_own_threshold_at_any_portion() -> None:
    logits = torch.tensor([[[0.3], [0.1], [-0.2]]])
    for portion in (0.0, 0.5, 1.0):
        theta = histogram_of([logits]).log_thresholds(portion)
        assert theta.isinf().tolist() == [False, True, True]
        assert PseudoLabeler(theta)(logits).tolist() == [[0]]


def test_equal_pixels_are_all_kept_or_none() -> None:
    logits = torch.tensor([1.0, 0.0, 0.5]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    theta = histogram_of([logits]).log_thresholds(0.1)
    assert bool((PseudoLabeler(theta)(logits) == 0).all())


def test_a_larger_portion_never_raises_a_threshold() -> None:
    histogram = histogram_of([draw(1, 5, (40, 40))])
    steps = [histogram.log_thresholds(portion) for portion in np.linspace(0, 1, 21)]
    for before, after in itertools.pairwise(steps):
        assert bool((after <= before).all())


def test_the_kept_share_of_each_class_is_the_portion() -> None:
    logits = draw(2, 3, (100, 100))
    logits[:, 2] -= 3  # rare, and never as sure as the others
    histogram = histogram_of([logits])
    label = PseudoLabeler(histogram.log_thresholds(0.3))(logits)
    winner = logits.argmax(1)
    for c in range(3):
        own = label[winner == c]
        assert float((own != IGNORE).float().mean()) == pytest.approx(0.3, abs=0.02)


def test_maps_multiply_and_are_not_normalised_again() -> None:
    # p = (0.6, 0.4), map = (1, 2): q = (0.6, 0.8), the winner is class 1 with v = −log 0.8
    logits = torch.tensor([0.6, 0.4]).log().view(1, 2, 1)
    histogram = histogram_of([logits], [torch.tensor([[1.0], [2.0]])])
    assert histogram.counts.sum(1).tolist() == [0, 1]
    assert float(-histogram.log_thresholds(0.5)[1]) == pytest.approx(-math.log(0.8), rel=1 / 64)
    # map = 5: q = 2, v = −log 2 below 0
    histogram = histogram_of([logits], [torch.tensor([[1.0], [5.0]])])
    assert float(histogram.log_thresholds(0.5)[1]) == pytest.approx(math.log(2), rel=1 / 64)


def test_a_pixel_where_every_map_is_0_is_neither_counted_nor_labelled() -> None:
    logits = draw(3, 2, (4,), 1)
    maps = torch.ones(2, 4)
    maps[:, 2] = 0
    histogram = histogram_of([logits], [maps])
    theta = histogram.log_thresholds(1.0)
    without = histogram_of([logits[..., [0, 1, 3]]]).log_thresholds(1.0)
    assert torch.equal(theta, without)
    labels = PseudoLabeler(theta, maps)(logits)[0]
    assert (labels == IGNORE).tolist() == [False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_count_as_float32_ones(dtype: torch.dtype) -> None:
    logits = draw(4, 5, (8, 8)).to(dtype)
    wide = histogram_of([logits.float()])
    assert torch.equal(histogram_of([logits]).counts, wide.counts)
    labeler = PseudoLabeler(wide.log_thresholds(0.4))
    assert torch.equal(labeler(logits), labeler(logits.float()))


def test_a_prediction_counts_as_its_logits_and_keeps_its_graph() -> None:
    logits = draw(5, 3, (6, 6)).requires_grad_()
    prediction = Prediction(logits)
    histogram = ConfidenceHistogram(3)
    histogram.add(prediction)
    assert torch.equal(histogram.counts, histogram_of([logits.detach()]).counts)
    labeler = PseudoLabeler(histogram.log_thresholds(0.5))
    assert torch.equal(labeler(prediction), labeler(logits.detach()))
    assert not labeler.soft(prediction, 0.5).requires_grad
    confidence_weight(prediction, "pixel")
    (gradient,) = torch.autograd.grad(entropy(prediction), logits)
    assert float(gradient.abs().sum()) > 0


class _Largest(TorchFunctionMode):
    """Bytes of the largest new tensor that a call makes."""

    def __init__(self, given: torch.Tensor) -> None:
        super().__init__()
        self.given, self.bytes = given.untyped_storage().data_ptr(), 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() != self.given:
            self.bytes = max(self.bytes, out.untyped_storage().nbytes())
        return out


def test_counting_and_labelling_make_no_second_copy_of_an_image() -> None:
    logits = torch.randn(1, 19, 256, 256, generator=_seeded(6))
    image = logits.numel() * 4
    histogram = ConfidenceHistogram(19)
    with _Largest(logits) as counting:
        histogram.add(logits)
    theta = histogram.log_thresholds(0.3)
    with _Largest(logits) as labelling:
        PseudoLabeler(theta)(logits)
    labels = logits[0, 0].numel() * 8
    assert image / 4 > 2**20  # the parts are small beside the image
    assert 0 < counting.bytes <= max(2**20, histogram.counts.numel() * 8)
    assert 0 < labelling.bytes <= max(2**20, labels)


@pytest.mark.usefixtures("as_users_see")
def test_what_the_histogram_refuses() -> None:
    histogram = ConfidenceHistogram(3)
    with pytest.raises(DataError, match="the logits have 2 classes, the histogram counts 3"):
        histogram.add(torch.zeros(1, 2, 4, 4))
    with pytest.raises(DataError, match="histograms of 3 and of 2 classes"):
        histogram.merge(ConfidenceHistogram(2))
    logits = torch.zeros(2, 3, 4, 4)
    for shape in ((3, 4), (2, 4, 4), (1, 3, 4, 4), (3, 5, 4)):
        with pytest.raises(PriorError, match="maps of shape"):
            histogram.add(logits, torch.ones(shape))
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(PriorError, match="negative or not finite"):
            histogram.add(logits, torch.full((3, 4, 4), value))
    for portion in (-0.1, 1.1, math.nan):
        with pytest.raises(PriorError, match="a portion of"):
            histogram.log_thresholds(portion)
    assert int(histogram.counts.sum()) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_predictions_that_are_not_numbers_are_reported_when_the_thresholds_are_asked_for(
    value: float,
) -> None:
    logits = torch.zeros(1, 3, 4)
    logits[0, 1, :2] = value
    histogram = histogram_of([logits])
    with pytest.raises(DataError, match="2 pixels have a prediction that is not a number"):
        histogram.log_thresholds(0.5)
    label = PseudoLabeler(torch.full((3,), -9.0))(logits)
    assert (label[0, :2] == IGNORE).all()


def test_an_empty_histogram_gives_no_class_a_label() -> None:
    theta = ConfidenceHistogram(3).log_thresholds(0.2)
    assert theta.tolist() == [math.inf] * 3
    assert bool((PseudoLabeler(theta)(draw(7, 3, (4, 4))) == IGNORE).all())


# --------------------------------------------------------------------------------------------- pseudo-labels


def reference_labels(logits: torch.Tensor, log_theta: np.ndarray, maps: Any = None) -> np.ndarray:
    """log q − log θ in float64, ``[k, pixels]``."""
    return -surprise(logits, maps) - log_theta[:, None]


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces, st.booleans())
def test_labels_and_soft_labels_equal_a_float64_reference(
    seed: int, classes: int, space: tuple[int, ...], mapped: bool
) -> None:
    logits = draw(seed, classes, space)
    rng = np.random.default_rng(seed)
    log_theta = np.log(rng.uniform(0.2, 0.9, classes)).astype(np.float32)
    log_theta[0] = math.inf  # class 0 never gets a label
    maps = torch.rand(classes, *space, generator=_seeded(seed)) + 0.1 if mapped else None
    labeler = PseudoLabeler(torch.from_numpy(log_theta), maps)
    score = reference_labels(logits, log_theta, maps)
    kept = score.max(0) >= 0
    expected = np.where(kept, score.argmax(0), IGNORE)
    assert np.array_equal(labeler(logits).flatten().numpy(), expected)
    alpha = rng.uniform(0.1, 2)
    y = np.exp(np.where(kept, score - score.max(0), 0) / alpha)
    y = np.where(kept, y / y.sum(0), 0)
    soft = labeler.soft(logits, alpha)
    assert soft.shape == logits.shape
    found = soft.transpose(0, 1).reshape(classes, -1).numpy()
    np.testing.assert_allclose(found, y, atol=1e-5)
    assert bool((found[0] == 0).all())


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, portions)
def test_how_the_winner_by_q_over_theta_relates_to_the_winner_by_q(
    seed: int, classes: int, portion: float
) -> None:
    logits = draw(seed, classes, (8, 8))
    log_theta = histogram_of([logits]).log_thresholds(portion)
    label = PseudoLabeler(log_theta)(logits)
    log_p = logits.double().log_softmax(1)
    least, winner = log_p.max(1)
    passes = least >= log_theta.double()[winner] + 1e-6
    # a pixel that passes as what it is predicted is kept, if perhaps as another class
    assert bool((label[passes] != IGNORE).all())
    other = (label != IGNORE) & (label != winner)
    q = log_p.gather(1, label.where(other, 0).unsqueeze(1)).squeeze(1)
    theta = log_theta.double()[label.where(other, 0)]
    # one that is given to another class passes as that class, and by a wider margin
    assert bool((q[other] >= theta[other] - 1e-6).all())
    margin = least - log_theta.double()[winner]
    assert bool((q[other] - theta[other] >= margin[other] - 1e-6).all())
    # with one threshold for all classes there is no difference
    common = PseudoLabeler(torch.full((classes,), -0.7))(logits)
    assert torch.equal(common[common != IGNORE], winner[common != IGNORE])
    assert torch.equal(common != IGNORE, least >= -0.7)


def test_a_rare_class_with_a_low_threshold_takes_a_pixel_from_a_likelier_one() -> None:
    p = torch.tensor([[0.6, 0.95], [0.4, 0.05]])
    labeler = PseudoLabeler(torch.tensor([0.9, 0.3]).log())
    assert labeler(p.log()[None]).tolist() == [[1, 0]]
    # (0.6/0.9, 0.4/0.3) and (0.95/0.9, 0.05/0.3), squared for α = ½ and brought to sum 1
    ratios = torch.tensor([[0.6 / 0.9, 0.95 / 0.9], [0.4 / 0.3, 0.05 / 0.3]]) ** 2
    torch.testing.assert_close(labeler.soft(p.log()[None], 0.5)[0], ratios / ratios.sum(0))


def test_soft_labels_harden_as_alpha_falls_and_flatten_as_it_grows() -> None:
    logits = draw(8, 4, (6, 6))
    labeler = PseudoLabeler(torch.full((4,), -0.9))
    hard = labeler(logits)
    kept = hard != IGNORE
    assert 0 < int(kept.sum()) < kept.numel()
    small = labeler.soft(logits, 1e-30)
    assert torch.equal(small.argmax(1)[kept], hard[kept])
    assert bool(((small == 0) | (small == 1)).all())
    large = labeler.soft(logits, 1e30).movedim(1, -1)
    torch.testing.assert_close(large[kept], torch.full_like(large[kept], 0.25))
    assert bool((large[~kept] == 0).all())


def test_thresholds_that_nothing_reaches_label_nothing() -> None:
    logits = 1e4 * draw(9, 3, (4, 4)).sign()
    for log_theta in (1.0, math.inf):
        labeler = PseudoLabeler(torch.full((3,), log_theta))
        assert bool((labeler(logits) == IGNORE).all())
        assert bool((labeler.soft(logits, 0.5) == 0).all())


def test_a_pixel_exactly_at_its_threshold_is_kept() -> None:
    logits = torch.tensor([[[300.0, 0.0], [0.0, 0.0]]])  # p = 1 and p = ½
    assert PseudoLabeler(torch.zeros(2))(logits).tolist() == [[0, IGNORE]]
    assert PseudoLabeler(torch.zeros(2)).soft(logits, 1.0)[0].tolist() == [[1, 0], [0, 0]]
    half = -torch.tensor(1.0).log1p()  # log ½ as it comes from log(1 + exp(0))
    assert PseudoLabeler(torch.stack([half, half]))(logits).tolist() == [[0, 0]]
    just_above = torch.nextafter(half, torch.tensor(0.0))
    assert PseudoLabeler(torch.stack([just_above] * 2))(logits).tolist() == [[0, IGNORE]]


def test_maps_an_image_each_label_each_image_by_its_own() -> None:
    logits, maps = draw(10, 3, (4, 4)), torch.rand(2, 3, 4, 4, generator=_seeded(10)) + 0.1
    theta = torch.full((3,), -0.9)
    both = PseudoLabeler(theta, maps)(logits)
    each = [PseudoLabeler(theta, maps[i])(logits[i : i + 1]) for i in range(2)]
    assert torch.equal(both, torch.cat(each))


def test_a_map_of_0_forbids_a_class_there() -> None:
    logits = torch.tensor([[[5.0, 5.0], [0.0, 0.0]]])
    maps = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    labeler = PseudoLabeler(torch.full((2,), -20.0), maps)
    assert labeler(logits).tolist() == [[1, 0]]
    assert labeler.soft(logits, 1.0)[0, :, 0].tolist() == [0, 1]


@pytest.mark.usefixtures("as_users_see")
def test_what_the_labeler_refuses() -> None:
    logits = torch.zeros(2, 3, 4, 4)
    for value in (math.nan, -math.inf):
        with pytest.raises(PriorError, match="log thresholds"):
            PseudoLabeler(torch.tensor([0.0, value, 0.0]))
    with pytest.raises(PriorError, match="2 thresholds for logits of 3 classes"):
        PseudoLabeler(torch.zeros(2))(logits)
    with pytest.raises(PriorError, match=r"maps of shape \(3, 4\)"):
        PseudoLabeler(torch.zeros(3), torch.ones(3, 4))(logits)
    with pytest.raises(PriorError, match="negative or not finite"):
        PseudoLabeler(torch.zeros(3), torch.full((3, 4, 4), -1.0))
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(PriorError, match="alpha"):
            PseudoLabeler(torch.zeros(3)).soft(logits, alpha)


def test_portions_rise_by_rounds_to_their_limit() -> None:
    assert [round(portion_at(n), 9) for n in range(8)] == [
        0.2,
        0.25,
        0.3,
        0.35,
        0.4,
        0.45,
        0.5,
        0.5,
    ]
    assert portion_at(3, start=0.1, step=0.2, limit=0.65) == 0.65
    assert portion_at(1, start=0.1, step=0.2, limit=0.65) == pytest.approx(0.3)


# ----------------------------------------------------------------------------------------------------- MRKLD


def softmax(logits: np.ndarray) -> np.ndarray:
    """float64, over axis 1."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def reference_mrkld(logits: np.ndarray, mask: np.ndarray | None = None) -> float:
    p = softmax(logits.astype(np.float64))
    uniform = 1 / p.shape[1]
    pixel = (uniform * (np.log(uniform) - np.log(p))).sum(1)
    return float(pixel.mean() if mask is None else pixel[mask].mean())


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_mrkld_equals_a_float64_reference_and_is_not_negative(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    mask = torch.rand(2, *space, generator=_seeded(seed)) < 0.5
    mask[0].view(-1)[0] = True
    assert float(mrkld(logits)) == pytest.approx(reference_mrkld(logits.numpy()), rel=1e-5)
    expected = reference_mrkld(logits.numpy(), mask.numpy())
    assert float(mrkld(logits, mask)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(mrkld(logits)) >= 0


def slopes(value: Any, at: torch.Tensor) -> Iterator[tuple[tuple[int, ...], float]]:
    """Central differences of a function of a float64 array, place by place."""
    base = at.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        yield place, (value(base + step) - value(base - step)) / 2e-5


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_mrkld_equals_finite_differences_and_p_minus_one_kth(masked: bool) -> None:
    logits = draw(11, 3, (2, 2)).requires_grad_()
    mask = torch.tensor([[[True, False], [True, True]], [[False, True], [True, False]]])
    value = mrkld(logits, mask if masked else None)
    (gradient,) = torch.autograd.grad(value, logits)
    for place, slope in slopes(
        lambda z: reference_mrkld(z, mask.numpy() if masked else None), logits
    ):
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-5)
    counted = mask if masked else torch.ones_like(mask)
    closed = (logits.softmax(1) - 1 / 3) * counted[:, None] / counted.sum()
    torch.testing.assert_close(gradient, closed.detach())


@pytest.mark.parametrize("classes", [2, 19])
def test_mrkld_is_0_for_a_uniform_prediction_and_grows_with_the_gap_for_a_sure_one(
    classes: int,
) -> None:
    assert float(mrkld(torch.zeros(2, classes, 3))) == pytest.approx(0, abs=1e-6)
    logits = torch.zeros(1, classes, 3)
    logits[:, 0] = 300.0
    # log p is 0 for one class and −300 for the others
    expected = 300 * (classes - 1) / classes - math.log(classes)
    assert float(mrkld(logits)) == pytest.approx(expected, rel=1e-5)


def test_mrkld_of_an_empty_mask_is_0_with_a_gradient_of_0() -> None:
    logits = (1e4 * draw(12, 3, (4, 4)).sign()).requires_grad_()
    value = mrkld(logits, torch.zeros(2, 4, 4, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == 0
    assert bool((gradient == 0).all())


@pytest.mark.usefixtures("as_users_see")
def test_mrkld_refuses_a_mask_of_another_shape() -> None:
    with pytest.raises(DataError, match=r"the mask has shape \(1, 4, 4\)"):
        mrkld(torch.zeros(2, 3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))


def network(classes: int) -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, classes, 1)
    )


def train(model: torch.nn.Module, loss: Any, image: torch.Tensor, steps: int = 120) -> torch.Tensor:
    """Logits after training with one loss alone."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(image)).backward()
        optimizer.step()
    with torch.no_grad():
        logits: torch.Tensor = model(image)
    return logits


def test_mrkld_alone_brings_a_network_to_uniform_predictions() -> None:
    model, image = network(4), draw(13, 3, (12, 12))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 3
        before = float(entropy(model(image)))
    after = float(entropy(train(model, mrkld, image)))
    assert before < 0.9
    assert after > 0.99


def test_mrkld_stops_self_training_from_growing_ever_more_sure() -> None:
    """Pseudo-label cross-entropy with weight 1 and MRKLD with weight 0.5: p of the label settles, at 5/6 for K = 2.

    −log p₀ − ½·½(log p₀ + log p₁) has its minimum where p₁ = ¼ / 1.5.
    """
    image, labels = draw(14, 3, (6, 6)), torch.zeros(2, 6, 6, dtype=torch.long)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels) + 0.5 * mrkld(logits)

    p = train(network(2), loss, image, 250).softmax(1)[:, 0]
    assert float(p.mean()) == pytest.approx(5 / 6, abs=0.01)


# ---------------------------------------------------------------------------------------------- spatial prior


def draw_maps(seed: int, *shape: int, axis: int = 0) -> torch.Tensor:
    return (1.5 * torch.randn(*shape, generator=_seeded(seed))).softmax(axis)


def reference_kl(logits: np.ndarray, maps: np.ndarray, direction: str, over: str) -> float:
    """Pixel by pixel in float64."""
    p = softmax(logits.astype(np.float64))
    pi = np.broadcast_to(maps.astype(np.float64), p.shape)
    if over == "batch":
        p, pi = p.mean(0, keepdims=True), pi.mean(0, keepdims=True)
    terms = pi * (np.log(pi) - np.log(p))
    if direction == "prediction_to_prior":
        terms = p * (np.log(p) - np.log(pi + 1e-10))
    return float(terms.sum(1).mean())


@settings(max_examples=30, deadline=None)
@given(
    seeds,
    class_counts,
    spaces,
    st.sampled_from(DIRECTIONS),
    st.sampled_from(["image", "batch"]),
    st.booleans(),
)
def test_spatial_prior_kl_equals_a_float64_reference_and_is_not_negative(
    seed: int, classes: int, space: tuple[int, ...], direction: Any, over: Any, each: bool
) -> None:
    logits = draw(seed, classes, space)
    maps = draw_maps(seed + 1, 2, classes, *space, axis=1) if each else None
    maps = draw_maps(seed + 1, classes, *space) if maps is None else maps
    value = float(spatial_prior_kl(logits, maps, direction, over))
    expected = reference_kl(logits.numpy(), maps.numpy(), direction, over)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert value > -1e-6


@each_direction
@each_scope
@pytest.mark.parametrize("images", [1, 2])
def test_gradient_of_spatial_prior_kl_equals_finite_differences(
    direction: Any, over: Any, images: int
) -> None:
    logits, maps = draw(15, 3, (2, 2), images).requires_grad_(), draw_maps(16, 3, 2, 2)
    (gradient,) = torch.autograd.grad(spatial_prior_kl(logits, maps, direction, over), logits)
    for place, slope in slopes(lambda z: reference_kl(z, maps.numpy(), direction, over), logits):
        assert float(gradient[place]) == pytest.approx(slope, abs=1e-5)


@each_direction
@each_scope
@pytest.mark.parametrize("classes", [2, 19])
def test_spatial_prior_kl_is_0_with_a_gradient_of_0_where_the_prediction_is_the_prior(
    direction: Any, over: Any, classes: int
) -> None:
    maps = draw_maps(17, classes, 4, 4)
    logits = (maps.log() + 3).expand(2, classes, 4, 4).clone().requires_grad_()
    value = spatial_prior_kl(logits, maps, direction, over)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert float(gradient.abs().max()) < 1e-7


@each_direction
def test_over_the_batch_images_may_differ_where_their_mean_is_the_prior(direction: Any) -> None:
    logits = torch.tensor([[[9.0], [-9.0]], [[-9.0], [9.0]]])
    maps = torch.tensor([[0.5], [0.5]])
    assert float(spatial_prior_kl(logits, maps, direction, "batch")) == pytest.approx(0, abs=1e-6)
    assert float(spatial_prior_kl(logits, maps, direction, "image")) > 0.6


@each_direction
def test_over_images_a_batch_is_the_mean_of_its_halves_and_over_the_batch_it_is_less(
    direction: Any,
) -> None:
    logits, maps = draw(18, 3, (5, 5), 4), draw_maps(19, 4, 3, 5, 5, axis=1)

    def split(over: Any) -> tuple[float, float]:
        halves = [
            float(spatial_prior_kl(logits[part], maps[part], direction, over))
            for part in (slice(0, 2), slice(2, 4))
        ]
        return float(spatial_prior_kl(logits, maps, direction, over)), sum(halves) / 2

    whole, mean_of_halves = split("image")
    assert whole == pytest.approx(mean_of_halves, abs=1e-6)
    whole, mean_of_halves = split("batch")
    assert whole < mean_of_halves - 1e-2  # the divergence is convex


def test_the_same_maps_for_all_images_or_once_an_image_are_the_same() -> None:
    logits, maps = draw(20, 3, (4, 4)), draw_maps(21, 3, 4, 4)
    for direction in DIRECTIONS:
        one = spatial_prior_kl(logits, maps, direction, "image")  # type: ignore[arg-type]
        each = spatial_prior_kl(logits, maps.expand(2, 3, 4, 4), direction, "image")  # type: ignore[arg-type]
        assert float(one) == pytest.approx(float(each), rel=1e-6)


def test_an_impossible_class_is_suppressed_in_one_direction_and_left_alone_in_the_other() -> None:
    maps = torch.tensor([[1.0], [0.0]])
    share = 1e-3
    logits = torch.tensor([[[math.log1p(-share)], [math.log(share)]]])
    suppressed = float(spatial_prior_kl(logits, maps, "prediction_to_prior"))
    own = share * math.log(share) + (1 - share) * math.log1p(-share)
    assert (suppressed - own) / share == pytest.approx(-math.log(1e-10), rel=1e-3)
    three = torch.tensor([[0.5], [0.5], [0.0]])
    absent = torch.tensor([[[0.0], [0.0], [-50.0]]])
    assert float(spatial_prior_kl(absent, three)) == pytest.approx(0, abs=1e-6)


def test_a_class_that_vanished_where_it_belongs_is_called_back() -> None:
    logits = torch.zeros(2, 2, 4)
    logits[:, 1] = -200.0  # p underflows in float32
    logits.requires_grad_()
    value = spatial_prior_kl(logits, torch.full((2, 4), 0.5))
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == pytest.approx(100 - math.log(2), rel=1e-4)
    assert bool((gradient[:, 1] < -0.01).all())


def test_spatial_prior_kl_alone_brings_a_network_that_knows_the_place_to_the_maps() -> None:
    torch.manual_seed(0)
    model = torch.nn.Conv2d(2, 3, 1)
    rows = torch.linspace(-1, 1, 8).view(8, 1).expand(8, 8)
    place = torch.stack([rows, rows.T]).expand(2, 2, 8, 8)
    maps = torch.stack([2 * rows, rows.T - 1, -rows]).softmax(0)  # a 1×1 convolution can say this
    for direction in DIRECTIONS:
        logits = train(
            model,
            lambda z, way=direction: spatial_prior_kl(z, maps, way),
            place,
            300,
        )
        torch.testing.assert_close(logits.softmax(1)[0], maps, atol=0.03, rtol=0)


@pytest.mark.usefixtures("as_users_see")
def test_what_spatial_prior_kl_refuses() -> None:
    logits, maps = torch.zeros(2, 3, 4, 4), torch.full((3, 4, 4), 1 / 3)
    for shape in ((2, 4, 4), (3, 4, 5), (1, 3, 4, 4), (3, 16), (3,)):
        with pytest.raises(PriorError, match="maps of shape"):
            spatial_prior_kl(logits, torch.full(shape, 1 / 3))
    for wrong in (
        2 * maps,
        -maps,
        maps * math.nan,
        maps * torch.tensor([1.0, 1.0, 0.0])[:, None, None],
    ):
        with pytest.raises(PriorError, match="the maps are no frequencies"):
            spatial_prior_kl(logits, wrong)
    known = torch.zeros(3, 4, 4)
    known[0] = 1
    with pytest.raises(PriorError, match="the maps have a zero"):
        spatial_prior_kl(logits, known, "prediction_to_prior", eps=0)
    assert math.isfinite(float(spatial_prior_kl(logits, known, "prior_to_prediction", eps=0)))
    assert math.isfinite(float(spatial_prior_kl(logits, maps, "prediction_to_prior", eps=0)))


# --------------------------------------------------------------------------------------- weight by confidence


@settings(max_examples=20, deadline=None)
@given(seeds, class_counts, spaces, st.floats(0.3, 0.99))
def test_confidence_weights_equal_a_reference_and_lie_between_0_and_1(
    seed: int, classes: int, space: tuple[int, ...], threshold: float
) -> None:
    logits = draw(seed, classes, space)
    largest = softmax(logits.double().numpy()).max(1)
    pixel = confidence_weight(logits, "pixel", threshold)
    np.testing.assert_allclose(pixel.numpy(), largest, rtol=1e-5)
    image = confidence_weight(logits, "image", threshold)
    share = (pixel > threshold).float().flatten(1).mean(1)
    assert image.shape == pixel.shape
    assert bool((image.flatten(1) == share[:, None]).all())
    assert bool(((pixel > 0) & (pixel <= 1)).all())
    assert bool(((image >= 0) & (image <= 1)).all())


def test_confidence_weights_have_no_gradient_and_leave_that_of_a_shared_prediction() -> None:
    logits = draw(22, 3, (4, 4)).requires_grad_()
    prediction = Prediction(logits)
    assert not confidence_weight(prediction, "pixel").requires_grad
    assert not confidence_weight(prediction, "image").requires_grad
    (gradient,) = torch.autograd.grad(mrkld(prediction), logits)
    assert float(gradient.abs().sum()) > 0


@pytest.mark.parametrize("kind", ["pixel", "image"])
def test_confidence_is_1_for_a_sure_prediction_and_its_least_for_a_uniform_one(kind: Any) -> None:
    sure = torch.full((2, 4, 3, 3), -1e4)
    sure[:, 1] = 1e4
    assert bool((confidence_weight(sure, kind) == 1).all())
    least = 0.25 if kind == "pixel" else 0.0
    assert bool((confidence_weight(torch.zeros(2, 4, 3, 3), kind) == least).all())
    half = sure.bfloat16()
    assert confidence_weight(half, kind).dtype == torch.float32
