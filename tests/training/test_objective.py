"""The objective: a weighted, ramped sum of terms, each with the prior of its own images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from uda import losses
from uda.config.terms import CrossEntropyTerm, Term
from uda.errors import ConfigError, PriorError
from uda.training.objective import Objective, ramp
from uda.training.parts import PriorTensors
from uda.types import Batch, SourceBatch, TargetBatch

PRIOR = torch.tensor([[0.5, 0.3, 0.2], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
KNOWN = PriorTensors(ratio=PRIOR)


def term(name: str, **settings: Any) -> Term:
    made: Term = TypeAdapter(Term).validate_python({"term": name, **settings})
    return made


def ratio(**settings: Any) -> Term:
    return term("class_ratio_kl", **{"direction": "prior_to_prediction", **settings})


def draw() -> tuple[Batch, torch.Tensor, torch.Tensor]:
    """A batch of both domains (target images 2 and 0) and the logits of each."""
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(2, 1, 4, 4)
    label = torch.randint(3, (2, 4, 4), generator=generator)
    batch = Batch(SourceBatch(image, label), TargetBatch(image, torch.tensor([2, 0])))
    logits = torch.randn(2, 2, 3, 4, 4, generator=generator)
    return batch, logits[0], logits[1]


@pytest.mark.parametrize(
    ("shape", "quarter", "half"),
    [
        ("linear", 0.25, 0.5),
        ("cosine", (1 - math.sqrt(0.5)) / 2, 0.5),
        ("sigmoid", math.exp(-5 * 0.75**2), math.exp(-1.25)),
        ("constant", 1.0, 1.0),
    ],
)
def test_a_ramp_rises_over_its_steps_and_then_stays(
    shape: str, quarter: float, half: float
) -> None:
    rising = term("entropy", weight=3.0, ramp=shape, ramp_steps=20)
    assert ramp(rising, 5) == pytest.approx(3 * quarter)
    assert ramp(rising, 10) == pytest.approx(3 * half)
    assert ramp(rising, 20) == ramp(rising, 1000) == 3


@pytest.mark.parametrize(
    ("shape", "start"), [("linear", 0), ("cosine", 0), ("sigmoid", math.exp(-5)), ("constant", 1)]
)
def test_a_ramp_starts_at_its_lowest(shape: str, start: float) -> None:
    assert ramp(term("entropy", ramp=shape, ramp_steps=4), 0) == pytest.approx(start)


@pytest.mark.parametrize("shape", ["linear", "cosine", "sigmoid", "constant"])
def test_a_ramp_over_0_steps_is_at_full_weight_at_once(shape: str) -> None:
    assert ramp(term("entropy", weight=2.0, ramp=shape, ramp_steps=0), 0) == 2


def test_loss_is_the_weighted_sum_and_values_are_bare() -> None:
    batch, source, target = draw()
    terms = [
        term("cross_entropy", weight=2.0),
        term("dice"),
        term("entropy", weight=0.5),
        ratio(weight=3.0),
    ]
    loss, values = Objective(terms, KNOWN)(batch, source, target, step=0)
    assert batch.source is not None
    expected = {
        "cross_entropy": losses.cross_entropy(source, batch.source.label),
        "dice": losses.dice(source, batch.source.label),
        "entropy": losses.entropy(target),
        "class_ratio_kl": losses.class_ratio_kl(target, PRIOR[[2, 0]], "prior_to_prediction"),
    }
    assert {k: float(v) for k, v in values.items()} == {k: float(v) for k, v in expected.items()}
    weights = (2.0, 1.0, 0.5, 3.0)
    total = sum(w * float(v) for w, v in zip(weights, expected.values(), strict=True))
    assert float(loss) == pytest.approx(total, rel=1e-6)


def test_values_carry_no_gradient_and_the_loss_does() -> None:
    batch, source, target = draw()
    target.requires_grad_()
    loss, values = Objective([term("entropy")])(batch, source, target, step=0)
    assert loss.requires_grad
    assert not values["entropy"].requires_grad


def test_a_term_at_the_foot_of_its_ramp_is_shown_but_not_felt() -> None:
    batch, source, target = draw()
    target.requires_grad_()
    rising = Objective([term("entropy", ramp="linear", ramp_steps=10)])
    loss, values = rising(batch, source, target, step=0)
    (gradient,) = torch.autograd.grad(loss, target)
    assert float(values["entropy"]) > 0
    assert bool((gradient == 0).all())


def test_settings_of_a_term_reach_its_loss() -> None:
    batch, source, target = draw()
    settings = {"over": "batch", "kind": "max_normalized", "power": 5.0, "eps": 1e-3}
    made = ratio(**settings, direction="prediction_to_prior")
    _, values = Objective([made], KNOWN)(batch, source, target, step=0)
    expected = losses.class_ratio_kl(
        target, PRIOR[[2, 0]], "prediction_to_prior", "batch", "max_normalized", 5.0, 1e-3
    )
    assert float(values["class_ratio_kl"]) == float(expected)


def test_terms_of_one_name_are_numbered_by_their_place() -> None:
    batch, source, target = draw()
    terms = [term("entropy"), ratio(), term("entropy", normalized=False)]
    objective = Objective(terms, KNOWN)
    _, values = objective(batch, source, target, step=0)
    assert objective.names == list(values) == ["entropy_0", "class_ratio_kl", "entropy_2"]
    assert float(values["entropy_2"]) == pytest.approx(float(values["entropy_0"]) * math.log(3))


@pytest.mark.parametrize("needy", [ratio(), term("entropy", class_weights="inverse_ratio")])
def test_a_term_without_its_prior_is_refused(needy: Term) -> None:
    with pytest.raises(PriorError, match="needs a prior that knows class ratios"):
        Objective([needy])


def test_entropy_weights_are_the_inverse_of_the_mean_prior_and_sum_to_1() -> None:
    batch, source, target = draw()
    weighted = term("entropy", class_weights="inverse_ratio", normalized=False)
    objective = Objective([weighted], KNOWN)
    mean = [0.5, 0.2, 0.3]
    total = sum(1 / m for m in mean)
    expected = torch.tensor([1 / m / total for m in mean])
    _, values = objective(batch, source, target, step=0)
    reference = losses.entropy(target, expected, normalized=False)
    assert float(values["entropy"]) == pytest.approx(float(reference), rel=1e-5)


def test_plain_entropy_is_not_weighted_by_a_prior_that_is_there() -> None:
    batch, source, target = draw()
    _, values = Objective([term("entropy"), ratio()], KNOWN)(batch, source, target, step=0)
    assert float(values["entropy"]) == float(losses.entropy(target))


def test_a_class_of_ratio_0_has_no_entropy_weight() -> None:
    weighted = term("entropy", class_weights="inverse_ratio")
    with pytest.raises(PriorError, match="ratio 0") as caught:
        Objective([weighted], PriorTensors(ratio=torch.tensor([[0.5, 0.5, 0.0]])))
    assert "uniform" in str(caught.value)


def test_a_class_that_some_images_lack_has_an_entropy_weight() -> None:
    batch, source, target = draw()
    weighted = term("entropy", class_weights="inverse_ratio", normalized=False)
    table = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.25, 0.25]])
    _, values = Objective([weighted], PriorTensors(ratio=table))(batch, source, target, step=0)
    expected = losses.entropy(target, torch.tensor([0.2, 0.4, 0.4]), normalized=False)
    assert float(values["entropy"]) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("name", ["cross_entropy", "entropy"])
def test_a_term_of_a_domain_that_is_not_read_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="does not have"):
        Objective([term(name)])(Batch(), None, None, step=0)


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(ConfigError, match="no term"):
        Objective([])


def test_a_source_objective_needs_no_target() -> None:
    batch, source, _ = draw()
    loss, _ = Objective([CrossEntropyTerm()])(Batch(source=batch.source), source, None, step=0)
    assert float(loss) > 0
