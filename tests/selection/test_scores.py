"""Label-free scores: pure functions of predictions that are best for the best model."""

from __future__ import annotations

import inspect
import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from uda import selection
from uda.selection import (
    Scores,
    balanced_pixels,
    ensemble_agreement,
    mean_entropy,
    mean_mutual_information,
    neighbourhood_density,
    nuclear_norm,
    perturbation_consistency,
    ratio_distance,
    soft_dice_confidence,
    structure_dice,
)

CLASSES, STRUCTURES = 3, (1, 2)


def sure(labels: Tensor, logit: float = 20.0) -> Tensor:
    """Log-probabilities of a network that predicts these labels with high confidence."""
    return (functional.one_hot(labels, CLASSES).movedim(-1, 1) * logit).log_softmax(1)


def scene() -> tuple[Tensor, Tensor]:
    """Labels of four images of two cases, each with a square of both structures; and the cases."""
    labels = torch.zeros(4, 8, 8, dtype=torch.long)
    labels[:, 1:4, 1:4] = 1
    labels[:, 5:8, 4:8] = 2
    return labels, torch.tensor([0, 0, 1, 1])


def test_dice_takes_the_images_of_a_case_together_and_then_the_mean_over_cases() -> None:
    first = torch.tensor([[[1, 1, 0, 0]], [[1, 0, 0, 0]], [[1, 0, 0, 0]]])
    second = torch.tensor([[[1, 0, 0, 0]], [[1, 1, 0, 0]], [[0, 1, 0, 0]]])
    case = torch.tensor([0, 0, 1])
    dice = structure_dice(first, second, case, 2, (1,))
    # case 0: 2·2 / (3 + 3); case 1: nothing shared
    assert dice.tolist() == pytest.approx([(2 / 3 + 0) / 2])


def test_a_case_that_shows_a_structure_in_neither_map_does_not_count_for_it() -> None:
    labels, case = scene()
    labels[2:] = 0
    assert structure_dice(labels, labels, case, CLASSES, STRUCTURES).tolist() == [1.0, 1.0]


def test_a_structure_that_is_nowhere_has_dice_0_and_not_1() -> None:
    labels, case = scene()
    labels[labels == 2] = 0
    assert structure_dice(labels, labels, case, CLASSES, STRUCTURES).tolist() == [1.0, 0.0]


def test_pixels_of_unknown_label_take_no_part_in_dice() -> None:
    labels, case = scene()
    other = labels.clone()
    other[:, :, :4] = -1
    other[:, :, 4:][labels[:, :, 4:] == 1] = 2
    dice = structure_dice(labels, other, case, CLASSES, STRUCTURES)
    assert dice[1] == 1.0


def test_a_collapsed_network_is_not_consistent() -> None:
    labels, case = scene()
    lost = torch.zeros_like(labels)
    assert perturbation_consistency(labels, [labels], case, CLASSES, STRUCTURES) == 1.0
    assert perturbation_consistency(lost, [lost], case, CLASSES, STRUCTURES) == 0.0


def test_consistency_is_the_mean_over_perturbations_and_falls_with_them() -> None:
    labels, case = scene()
    moved = labels.roll(1, -1)
    both = perturbation_consistency(labels, [labels, moved], case, CLASSES, STRUCTURES)
    worst = perturbation_consistency(labels, [moved], case, CLASSES, STRUCTURES)
    assert worst < both < 1.0
    assert both == pytest.approx((1 + worst) / 2)


def test_consistency_without_perturbations_is_unknown() -> None:
    labels, case = scene()
    assert math.isnan(perturbation_consistency(labels, [], case, CLASSES, STRUCTURES))


def test_the_distance_to_the_prior_is_zero_at_the_prior_and_grows_with_a_collapse() -> None:
    labels, _ = scene()
    ratio = functional.one_hot(labels, CLASSES).double().mean((0, 1, 2))
    assert ratio_distance(sure(labels), ratio) == pytest.approx(0, abs=1e-5)
    assert ratio_distance(sure(torch.zeros_like(labels)), ratio) > 1


def test_entropy_falls_through_a_collapse_and_mutual_information_does_not() -> None:
    labels, _ = scene()
    good, lost = sure(labels, 3.0), sure(torch.zeros_like(labels), 20.0)
    assert mean_entropy(lost) < mean_entropy(good)
    assert mean_mutual_information(lost) < mean_mutual_information(good)


def test_mutual_information_is_the_entropy_of_the_marginal_for_a_sure_network() -> None:
    labels, _ = scene()
    ratio = functional.one_hot(labels, CLASSES).double().mean((0, 1, 2))
    entropy = float(-(ratio * ratio.log()).sum())
    assert mean_mutual_information(sure(labels, 50.0)) == pytest.approx(entropy, abs=1e-4)


def test_agreement_is_with_the_class_that_the_mean_finds() -> None:
    labels, case = scene()
    lost = torch.zeros_like(labels)
    mean = (sure(labels).exp() * 2 + sure(lost).exp()) / 3
    assert ensemble_agreement(labels, mean, case, CLASSES, STRUCTURES) == 1.0
    assert ensemble_agreement(lost, mean, case, CLASSES, STRUCTURES) == 0.0


