"""Class activation maps: the classifier against an independent fit, what maps add up to, the rules of seeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import expit
from torch import nn

from uda.config.priors import CamPrior
from uda.config.recipe import Compute
from uda.devices.device import make_fabric
from uda.errors import PriorError
from uda.priors.class_activation import (
    TagClassifier,
    activation_maps,
    contrast,
    fit_tags,
    found_by,
    held_out_accuracy,
    relative_activation,
    seeds_of,
    told,
    usable,
)
from uda.priors.network_evidence import activation_seeds
from uda.types import IGNORE


def images(n: int = 40, d: int = 5, seed: int = 0) -> tuple[Any, Any]:
    """Features of different units, and tags of three structures that follow the first features with some noise."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    tags = features[:, :3] + rng.normal(scale=0.8, size=(n, 3)) > np.array([0.0, 0.8, -1.0])
    return features * 10.0 ** np.arange(d) + 3, tags


# The classifier ------------------------------------------------------------------------------------


def by_newton(features: Any, wanted: Any, l2: float) -> Any:
    """The same problem by scipy's trust region with the exact Hessian, written image by image."""
    z = (features - features.mean(0)) / features.std(0)
    one = np.hstack([z, np.ones((len(z), 1))])
    weights = [1 / (2 * sum(wanted == answer)) for answer in wanted]

    def p(v: Any) -> Any:
        return 1 / (1 + np.exp(-one @ v))

    def value(v: Any) -> float:
        right = np.where(wanted, p(v), 1 - p(v))
        return float(-np.sum(weights * np.log(right)) + l2 / 2 * np.sum(v[:-1] ** 2))

    def gradient(v: Any) -> Any:
        return one.T @ (weights * (p(v) - wanted)) + l2 * np.append(v[:-1], 0)

    def hessian(v: Any) -> Any:
        curvature = weights * p(v) * (1 - p(v))
        return (one.T * curvature) @ one + l2 * np.diag([*[1] * z.shape[1], 0])

    options = {"gtol": 1e-12}
    start = np.zeros(one.shape[1])
    found = minimize(
        value, start, jac=gradient, hess=hessian, method="trust-exact", options=options
    )
    return one @ found.x


@pytest.mark.parametrize("l2", [0.001, 0.1, 10.0])
def test_logits_are_those_of_an_independent_fit(l2: float) -> None:
    features, tags = images()
    found = fit_tags(features, tags, l2).logits(features)
    for s in range(3):
        np.testing.assert_allclose(found[:, s], by_newton(features, tags[:, s], l2), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.floats(0.01, 10))
def test_images_with_and_without_a_structure_err_the_same(seed: int, l2: float) -> None:
    """The bias is where the mean error of images that show it is that of images that do not, however many there are."""
    features, tags = images(60, seed=seed)
    p = expit(fit_tags(features, tags, l2).logits(features))
    for s in range(3):
        assert abs((1 - p[tags[:, s], s]).mean() - p[~tags[:, s], s].mean()) < 1e-6


def test_a_structure_without_contrast_and_a_flat_feature_have_no_weight() -> None:
    features, tags = images()
    features[:, 4] = 7.0
    tags[:, 0], tags[:, 1] = True, False
    assert contrast(tags).tolist() == [False, False, True]
    found = fit_tags(features, tags, 0.1)
    assert (found.weights[:2] == 0).all()
    assert found.bias[:2].tolist() == [1.0, -1.0]
    assert found.weights[2, 4] == 0
    assert found.weights[2, 2] != 0


def test_units_and_places_of_features_change_no_answer() -> None:
    features, tags = images()
    expected = fit_tags(features, tags, 0.1).logits(features)
    found = fit_tags(features * 1000 - 50, tags, 0.1).logits(features * 1000 - 50)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_same_images_give_the_same_bits() -> None:
    features, tags = images()
    first, second = (fit_tags(features, tags, 0.1) for _ in range(2))
    assert (first.weights == second.weights).all()
    assert (first.bias == second.bias).all()


