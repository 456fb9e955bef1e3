"""Label distributions of single images: a known relation is recovered, and no output is NaN."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import card, make_case, recipe, write_nifti
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.config.loading import load_recipe
from uda.errors import PriorError
from uda.pipeline import run as pipeline
from uda.pipeline.domains import Domains
from uda.priors import (
    Prior,
    from_image_level,
    image_level_ratios,
    label_table,
    logistic_ratios,
    nearest_ratios,
    ridge_ratios,
)
from uda.priors.image_level import to_simplex

METHODS = ("nearest", "logistic", "ridge")
EACH_METHOD = pytest.mark.parametrize("method", METHODS)


def features_and_ratios(
    seed: int, images: int = 40, features: int = 6, classes: int = 4
) -> tuple[Any, Any]:
    """Standardised features and ratios that follow from them by a softmax."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(images, features))
    z = (z - z.mean(0)) / z.std(0)
    scores = z @ rng.normal(size=(features, classes)) * 0.5 + rng.normal(size=classes)
    ratios = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return z, ratios


def rescaled(features: Any, seed: int) -> Any:
    """The same images through another scanner: each feature shifted and stretched."""
    rng = np.random.default_rng(seed)
    return features * rng.uniform(0.1, 10, features.shape[1]) + rng.normal(size=features.shape[1])


# A known relation ----------------------------------------------------------------------------------


def test_logistic_regression_finds_a_softmax_again_in_another_domain() -> None:
    z, ratios = features_and_ratios(0)
    found = logistic_ratios(rescaled(z, 1), ratios, rescaled(z, 2), l2=1e-9)
    np.testing.assert_allclose(found, ratios, atol=2e-4)


def test_ridge_regression_finds_a_linear_relation_again_in_another_domain() -> None:
    z, _ = features_and_ratios(0)
    slopes = np.random.default_rng(1).uniform(-0.02, 0.02, (z.shape[1], 4))
    slopes -= slopes.mean(1, keepdims=True)
    ratios = np.array([0.4, 0.3, 0.2, 0.1]) + z @ slopes
    assert ratios.min() > 0
    found = ridge_ratios(rescaled(z, 1), ratios, rescaled(z, 2), l2=1e-12)
    np.testing.assert_allclose(found, ratios, atol=1e-9)


def test_the_nearest_source_image_of_an_image_is_itself() -> None:
    z, ratios = features_and_ratios(0)
    order = np.random.default_rng(3).permutation(len(z))
    found = nearest_ratios(rescaled(z, 1), ratios, rescaled(z[order], 2), neighbours=1)
    np.testing.assert_allclose(found, ratios[order], atol=1e-12)


def test_neighbours_are_averaged_by_hand() -> None:
    source = np.array([[0.0, 0.0], [0.0, 1.0], [10.0, 10.0], [10.0, 11.0]])
    ratios = np.array([[1.0, 0.0], [0.5, 0.5], [0.2, 0.8], [0.0, 1.0]])
    found = nearest_ratios(source, ratios, source, neighbours=2)
    np.testing.assert_allclose(found, [[0.75, 0.25]] * 2 + [[0.1, 0.9]] * 2)
    everything = nearest_ratios(source, ratios, source, neighbours=99)
    np.testing.assert_allclose(everything, np.tile(ratios.mean(0), (4, 1)))


# Independent references ----------------------------------------------------------------------------


def test_logistic_regression_is_the_minimum_of_its_objective() -> None:
    z, ratios = features_and_ratios(4, images=15, classes=3)
    wanted = torch.tensor(ratios)
    inputs = torch.tensor(z)
    weights = torch.zeros(z.shape[1], 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias],
        max_iter=500,
        tolerance_grad=1e-11,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def loss() -> torch.Tensor:
        solver.zero_grad()
        fit = -(wanted * (inputs @ weights + bias).log_softmax(1)).sum(1).mean()
        value = fit + 0.05 / 2 * (weights**2).sum()
        value.backward()
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    expected = (inputs @ weights + bias).softmax(1).detach().numpy()
    np.testing.assert_allclose(logistic_ratios(z, ratios, z, l2=0.05), expected, atol=1e-6)


