"""The grid CRF: its energy against a sum over all pairs, its labels against brute force, seeds, bad input."""

from __future__ import annotations

import builtins
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses import grid_crf as crf
from uda.losses.grid_crf import grid_crf_energy, grid_crf_labels
from uda.losses.supervised import cross_entropy
from uda.types import IGNORE

random_seeds = st.integers(0, 2**31)
strengths = st.sampled_from([0.1, 0.5, 2.0, 20.0])


def module() -> Any:
    """The file, whose name the function of the package hides."""
    import sys

    return sys.modules["uda.losses.grid_crf"]


def draw(
    seed: int, classes: int, space: tuple[int, ...], images: int = 1, seeded: float = 0.1
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, an image of two channels, and a few seeds."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, *space, generator=generator)
    image = torch.randn(images, 2, *space, generator=generator)
    labels = torch.randint(classes, (images, *space), generator=generator)
    unknown = torch.rand(images, *space, generator=generator) >= seeded
    return logits, image, labels.masked_fill(unknown, IGNORE)


def reference(
    labels: np.ndarray,
    logits: np.ndarray,
    image: np.ndarray,
    potts: float,
    sigma: float | None = None,
    spacing: Any = None,
) -> float:
    """Energy of one image, pair after pair, in float64."""
    logits, image = logits.astype(np.float64), image.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(0))
    pixels = list(np.ndindex(labels.shape))
    unary = -sum(log_p[(labels[x], *x)] for x in pixels)
    sizes = np.ones(labels.ndim) if spacing is None else np.asarray(spacing) / min(spacing)
    pairs = [
        (x, y, float(np.square(image[(slice(None), *x)] - image[(slice(None), *y)]).sum()))
        for x, y in itertools.combinations(pixels, 2)
        if np.abs(np.subtract(x, y)).max() == 1
    ]
    square = np.mean([d for _, _, d in pairs]) if sigma is None else sigma**2
    binary = sum(
        math.exp(-d / (2 * square)) / math.dist(x * sizes, y * sizes)
        for x, y, d in pairs
        if labels[x] != labels[y]
    )
    return float(unary + potts * binary)


@settings(max_examples=25, deadline=None)
@given(
    random_seeds,
    st.sampled_from([(2, 3), (4, 4), (2, 2, 3)]),
    st.sampled_from([None, 0.7]),
    st.booleans(),
)
def test_energy_equals_a_sum_over_all_pairs(
    seed: int, space: tuple[int, ...], sigma: float | None, thick: bool
) -> None:
    logits, image, _ = draw(seed, 3, space)
    labels = torch.randint(3, (1, *space), generator=torch.Generator().manual_seed(seed))
    spacing = [3.0, *[1.5] * (len(space) - 1)] if thick else None
    found = grid_crf_energy(labels, logits, image, 1.7, sigma, spacing)
    given_ = [tensor[0].numpy() for tensor in (labels, logits, image)]
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(reference(*given_, 1.7, sigma, spacing), rel=1e-5)


def every_labelling(classes: int, seeds: Tensor) -> list[Tensor]:
    """All labels of one image that agree with its seeds."""
    choices = [[s] if s != IGNORE else range(classes) for s in seeds.flatten().tolist()]
    return [torch.tensor(found).view(seeds.shape) for found in itertools.product(*choices)]


def least_energy(logits: Tensor, image: Tensor, seeds: Tensor, potts: float) -> float:
    labels = torch.cat(every_labelling(logits.shape[1], seeds))
    many = len(labels)
    energies = grid_crf_energy(
        labels, logits.expand(many, *logits.shape[1:]), image.expand(many, *image.shape[1:]), potts
    )
    return float(energies.min())


