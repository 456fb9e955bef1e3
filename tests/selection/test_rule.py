"""Safety gates and the selection rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from uda.config.fields import WHOLE
from uda.config.guard import IMAGES, SLICES, Guard, Rule
from uda.config.guard import SCORES as KNOWN
from uda.config.loading import parse
from uda.errors import ConfigError
from uda.selection import (
    RULE,
    SCORES,
    Choice,
    Expected,
    Scores,
    Views,
    choose,
    faults,
    mean_ranks,
    needed,
    smoothed,
    stale,
)

LOW = Scores(0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)
HIGH = replace(LOW, **{name: 0.1 if name == "ratio_distance" else 0.9 for name in RULE})
GUARD = Guard(factor=3, overlap=0.5)


def labels_of(first: int, second: int) -> Tensor:
    """Two images of 100 pixels with ``first`` and ``second`` pixels of the two structures."""
    row = torch.zeros(100, dtype=torch.long)
    row[:first], row[50 : 50 + second] = 1, 2
    return row.view(10, 10).expand(2, -1, -1).clone()


def views_of(labels: Tensor) -> Views:
    log_p = (functional.one_hot(labels, 3).movedim(-1, 1) * 20.0).log_softmax(1)
    return Views(log_p, lambda family: (labels, labels))


def expected(first: int = 10, second: int = 20, ratio: tuple[float, ...] | None = None) -> Expected:
    """Source model and AdaBN both find these numbers of pixels; so does the prior, unless ``ratio`` is given."""
    before = labels_of(first, second)
    prior = torch.tensor(ratio or (1 - (first + second) / 100, first / 100, second / 100))
    return Expected(
        ("background", "disk", "ring"), (1, 2), prior, before, before, torch.tensor([0, 1])
    )


def test_a_model_as_expected_is_safe() -> None:
    assert faults(views_of(labels_of(12, 18)), expected(), GUARD) == []


def test_a_lost_structure_is_named() -> None:
    found = faults(views_of(labels_of(0, 20)), expected(), GUARD)
    assert found[0] == "disk is not found any more"


@pytest.mark.parametrize(("count", "safe"), [(3, False), (4, True), (29, True), (31, False)])
def test_a_structures_ratio_may_differ_by_the_factor_and_no_more(count: int, safe: bool) -> None:
    guard = GUARD.model_copy(update={"overlap": 0.0})
    found = faults(views_of(labels_of(count, 20)), expected(), guard)
    assert (not found) == safe
    if found:
        assert found == [f"disk takes {count} % of the pixels, expected 3.33 to 30 %"]


def test_what_the_prior_and_adabn_say_are_both_as_expected() -> None:
    """The prior is 2 %, AdaBN finds 10 %: safe from a third of 2 % to three times 10 %."""
    expectation = expected(ratio=(0.78, 0.02, 0.2))
    guard = GUARD.model_copy(update={"overlap": 0.0})
    assert faults(views_of(labels_of(1, 20)), expectation, guard) == []
    assert faults(views_of(labels_of(29, 20)), expectation, guard) == []
    assert faults(views_of(labels_of(31, 20)), expectation, guard) != []


def test_a_structure_that_was_never_found_need_not_be_found() -> None:
    assert faults(views_of(labels_of(0, 20)), expected(0, 20, (0.8, 0.0, 0.2)), GUARD) == []


def test_a_structure_elsewhere_has_drifted() -> None:
    moved = labels_of(10, 20).flip(1)
    found = faults(views_of(moved), expected(), GUARD)
    assert (
        "disk overlaps by Dice 0.000 with where it was before adaptation, expected 0.500 or more"
        in found
    )


def test_where_the_two_models_before_adaptation_differ_a_structure_may_move() -> None:
    """Source model and AdaBN share half of the disk (Dice 0.5), so half of that Dice is enough."""
    expectation = replace(expected(), adabn=labels_of(0, 20))
    expectation.adabn.view(2, 100)[:, 5:15] = 1
    moved = labels_of(0, 20)
    moved.view(2, 100)[:, 12:22] = 1  # Dice 0.3 with AdaBN's, 0 with the source model's
    assert faults(views_of(moved), expectation, GUARD) == []
    found = faults(views_of(moved), expectation, GUARD.model_copy(update={"overlap": 0.7}))
    assert found == [
        "disk overlaps by Dice 0.300 with where it was before adaptation, expected 0.350 or more"
    ]


def test_it_is_enough_to_agree_with_the_source_model_or_with_adabn() -> None:
    moved = labels_of(10, 20).flip(1)
    expectation = replace(expected(), adabn=moved)
    assert faults(views_of(moved), expectation, GUARD) == []
    assert faults(views_of(labels_of(10, 20)), expectation, GUARD) == []


def test_predictions_that_are_no_numbers_are_unsafe() -> None:
    views = views_of(labels_of(10, 20))
    views.log_p[0, 0, 0, 0] = torch.nan
    assert faults(views, expected(), GUARD) == ["its predictions are not finite"]


def test_the_best_combined_rank_is_chosen() -> None:
    choice = choose({"source": LOW, "adabn": LOW, "000010": HIGH, "000020": LOW})
    assert (choice.name, choice.fallback) == ("000010", False)


def test_nothing_better_than_before_falls_back_to_the_better_of_the_two() -> None:
    assert choose({"source": LOW, "adabn": HIGH, "000010": LOW}).name == "adabn"
    assert choose({"source": HIGH, "adabn": LOW, "000010": LOW}).name == "source"
    assert choose({"source": HIGH, "adabn": LOW}).fallback


def test_of_equals_the_one_before_adaptation_is_kept() -> None:
    assert choose({"000010": HIGH, "source": LOW, "adabn": HIGH}).name == "adabn"


def test_equal_scores_share_their_rank() -> None:
    ranks = mean_ranks({"a": LOW, "b": LOW, "c": HIGH})
    assert ranks == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_the_entropy_has_no_say() -> None:
    assert choose({"source": LOW, "adabn": LOW, "000010": replace(LOW, entropy=0.0)}).fallback


def test_smoothing_is_the_mean_with_the_checkpoint_before() -> None:
    trend = smoothed([LOW, HIGH, HIGH])
    assert [one.consistency for one in trend] == pytest.approx([0.5, 0.7, 0.9])
    assert smoothed([]) == []


def test_how_long_nothing_was_better() -> None:
    assert stale([LOW, HIGH, LOW, LOW]) == 2
    assert stale([LOW, HIGH]) == 0


def against(adabn: Scores, checkpoint: Scores, rule: Rule, others: int = 0) -> Choice:
    """AdaBN and a checkpoint, between ``others`` that are worse than both."""
    worse = replace(LOW, consistency=0.0, nuclear_norm=0.0, ratio_distance=9.0)
    more = {f"{number:06d}": worse for number in range(1, others + 1)}
    return choose({"source": worse, "adabn": adabn, **more, "000100": checkpoint}, rule)


ADABN = replace(LOW, ratio_distance=0.01, held_out=0.8, largest_component=0.9)
BETTER = replace(ADABN, consistency=0.9, nuclear_norm=0.9, held_out=0.85)


def test_by_ranks_alone_a_checkpoint_need_not_be_better_by_anything_else() -> None:
    choice = against(ADABN, replace(BETTER, held_out=0.1, ratio_distance=5.0), Rule())
    assert (choice.name, choice.refused) == ("000100", {})


@pytest.mark.parametrize(
    ("changed", "most", "kept"),
    [
        ({}, 1.0, "adabn"),  # its largest component is AdaBN's: not better
        ({"largest_component": 0.95}, 1.0, "000100"),
        ({"largest_component": 0.5}, 0.5, "000100"),
        ({"largest_component": 0.95, "held_out": 0.8}, 1.0, "adabn"),
        ({"largest_component": 0.5, "held_out": 0.8}, 0.5, "adabn"),
    ],
)
def test_a_checkpoint_has_to_be_better_than_adabn_by_enough_of_the_scores(
    changed: dict[str, float], most: float, kept: str
) -> None:
    rule = Rule(better={"held_out": 0, "largest_component": 0}, most=most)
    assert against(ADABN, replace(BETTER, **changed), rule).name == kept


def test_what_is_missing_is_told() -> None:
    rule = Rule(better={"held_out": 0.1, "largest_component": 0})
    told = against(ADABN, BETTER, rule).refused
    assert told["000100"] == (
        "it is not enough better than AdaBN by held_out (+0.05, expected over +0.1), "
        "largest_component (+0, expected over +0)"
    )
    assert set(told) == {"source", "000100"}


@pytest.mark.parametrize(
    ("gain", "kept"), [(0.04, "000100"), (0.06, "adabn"), (-0.01, "000100"), (0.0, "000100")]
)
def test_a_gain_is_in_units_of_the_score(gain: float, kept: str) -> None:
    """The checkpoint's held-out consistency is 0.05 above AdaBN's."""
    assert against(ADABN, BETTER, Rule(better={"held_out": gain})).name == kept


@pytest.mark.parametrize(("component", "kept"), [(0.895, "000100"), (0.885, "adabn")])
def test_with_a_negative_gain_a_checkpoint_may_be_a_little_worse(
    component: float, kept: str
) -> None:
    changed = replace(BETTER, largest_component=component)
    assert against(ADABN, changed, Rule(better={"largest_component": -0.01})).name == kept


def test_of_scores_that_should_be_small_less_is_a_gain() -> None:
    nearer = replace(BETTER, ratio_distance=0.004)
    assert against(ADABN, nearer, Rule(better={"ratio_distance": 0.005})).name == "000100"
    assert against(ADABN, nearer, Rule(better={"ratio_distance": 0.007})).name == "adabn"


def test_a_score_that_nobody_knows_takes_no_part_in_the_comparison() -> None:
    rule = Rule(better={"held_out": 0, "continuity": 0})  # photographs have no neighbouring slices
    assert against(ADABN, BETTER, rule).name == "000100"
    unknown = replace(BETTER, held_out=float("nan"))
    assert against(ADABN, unknown, rule).name == "adabn"


@pytest.mark.parametrize(
    ("score", "value"), [("nuclear_norm", 0.5), ("continuity", 0.5), ("before_agreement", 0.5)]
)
def test_on_slices_a_good_rank_does_not_replace_what_one_score_says_against(
    score: str, value: float
) -> None:
    """All else is better than AdaBN's: the classes, the shapes across slices, or the distance from before is not."""
    some = dict.fromkeys(needed(SLICES), 0.8)
    adabn = replace(LOW, **some | {"before_agreement": 0.95})
    better = replace(adabn, **dict.fromkeys(SLICES.ranked, 0.9))
    assert against(adabn, better, SLICES).name == "000100"
    assert against(adabn, replace(better, **{score: value}), SLICES).name == "adabn"