def test_soft_dice_confidence_is_the_formula() -> None:
    labels = torch.tensor([[[1, 1, 0, 0]]])
    p = torch.tensor([0.9, 0.6, 0.2, 0.1])
    log_p = torch.stack([1 - p, p])[None, :, None].log()
    expected = 2 * (0.9 + 0.6) / (p.sum() + 2)
    value = soft_dice_confidence(labels, log_p, torch.zeros(1, dtype=torch.long), (1,))
    assert value == pytest.approx(float(expected))


def test_nuclear_norm_is_one_for_balanced_sure_pixels_and_falls_with_diversity_and_sureness() -> (
    None
):
    balanced = sure(torch.arange(3).repeat(5)[:, None, None], 50.0)[..., 0, 0]
    collapsed = sure(torch.zeros(15, 1, 1, dtype=torch.long), 50.0)[..., 0, 0]
    unsure = torch.full((15, 3), 1 / 3).log()
    assert nuclear_norm(balanced) == pytest.approx(1, abs=1e-5)
    assert nuclear_norm(collapsed) == pytest.approx(1 / math.sqrt(3), abs=1e-5)
    assert nuclear_norm(unsure) < nuclear_norm(collapsed)


def test_density_is_that_of_a_pixels_equals() -> None:
    """With two clusters of m sure pixels each, a pixel's neighbours are the m - 1 others of its own."""
    labels = torch.arange(2).repeat_interleave(10)
    log_p = sure(labels[:, None, None], 50.0)[..., 0, 0]
    assert neighbourhood_density(log_p) == pytest.approx(math.log(9), abs=1e-3)


def test_density_does_not_count_a_pixel_as_its_own_neighbour() -> None:
    log_p = sure(torch.arange(2)[:, None, None], 50.0)[..., 0, 0]
    assert neighbourhood_density(log_p) == pytest.approx(0, abs=1e-6)


def test_the_balanced_sample_has_as_many_pixels_of_each_class_as_there_are_up_to_the_limit() -> (
    None
):
    labels, _ = scene()
    chosen = balanced_pixels(labels, CLASSES, 20, seed=0)
    assert labels.flatten()[chosen].bincount(minlength=CLASSES).tolist() == [20, 20, 20]
    few = balanced_pixels(labels, CLASSES, 10_000, seed=0)
    assert len(few) == labels.numel()
    assert len(few.unique()) == len(few)


def test_the_balanced_sample_is_a_function_of_its_seed() -> None:
    labels, _ = scene()
    same = [balanced_pixels(labels, CLASSES, 5, seed=3).tolist() for _ in range(2)]
    assert same[0] == same[1] != balanced_pixels(labels, CLASSES, 5, seed=4).tolist()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 30))
def test_every_score_of_finite_predictions_is_finite_and_in_its_range(
    seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_p = (torch.randn(4, CLASSES, 6, 6, generator=generator) * scale).log_softmax(1)
    labels, case = log_p.argmax(1), torch.tensor([0, 1, 1, 2])
    pixels = log_p.movedim(1, -1).reshape(-1, CLASSES)
    prior = torch.tensor([0.8, 0.15, 0.05])
    assert 0 <= mean_entropy(log_p) <= 1 + 1e-6
    assert ratio_distance(log_p, prior) >= -1e-6
    assert -1e-5 <= mean_mutual_information(log_p) <= math.log(CLASSES) + 1e-5
    assert 0 <= ensemble_agreement(labels, log_p.exp(), case, CLASSES, STRUCTURES) <= 1
    assert 0 <= neighbourhood_density(pixels) <= math.log(len(pixels))
    assert 0 < nuclear_norm(pixels) <= 1 + 1e-5
    assert 0 <= soft_dice_confidence(labels, log_p, case, STRUCTURES) <= 1 + 1e-6


def test_merit_turns_distances_and_puts_what_is_not_finite_last() -> None:
    one = Scores(0.3, 0.5, 1.0, math.nan, 0.7, 2.0, 0.9, math.inf)
    assert one.merit("ratio_distance") == -0.5
    assert one.merit("entropy") == -0.3
    assert one.merit("agreement") == 0.7
    assert one.merit("consistency") == one.merit("confidence") == -math.inf


def test_no_score_takes_anything_that_could_be_a_reference() -> None:
    """What a score is given are predictions; the words for references do not occur."""
    scores = [one.metadata["function"] for one in fields(Scores)]
    assert mean_entropy in scores
    allowed = {
        "log_p", "labels", "perturbed", "case", "classes", "structures", "mean", "expected",
        "temperature", "first", "second", "sample", "views", "guard", "scores", "names",
        "each", "seed", "model", "images", "fabric", "source_log_p", "held_out", "stacks", "before", "rule",
    }  # fmt: skip
    for thing in [*scores, *(getattr(selection, name) for name in selection.__all__)]:
        if inspect.isfunction(thing):
            assert set(inspect.signature(thing).parameters) <= allowed, thing