@pytest.mark.parametrize(
    ("features", "tags", "l2", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 1), bool), 0.1, "do not match"),
        (np.ones((0, 3)), np.ones((0, 1), bool), 0.1, "do not match"),
        (np.full((2, 3), np.inf), np.ones((2, 1), bool), 0.1, "not finite"),
        (np.ones((2, 3)), np.ones((2, 1), bool), 0.0, "l2 is 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(
    features: Any, tags: Any, l2: float, message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        fit_tags(features, tags, l2)


# Left-out cases ------------------------------------------------------------------------------------


def test_accuracy_is_that_of_classifiers_that_did_not_see_the_case() -> None:
    """Three cases are three folds, each predicted by a fit to the other two."""
    features, tags = images(30)
    cases = [("a", "b", "c")[i % 3] for i in range(30)]
    right = np.zeros_like(tags)
    for i in range(3):
        seen = [j for j in range(30) if j % 3 != i]
        asked = [j for j in range(30) if j % 3 == i]
        right[asked] = (fit_tags(features[seen], tags[seen], 0.1).logits(features[asked]) > 0) == (
            tags[asked]
        )
    expected = [
        (
            sum(right[j, s] for j in range(30) if tags[j, s]) / tags[:, s].sum()
            + sum(right[j, s] for j in range(30) if not tags[j, s]) / (~tags[:, s]).sum()
        )
        / 2
        for s in range(3)
    ]
    np.testing.assert_allclose(held_out_accuracy(features, tags, cases, 0.1), expected)


def test_tags_at_random_are_answered_by_chance_and_true_ones_well() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(400, 4))
    tags = np.stack([features[:, 0] > 1, rng.random(400) > 0.9], 1)
    cases = list(np.arange(400) // 10)
    known, random = held_out_accuracy(features, tags, cases, 0.1)
    assert known > 0.9
    assert abs(random - 0.5) < 0.1


def test_one_case_says_nothing_of_others() -> None:
    features, tags = images()
    assert np.isnan(held_out_accuracy(features, tags, ["a"] * 40, 0.1)).all()


def test_structures_are_used_where_the_classifier_knows_them() -> None:
    tags = np.array([[True, True, False], [True, False, True]])
    accuracy = np.array([np.nan, 0.8, 0.6])
    names = ("a", "b", "c")
    assert usable(names, tags, accuracy, 0.7).tolist() == [False, True, False]
    assert usable(names, tags, accuracy, 0).tolist() == [False, True, True]
    unknown = np.full(3, np.nan)
    assert usable(names, tags, unknown, 0).tolist() == [False, True, True]
    with pytest.raises(PriorError, match=r"a unknown, b 0\.80, c 0\.60") as caught:
        usable(names, tags, accuracy, 0.9)
    assert "min_accuracy" in str(caught.value)
    with pytest.raises(PriorError, match="by all target images or by none"):
        usable(names, np.ones((2, 3), bool), unknown, 0)
    text = told(names, accuracy, np.array([False, True, False]), 0.914)
    assert "91 % of its tags right" in text
    assert text.endswith("a unknown, b 0.80, c 0.60; no maps of a, c")


# Maps ----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99)
)
def test_a_map_adds_up_to_the_logit(d: int, s: int, h: int, w: int, seed: int) -> None:
    """This is what makes it a class activation map: spatial mean plus bias is the classifier's answer."""
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.normal(size=(6, d, h, w)))
    tags = np.concatenate([np.zeros((1, s)), np.ones((1, s)), rng.random((4, s)) > 0.5]) > 0
    means = pixels.mean((2, 3)).numpy()
    classifier = fit_tags(means, tags, 0.1)
    maps = activation_maps(pixels, torch.from_numpy(classifier.weights))
    assert maps.shape == (6, s, h, w)
    np.testing.assert_allclose(
        maps.mean((2, 3)).numpy() + classifier.bias, classifier.logits(means), rtol=1e-9, atol=1e-9
    )
    sure = np.abs(classifier.logits(means)) > 1e-6
    found = found_by(maps, torch.from_numpy(classifier.bias)).numpy()
    assert (found == (classifier.logits(means) > 0))[sure].all()


def test_relative_maps_are_between_0_and_their_1() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 2, 5, 4, generator=generator) * 100
    maps[0, 0] = -1.0
    relative = relative_activation(maps)
    assert relative.min() == 0
    largest = relative.amax((2, 3))
    assert largest[0, 0] == 0
    assert (largest.flatten()[1:] == 1).all()
    torch.testing.assert_close(relative, relative_activation(maps * 7))