@pytest.mark.parametrize(("margin", "kept"), [(0.1, "000100"), (0.25, "000100"), (0.3, "adabn")])
def test_a_margin_is_a_share_of_the_distance_between_the_ranks(margin: float, kept: str) -> None:
    """Five candidates: the checkpoint is first, AdaBN second, a quarter of the distance below."""
    choice = against(ADABN, BETTER, Rule(margin=margin), others=2)
    assert choice.name == kept
    if kept == "adabn":
        told = "its rank is 0.25 of the ranks above AdaBN's, expected 0.30 or more"
        assert choice.refused["000100"] == told


@pytest.mark.parametrize(
    ("factor", "floor", "distance", "kept"),
    [
        (2.0, 0.0, 0.02, "000100"),
        (2.0, 0.0, 0.021, "adabn"),
        (0.0, 0.021, 0.021, "000100"),
        (1.0, 0.0, float("nan"), "adabn"),
    ],
)
def test_the_class_ratio_may_not_be_much_farther_from_the_expected_one_than_adabns(
    factor: float, floor: float, distance: float, kept: str
) -> None:
    rule = Rule(distance=factor, distance_floor=floor)
    assert against(ADABN, replace(BETTER, ratio_distance=distance), rule).name == kept


def test_without_an_expected_class_ratio_no_distance_is_asked_for() -> None:
    unknown = {"ratio_distance": float("nan")}
    rule = Rule(distance=1.0)
    assert against(replace(ADABN, **unknown), replace(BETTER, **unknown), rule).name == "000100"