def test_ridge_regression_is_least_squares_with_the_penalty_as_rows() -> None:
    z, ratios = features_and_ratios(5)
    ratios = 0.7 * 0.25 + 0.3 * ratios
    n, d = z.shape
    penalty = np.sqrt(n * 0.3) * np.eye(d)
    centred = np.vstack([ratios - ratios.mean(0), np.zeros((d, 4))])
    weights = np.linalg.lstsq(np.vstack([z, penalty]), centred, rcond=None)[0]
    expected = ratios.mean(0) + z @ weights
    assert expected.min() > 0  # so that nothing has to be moved to the simplex
    np.testing.assert_allclose(ridge_ratios(z, ratios, z, l2=0.3), expected, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), classes=st.sampled_from([2, 3, 19]), spread=st.floats(0.01, 10))
def test_the_nearest_point_of_the_simplex_is_a_shift_cut_at_0(
    seed: int, classes: int, spread: float
) -> None:
    rows = np.random.default_rng(seed).normal(size=(5, classes)) * spread
    for row, found in zip(rows, to_simplex(rows), strict=True):
        low, high = row.min() - 1, row.max()
        for _ in range(200):  # bisection for the shift
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(row - middle, 0).sum() > 1 else (low, middle)
        np.testing.assert_allclose(found, np.maximum(row - low, 0), atol=1e-9 * spread)


def test_a_point_of_the_simplex_stays_where_it_is() -> None:
    _, ratios = features_and_ratios(6)
    np.testing.assert_allclose(to_simplex(ratios), ratios, atol=1e-12)