@settings(max_examples=30, deadline=None)
@given(random_seeds, strengths, st.sampled_from([(3, 3), (1, 6), (2, 2, 2)]))
def test_of_two_classes_the_labels_are_the_optimum(
    seed: int, potts: float, space: tuple[int, ...]
) -> None:
    logits, image, seeds = draw(seed, 2, space)
    labels = grid_crf_labels(logits, image, seeds, potts)
    found = float(grid_crf_energy(labels, logits, image, potts))
    assert found == pytest.approx(least_energy(logits, image, seeds, potts), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(random_seeds, strengths, st.sampled_from([(2, 3), (1, 7)]))
def test_of_more_classes_they_are_within_twice_the_optimum_and_mostly_at_it(
    seed: int, potts: float, space: tuple[int, ...]
) -> None:
    logits, image, seeds = draw(seed, 3, space)
    labels = grid_crf_labels(logits, image, seeds, potts)
    found = float(grid_crf_energy(labels, logits, image, potts))
    # the guarantee of Boykov et al. for Potts weights
    assert found <= 2 * least_energy(logits, image, seeds, potts) + 1e-4


def test_on_twenty_random_images_of_three_classes_most_are_at_the_optimum() -> None:
    ratios = []
    for seed in range(20):
        logits, image, seeds = draw(seed, 3, (2, 4))
        labels = grid_crf_labels(logits, image, seeds, 1.0)
        found = float(grid_crf_energy(labels, logits, image, 1.0))
        ratios.append(found / least_energy(logits, image, seeds, 1.0))
    assert max(ratios) < 1.05
    assert sorted(ratios)[15] < 1 + 1e-5


def best_expansion(
    labels: Tensor, logits: Tensor, image: Tensor, seeds: Tensor, potts: float
) -> float:
    """Least energy that one expansion of one class could reach."""
    least = math.inf
    for alpha in range(logits.shape[1]):
        movable = ((labels != alpha) & (seeds == IGNORE)).flatten().nonzero().flatten().tolist()
        for moved in itertools.product([False, True], repeat=len(movable)):
            tried = labels.clone().flatten()
            tried[[p for p, m in zip(movable, moved, strict=True) if m]] = alpha
            tried = tried.view(labels.shape)
            least = min(least, float(grid_crf_energy(tried, logits, image, potts)))
    return least


@pytest.mark.parametrize("potts", [0.3, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_no_expansion_of_a_class_lowers_the_energy_further(seed: int, potts: float) -> None:
    logits, image, seeds = draw(seed, 4, (2, 4))
    labels = grid_crf_labels(logits, image, seeds, potts)
    found = float(grid_crf_energy(labels, logits, image, potts))
    assert best_expansion(labels, logits, image, seeds, potts) >= found - 1e-4


def smooth(seed: int, classes: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of a large image with regions and noise, an image that shows them, and seeds."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, classes, 5, 5, generator=generator)
    regions = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    logits = 4 * regions + 1.5 * torch.randn(1, classes, side, side, generator=generator)
    truth = regions.argmax(1)
    image = truth.unsqueeze(1) + 0.3 * torch.randn(1, 1, side, side, generator=generator)
    unknown = torch.rand(truth.shape, generator=generator) >= 0.01
    return logits, image, truth.masked_fill(unknown, IGNORE)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("potts", [0.5, 3.0, 80.0])
def test_a_cut_near_the_pixels_that_gain_finds_what_a_cut_of_everything_finds(
    classes: int, potts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_ = smooth(1, classes, 48)
    energies = []
    for radii in ((), (1, 1, 2), (4, 8)):
        monkeypatch.setattr(module(), "RADII", radii)
        labels = grid_crf_labels(*given_, potts)
        energies.append(float(grid_crf_energy(labels, *given_[:2], potts)))
    assert energies[1:] == pytest.approx(energies[:1] * 2, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("potts", [0.5, 5.0, 80.0])
def test_seeds_are_kept_and_the_energy_falls_with_every_cycle(classes: int, potts: float) -> None:
    logits, image, seeds = smooth(2, classes, 40)
    start = logits.argmax(1).where(seeds == IGNORE, seeds)
    energies = [float(grid_crf_energy(start, logits, image, potts))]
    for cycles in (1, 2, 5):
        labels = grid_crf_labels(logits, image, seeds, potts, cycles=cycles)
        assert labels.dtype == torch.int64
        assert bool((labels == seeds)[seeds != IGNORE].all())
        energies.append(float(grid_crf_energy(labels, logits, image, potts)))
    assert energies == sorted(energies, reverse=True)
    assert energies[1] < energies[0]


def test_a_weak_weight_leaves_the_most_likely_classes_and_a_strong_one_a_single_class() -> None:
    logits, image, seeds = draw(3, 3, (6, 6), seeded=0.0)
    assert torch.equal(grid_crf_labels(logits, image, seeds, 1e-6), logits.argmax(1))
    assert len(grid_crf_labels(logits, image, seeds, 1e4).unique()) == 1


def test_two_scribbles_fill_what_the_image_shows() -> None:
    truth = torch.zeros(1, 12, 12, dtype=torch.long)
    truth[:, 3:9, 4:10] = 1
    seeds = torch.full_like(truth, IGNORE)
    seeds[0, 0, :] = 0
    seeds[0, 5, 6:8] = 1
    noise = 0.05 * torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(4))
    labels = grid_crf_labels(torch.zeros(1, 2, 12, 12), truth.unsqueeze(1) + noise, seeds)
    assert torch.equal(labels, truth)


def test_a_cut_goes_between_thick_slices_before_it_goes_through_one() -> None:
    seeds = torch.full((1, 3, 3, 3), IGNORE)
    seeds[0, 0, 0, 0], seeds[0, 2, 2, 2] = 0, 1
    undecided, flat = torch.zeros(1, 2, 3, 3, 3), torch.zeros(1, 1, 3, 3, 3)
    whole = [
        all(
            len(plane.unique()) == 1
            for plane in grid_crf_labels(undecided, flat, seeds, spacing=s)[0]
        )
        for s in ([90.0, 1.0, 1.0], None)
    ]
    assert whole == [True, False]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    given_ = draw(5, 4, (5, 6), images=3)
    together = grid_crf_labels(*given_, 1.0)
    apart = [grid_crf_labels(*(t[i : i + 1] for t in given_), 1.0) for i in range(3)]
    assert torch.equal(together, torch.cat(apart))


def test_log_probabilities_serve_as_logits() -> None:
    logits, image, seeds = draw(6, 3, (5, 5))
    shifted = logits.log_softmax(1)
    assert torch.equal(
        grid_crf_labels(shifted, image, seeds, 1.0), grid_crf_labels(logits, image, seeds, 1.0)
    )


@pytest.mark.parametrize("space", [(1, 1), (1, 5), (5, 1), (2, 2), (1, 1, 1), (2, 1, 3)])
def test_small_images_and_single_classes_have_labels(space: tuple[int, ...]) -> None:
    for classes in (1, 2, 3):
        logits, image, seeds = draw(7, classes, space, seeded=0.0)
        labels = grid_crf_labels(logits, image, seeds, 0.01)
        assert torch.equal(labels, logits.argmax(1))


def test_the_loss_is_cross_entropy_to_the_labels() -> None:
    logits, image, seeds = draw(8, 3, (6, 6), images=2)
    labels = grid_crf_labels(logits, image, seeds, 2.0)
    assert not torch.equal(labels, logits.argmax(1))
    value = float(crf(logits, image, seeds, 2.0))
    assert value == float(cross_entropy(logits, labels))


def test_rounds_of_it_clean_a_prediction_and_keep_the_seeds() -> None:
    logits, image, seeds = smooth(9, 3, 24)
    truth = image.round().long().squeeze(1).clamp(0, 2)
    free = logits.clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.3)
    for _ in range(30):
        optimizer.zero_grad()
        crf(free, image, seeds, 5.0).backward()
        optimizer.step()
    known = seeds != IGNORE
    assert bool((free.argmax(1) == seeds)[known].all())
    before, after = ((z.argmax(1) == truth).float().mean() for z in (logits, free))
    assert float(after) > float(before) + 0.03


# bad input


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name == "maxflow":
            raise ModuleNotFoundError("No module named 'maxflow'")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", missing)
    logits, image, seeds = draw(10, 2, (3, 3))
    with pytest.raises(ConfigError, match="PyMaxflow") as caught:
        crf(logits, image, seeds)
    assert caught.value.fix == 'pip install "uda-seg[maxflow]"'


@pytest.mark.usefixtures("as_users_see")
def test_shapes_that_do_not_belong_together_are_refused() -> None:
    logits, image, seeds = draw(11, 3, (4, 4))
    with pytest.raises(DataError, match="the image has shape"):
        crf(logits, image[..., :3], seeds)
    with pytest.raises(DataError, match="the seeds have shape"):
        crf(logits, image, seeds[:, :3])
    with pytest.raises(DataError, match="the labels have shape"):
        grid_crf_energy(seeds[:, :3], logits, image)


@pytest.mark.parametrize("wrong", [-1, 3, 254])
def test_a_seed_or_label_that_is_no_class_is_refused(wrong: int) -> None:
    logits, image, seeds = draw(12, 3, (4, 4), seeded=0.0)
    seeds[0, 1, 1] = wrong
    with pytest.raises(DataError, match=f"the seeds hold {wrong}"):
        crf(logits, image, seeds)
    with pytest.raises(DataError, match="the labels hold"):
        grid_crf_energy(seeds, logits, image)


def test_an_image_that_is_not_finite_is_refused() -> None:
    logits, image, seeds = draw(13, 3, (4, 4))
    image[0, 0, 0, 0] = math.nan
    with pytest.raises(DataError, match="not finite"):
        crf(logits, image, seeds)


@pytest.mark.parametrize(
    "setting",
    [
        {"potts": 0.0},
        {"potts": math.nan},
        {"sigma": 0.0},
        {"sigma": math.inf},
        {"spacing": [1.0]},
        {"spacing": [1.0, 0.0]},
        {"cycles": 0},
    ],
)
def test_settings_that_cannot_be_are_refused(setting: dict[str, Any]) -> None:
    logits, image, seeds = draw(14, 3, (4, 4))
    with pytest.raises(ConfigError, match=next(iter(setting))):
        crf(logits, image, seeds, **setting)