@pytest.mark.parametrize(
    ("region", "floor", "agreement", "kept"),
    [
        (4.0, 0.0, 0.81, "000100"),  # AdaBN is 0.05 away
        (4.0, 0.0, 0.79, "adabn"),
        (1.0, 0.2, 0.81, "000100"),
        (1.0, 0.2, 0.79, "adabn"),
        (1.0, 0.0, float("nan"), "adabn"),
    ],
)
def test_labels_may_not_be_farther_from_those_before_adaptation_than_the_trust_region(
    region: float, floor: float, agreement: float, kept: str
) -> None:
    rule = Rule(trust_region=region, trust_region_floor=floor)
    adabn, moved = (replace(one, before_agreement=0.95) for one in (ADABN, BETTER))
    choice = against(adabn, replace(moved, before_agreement=agreement), rule)
    assert choice.name == kept
    if agreement == 0.79:
        assert choice.refused["000100"] == (
            "its labels are 0.210 from those before adaptation (1 − Dice), expected at most 0.200"
        )


def test_where_adabn_changes_nothing_the_floor_is_the_trust_region() -> None:
    rule = Rule(trust_region=5.0, trust_region_floor=0.1)
    adabn = replace(ADABN, before_agreement=1.0)
    for agreement, kept in ((0.91, "000100"), (0.89, "adabn")):
        assert against(adabn, replace(BETTER, before_agreement=agreement), rule).name == kept