# Whatever comes in ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    seed=st.integers(0, 999),
    classes=st.sampled_from([2, 5, 19]),
    images=st.integers(1, 12),
    asked=st.integers(1, 6),
    features=st.sampled_from([1, 4, 32]),
)
def test_answers_are_ratios_and_a_class_no_source_image_shows_gets_none(
    method: Any, seed: int, classes: int, images: int, asked: int, features: int
) -> None:
    rng = np.random.default_rng(seed)
    ratios = rng.dirichlet(np.ones(classes), images)
    ratios[:, -1] = 0
    ratios /= ratios.sum(1, keepdims=True)
    source, target = rng.normal(size=(images, features)), rng.normal(size=(asked, features)) * 100
    found = image_level_ratios(method, source, ratios, target)
    assert found.shape == (asked, classes)
    assert (found >= 0).all()
    assert (found[:, -1] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


@EACH_METHOD
def test_shift_and_stretch_of_a_domain_count_for_nothing(method: Any) -> None:
    source, ratios = features_and_ratios(7)
    target = features_and_ratios(8)[0][:20]
    expected = image_level_ratios(method, source, ratios, target)
    found = image_level_ratios(method, rescaled(source, 1), ratios, rescaled(target, 2))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@EACH_METHOD
def test_the_order_of_images_counts_for_nothing(method: Any) -> None:
    source, ratios = features_and_ratios(7)
    target = features_and_ratios(8)[0][:20]
    expected = image_level_ratios(method, source, ratios, target)
    ours, theirs = np.random.default_rng(0).permutation(40), np.arange(20)[::-1]
    found = image_level_ratios(method, source[ours], ratios[ours], target[theirs])
    np.testing.assert_allclose(found, expected[theirs], atol=1e-6)


@EACH_METHOD
def test_the_same_call_gives_the_same_bits(method: Any) -> None:
    source, ratios = features_and_ratios(7)
    first = image_level_ratios(method, source, ratios, source)
    assert (image_level_ratios(method, source, ratios, source) == first).all()


@EACH_METHOD
def test_a_single_source_image_answers_for_all(method: Any) -> None:
    ratios = np.array([[0.7, 0.0, 0.3]])
    target = np.random.default_rng(0).normal(size=(4, 3))
    found = image_level_ratios(method, np.ones((1, 3)), ratios, target)
    np.testing.assert_allclose(found, np.tile(ratios, (4, 1)), atol=1e-9)


@EACH_METHOD
def test_features_that_do_not_vary_leave_the_mean(method: Any) -> None:
    _, ratios = features_and_ratios(9)
    flat = np.full((40, 3), 0.1)
    found = image_level_ratios(method, flat, ratios, flat * 5, neighbours=40)
    np.testing.assert_allclose(found, np.tile(ratios.mean(0), (40, 1)), atol=1e-6)


@pytest.mark.parametrize("fit", [logistic_ratios, ridge_ratios])
def test_a_heavy_penalty_leaves_the_mean(fit: Any) -> None:
    source, ratios = features_and_ratios(7)
    np.testing.assert_allclose(fit(source, ratios, source, 1e9), [ratios.mean(0)] * 40, atol=1e-6)


@EACH_METHOD
@pytest.mark.parametrize(
    ("source", "ratios", "target", "message"),
    [
        (np.ones((3, 2)), np.ones((2, 2)) / 2, np.ones((3, 2)), "do not match"),
        (np.ones((3, 2)), np.ones((3, 2)) / 2, np.ones((3, 4)), "do not match"),
        (np.ones((0, 2)), np.ones((0, 2)), np.ones((3, 2)), "0 source and 3 target images"),
        (np.ones((3, 2)), np.ones((3, 2)) / 2, np.ones((0, 2)), "3 source and 0 target images"),
        (np.full((3, 2), np.nan), np.ones((3, 2)) / 2, np.ones((3, 2)), "not finite"),
        (np.ones((3, 2)), np.ones((3, 2)) / 2, np.full((3, 2), np.inf), "not finite"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(
    method: Any, source: Any, ratios: Any, target: Any, message: str
) -> None:
    with pytest.raises(PriorError, match=message):
        image_level_ratios(method, source, ratios, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nearest", "neighbours": 0}, "neighbours is 0"),
        ({"method": "logistic", "l2": 0.0}, "l2 is 0"),
        ({"method": "ridge", "l2": -1.0}, "l2 is -1"),
        ({"method": "ridge", "l2": float("nan")}, "l2 is nan"),
    ],
)
def test_settings_that_leave_no_answer_are_refused(settings: Any, message: str) -> None:
    source, ratios = features_and_ratios(7)
    with pytest.raises(PriorError, match=message):
        image_level_ratios(source=source, ratios=ratios, target=source, **settings)


def test_the_prior_holds_each_image_and_their_mean() -> None:
    ratios = np.array([[0.7, 0.3], [0.5, 0.5], [0.9, 0.1]])
    places = [("a", 4), ("a", 5), ("b", 0)]
    made = from_image_level(("background", "disk"), ratios, places, "ridge")
    assert made.ratio == pytest.approx((0.7, 0.3))
    assert made.supervision == ("source_labels",)
    assert "ridge" in made.how
    np.testing.assert_allclose(made.table(places).numpy(), ratios, atol=1e-7)
    with pytest.raises(PriorError, match="3 ratios for 2 images"):
        from_image_level(("background", "disk"), ratios, places[:2], "ridge")


# Rendered images -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_and_true(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """Each method's ratios of the inverted images after a short training, and the true ones."""
    home = tmp_path_factory.mktemp("images")
    names = [f"c{number}" for number in range(6)]
    for number, name in enumerate(names):
        for folder, inverted in (("s", False), ("t", True)):
            image, label = make_case(number + 100 * inverted, inverted)
            write_nifti(home / folder / "images" / f"{name}.nii.gz", image)
            write_nifti(home / folder / "labels" / f"{name}.nii.gz", label * np.uint8(10))
    raw = recipe(home)
    raw["prior"] = {name: {"kind": "image_level", "method": name} for name in METHODS}
    raw["prior"]["constant"] = {"kind": "source_labels"}
    raw["adapt"] = {}
    source = card("source", "s", {"train": names})
    target = card("target", "t", {"adapt": names, "test": names[:1]})
    for name, content in (("source", source), ("target", target), ("tiny", raw)):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(content))
    loaded = load_recipe(str(home / "tiny.yaml"), [f"data.root={home}", "compute.device=cpu"])
    run = home / "run"
    pipeline.run(loaded, run, until="prior")
    domains = Domains(loaded, run)
    store = domains.store(domains.target, "adapt", True)
    tables = {
        name: Prior.load(run / f"prior-{name}").table(store.places()).numpy()
        for name in raw["prior"]
    }
    return tables, label_table(store.labels, 3)


@EACH_METHOD
def test_ratios_of_single_images_are_nearer_to_the_truth_than_one_for_all(
    found_and_true: tuple[dict[str, Any], Any], method: str
) -> None:
    tables, truth = found_and_true

    def distance(name: str) -> float:
        return float(np.abs(tables[name] - truth).sum(1).mean())

    assert distance(method) < 0.9 * distance("constant")


def test_the_world_is_one_in_which_sizes_differ(found_and_true: tuple[Any, Any]) -> None:
    """Without this, any method could pass the test above."""
    _, truth = found_and_true
    assert np.ptp(truth[:, 1]) > 0.05