class Brightness(nn.Module):
    """A network whose one feature is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(1, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(image)
        return logits


class Images:
    """Three images of 4 × 4 with a bright quarter: bright, faint, and bright without the tag."""

    depth, store = 1, SimpleNamespace(size=(4, 4))

    def __len__(self) -> int:
        return 3

    def places(self, numbers: Any) -> Any:
        return numbers

    def image(self, places: Any) -> torch.Tensor:
        quarter = torch.zeros(4, 4)
        quarter[:2, :2] = 1
        return torch.stack([8 * quarter, quarter, 8 * quarter])[places][:, None]


def test_a_structure_that_the_classifier_does_not_find_has_no_seeds() -> None:
    """The faint image's map is as large as the bright one's once it is divided by its maximum, and is not used."""
    classifier = TagClassifier(np.array([[1.0]]), np.array([-1.0]))  # means 2, 1/4 and 2
    tags = np.array([[True], [True], [False]])
    images: Any = Images()
    given = (Brightness(), images, classifier, tags, [1], CamPrior(stride=2), np.array([0, 2]))
    seeds, maps = activation_seeds(*given, make_fabric(Compute(device="cpu")))
    assert seeds.tolist() == [[[1, 0], [0, 0]], [[IGNORE] * 2] * 2, [[0, 0], [0, 0]]]
    assert maps.tolist() == [[[[255, 0], [0, 0]]], [[[0, 0], [0, 0]]]]
    finer = (*given[:5], CamPrior(stride=1), np.array([0]))
    seeds, maps = activation_seeds(*finer, make_fabric(Compute(device="cpu")))
    assert (seeds[0] == 1).sum() == 4
    assert maps.shape == (1, 1, 4, 4)


# Seeds ---------------------------------------------------------------------------------------------

FIRST = [1.0, 0.5, 0.2, 0.04, 0.0]
SECOND = [0.0, 0.6, 0.3, 0.05, 1.0]


def seeds(first: list[float], second: list[float], shown: tuple[bool, bool], **changes: Any) -> Any:
    maps = torch.tensor([[[first], [second]]])
    given = {"classes": (1, 2), "foreground": 0.3, "background": 0.05, **changes}
    return seeds_of(maps, torch.tensor([shown]), **given)[0, 0].tolist()


def test_a_pixel_belongs_to_the_shown_structure_with_the_largest_map() -> None:
    assert seeds(FIRST, SECOND, (True, True)) == [1, 2, 2, 0, 2]
    assert seeds(FIRST, SECOND, (True, False)) == [1, 1, IGNORE, 0, 0]
    assert seeds(FIRST, SECOND, (False, True)) == [0, 2, 2, 0, 2]
    assert seeds([0.5], [0.5], (True, True)) == [1]


def test_between_the_two_thresholds_nothing_is_said() -> None:
    assert seeds(FIRST, SECOND, (True, False), foreground=0.6) == [1, IGNORE, IGNORE, 0, 0]
    assert seeds(FIRST, SECOND, (True, False), background=0.0) == [1, 1, IGNORE, IGNORE, 0]
    both = seeds(FIRST, SECOND, (True, False), foreground=0.2, background=0.2)
    assert both == [1, 1, 1, 0, 0]


def test_an_image_without_structures_is_background() -> None:
    assert seeds(FIRST, SECOND, (False, False)) == [0] * 5


def test_where_a_shown_structure_has_no_map_nobody_knows_the_background() -> None:
    nothing = [0.0] * 5
    assert seeds(FIRST, nothing, (True, True)) == [1, 1, IGNORE, IGNORE, IGNORE]
    assert seeds(FIRST, nothing, (True, False)) == [1, 1, IGNORE, 0, 0]


def test_classes_without_background_have_seeds_of_their_own_alone() -> None:
    photo: dict[str, Any] = {"classes": (0, 1), "background": None}
    assert seeds(FIRST, SECOND, (True, True), **photo) == [0, 1, 1, IGNORE, 1]
    assert seeds(FIRST, SECOND, (False, False), **photo) == [IGNORE] * 5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(0.01, 1), st.floats(0, 1))
def test_seeds_name_shown_structures_and_stricter_thresholds_name_fewer(
    seed: int, foreground: float, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = relative_activation(torch.randn(4, 3, 6, 5, generator=generator))
    shown = torch.rand(4, 3, generator=generator) > 0.4
    background = foreground * share
    found = seeds_of(maps, shown, (1, 2, 3), foreground, background)
    for image, tags in zip(found, shown, strict=True):
        allowed = {0, IGNORE, *(s + 1 for s in range(3) if tags[s])}
        assert set(image.unique().tolist()) <= allowed
    strict = seeds_of(maps, shown, (1, 2, 3), min(1.0, foreground * 1.5), background / 2)
    kept = strict != IGNORE
    assert torch.equal(found[kept], strict[kept])