def test_the_source_model_too_has_to_be_better_than_adabn() -> None:
    scores = {"source": HIGH, "adabn": LOW}
    assert choose(scores).name == "source"
    assert choose(scores, Rule(better={"consistency": 0})).name == "source"
    assert choose(scores, Rule(better={"density": 0})).name == "adabn"


def test_a_checkpoint_has_to_rank_above_a_source_model_that_may_not_replace_adabn() -> None:
    source = replace(HIGH, density=0.0)
    adabn, better = replace(LOW, density=0.5), replace(LOW, density=0.9, consistency=0.7)
    scores = {"source": source, "adabn": adabn, "000010": better}
    choice = choose(scores, Rule(better={"density": 0}))
    assert choice.ranks["source"] > choice.ranks["000010"] > choice.ranks["adabn"]
    assert choice.name == "adabn"
    assert choice.refused["000010"] == "its mean rank, 1.75, is not above the source model's, 3.00"
    del scores["source"]
    assert choose(scores, Rule(better={"density": 0})).name == "000010"


def test_a_rule_changes_what_it_names_and_no_more() -> None:
    changed = Rule(trust_region=2.0, better={}).over(SLICES)
    assert (changed.trust_region, changed.better) == (2.0, {})
    assert changed.ranked == SLICES.ranked
    assert Rule(trust_region=2.0).over(SLICES).better == SLICES.better
    assert Rule().over(SLICES) == SLICES
    assert Rule(ranked=IMAGES.ranked).over(SLICES).ranked == IMAGES.ranked


def test_a_dump_of_a_rule_holds_what_was_named_even_if_it_is_the_usual() -> None:
    assert Rule().model_dump(mode="json") == {}
    assert Rule(trust_region=None).model_dump(mode="json") == {"trust_region": None}
    assert set(SLICES.model_dump(context=WHOLE)) == set(Rule.model_fields)


def test_a_rule_reads_what_it_names() -> None:
    assert needed(Rule()) == ("consistency", "nuclear_norm")
    better = {"held_out": 0.0, "continuity": 0.0}
    rule = Rule(ranked=("held_out", "agreement"), better=better, distance=2.0)
    assert needed(rule) == ("held_out", "agreement", "continuity", "ratio_distance")
    four = ("held_out", "nuclear_norm", "continuity", "largest_component")
    assert needed(SLICES) == (*four, "before_agreement")


def test_a_rule_knows_the_scores_and_a_guard_of_today_says_nothing_of_it() -> None:
    assert set(KNOWN) == set(SCORES)
    with pytest.raises(ConfigError, match=r"no score 'helt_out'(.|\n)*did you mean 'held_out'"):
        parse(Guard, {"rule": {"ranked": ["helt_out"]}}, "guard")
    for wrong in ({"ranked": []}, {"better": {"held": 0}}, {"better": {"held_out": "nan"}}):
        with pytest.raises(ConfigError):
            parse(Guard, {"rule": wrong}, "guard")
    of_before = {"images": 64, "factor": 3.0, "overlap": 0.7, "patience": 3, "unsafe": 2}
    assert Guard().model_dump(mode="json") == of_before
    changed = Guard(rule=Rule(margin=0.1), settled=0.9).model_dump(mode="json")
    assert changed["rule"]["margin"] == 0.1
    assert changed["settled"] == 0.9
