"""Every term of a recipe does its work: the right loss, with the term's settings and the prior's rows."""

from __future__ import annotations

import inspect
import sys
import typing
from typing import Any

import pytest
import torch
from scene import CLASSES, CPU, batch_of, network, objective_of, prior_of_scene, term, train
from torch import Tensor

from uda import losses
from uda.config import terms
from uda.config.terms import Term
from uda.devices.device import make_fabric
from uda.errors import PriorError
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.training.parts.make_part import PARTS
from uda.training.parts.pointwise import GIVEN
from uda.training.state import RESUME_FILE
from uda.types import IGNORE, OTHER

TERMS: tuple[Any, ...] = typing.get_args(typing.get_args(Term)[0])
NAMES = [made.model_fields["term"].default for made in TERMS]
REQUIRED = {"class_ratio_kl": {"direction": "prior_to_prediction"}}
BATCH = batch_of(3)
assert BATCH.source is not None
assert BATCH.target is not None
IMAGE, LABEL, INDEX = BATCH.target.image, BATCH.source.label, BATCH.target.index
SOURCE_IMAGE = BATCH.source.image


def ratio() -> Tensor:
    table = prior_of_scene().ratio
    assert table is not None
    return table[INDEX]


def largest() -> Tensor:
    values = prior_of_scene().largest
    assert values is not None
    return values


def maps() -> Tensor:
    values = prior_of_scene().maps
    assert values is not None
    return values


def logits(seed: int) -> Tensor:
    return torch.randn(2, CLASSES, 32, 32, generator=torch.Generator().manual_seed(seed))


def seeds() -> Tensor:
    return MARKED.label.masked_fill(MARKED.label == OTHER, IGNORE)


def box_rows() -> Tensor:
    first, second = MARKED.boxes[0, :, 1:], MARKED.boxes[1, :1, 1:]
    image = torch.tensor([[0], [0], [1]])
    return torch.cat([image, torch.cat([first, second])], 1)


SOURCE, TARGET = logits(0), logits(1)
MARKED = BATCH.annotation
assert MARKED is not None
assert MARKED.boxes is not None
assert MARKED.boxed is not None
ZERO = torch.zeros(CLASSES)

# (term, settings, the loss it stands for)
CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("cross_entropy", {}, lambda: losses.cross_entropy(SOURCE, LABEL)),
    ("partial_cross_entropy", {}, lambda: losses.partial_cross_entropy(SOURCE, LABEL)),
    ("dice", {}, lambda: losses.dice(SOURCE, LABEL)),
    ("view_agreement", {}, lambda: losses.agreement(SOURCE[:1], SOURCE[1:].log_softmax(1))),
    ("entropy", {"normalized": False}, lambda: losses.entropy(TARGET, normalized=False)),
    ("min_entropy", {}, lambda: losses.min_entropy(TARGET)),
    ("max_square", {}, lambda: losses.max_square(TARGET)),
    (
        "max_square",
        {"image_weighted": True, "ratio": 0.5},
        lambda: losses.max_square(TARGET, True, 0.5),
    ),
    (
        "mutual_information",
        {"alpha": 0.3, "over": "image"},
        lambda: losses.mutual_information(TARGET, 0.3, "image"),
    ),
    (
        "class_ratio_hinge",
        {"mu": 0.9, "over": "batch"},
        lambda: losses.class_ratio_hinge(TARGET, ratio(), 0.9, "batch"),
    ),
    (
        "size_cross_entropy",
        {"kind": "max_normalized", "power": 5.0},
        lambda: losses.size_cross_entropy(TARGET, ratio(), "max_normalized", 5.0),
    ),
    (
        "size_bounds",
        {"margin": 0.1, "squared": False, "over": "batch"},
        lambda: losses.size_bounds(TARGET, *losses.ratio_bounds(ratio(), 0.1), False, "batch"),
    ),
    (
        "size_bounds",
        {"bounds": "quantiles"},
        lambda: losses.size_bounds(TARGET, ZERO, largest()),
    ),
    (
        "size_bounds",
        {"bounds": "tags"},
        lambda: losses.size_bounds(TARGET, *losses.tag_bounds(ratio() > 0, 32 * 32)),
    ),
    (
        "log_barrier",
        {"start": 2.0, "growth": 3.0, "every": 2, "margin": 0.2},
        lambda: losses.log_barrier(TARGET, *losses.ratio_bounds(ratio(), 0.2), 6.0),
    ),
    ("sorted_area", {}, lambda: losses.sorted_area(TARGET, ratio())),
    (
        "latent_distribution",
        {"margin": 0.1, "over": "batch"},
        lambda: losses.latent_cross_entropy(
            TARGET, *losses.ratio_bounds(ratio(), 0.1), over="batch"
        ),
    ),
    (
        "balanced_assignment",
        {"epsilon": 0.5, "over": "image"},
        lambda: losses.balanced_cross_entropy(TARGET, ratio(), 0.5, "image"),
    ),
    ("partial_labels", {}, lambda: losses.partial_labels(TARGET, MARKED.label, MARKED.labelled)),
    (
        "partial_labels",
        {"dice": 2.0},
        lambda: (
            losses.partial_labels(TARGET, MARKED.label, MARKED.labelled)
            + 2 * losses.partial_dice(TARGET, MARKED.label, MARKED.labelled)
        ),
    ),
    (
        "grid_crf",
        {"potts": 0.5, "cycles": 2},
        lambda: losses.grid_crf(TARGET, IMAGE, seeds(), 0.5, cycles=2),
    ),
    (
        "boxes",
        {"width": 3, "filled": (0.6, 0.9), "outside": 2.0, "tight": 3.0, "size": 4.0},
        lambda: losses.boxes(
            TARGET, box_rows(), MARKED.boxed[:, 0], None, 3, (0.6, 0.9), None, (2.0, 3.0, 4.0)
        ),
    ),
    (
        "spatial_prior_kl",
        {"direction": "prediction_to_prior", "over": "image"},
        lambda: losses.spatial_prior_kl(TARGET, maps(), "prediction_to_prior", "image"),
    ),
    (
        "potts",
        {"sigma_color": 0.7, "sigma_space": 2.0, "radius": 2, "dilation": 2},
        lambda: losses.potts(TARGET, IMAGE, 0.7, 2.0, 2, 2),
    ),
    ("laplacian", {"sigma_color": 0.7}, lambda: losses.laplacian(TARGET, IMAGE, "grid", 0.7)),
    (
        "laplacian",
        {"weights": "window", "sigma_space": 2.0, "radius": 2, "dilation": 2},
        lambda: losses.laplacian(TARGET, IMAGE, "window", 0.25, 2.0, 2, 2),
    ),
    (
        "dense_crf",
        {"sigma_color": 0.7, "sigma_space": 8.0, "spacing": 0.25},
        lambda: losses.dense_crf(TARGET, IMAGE, 0.7, 8.0, 0.25),
    ),
]


@pytest.mark.parametrize(
    ("name", "settings", "loss"), CASES, ids=[f"{n}-{'-'.join(s)}" for n, s, _ in CASES]
)
def test_a_term_is_its_loss_with_its_settings(
    name: str, settings: dict[str, Any], loss: Any
) -> None:
    _, values = objective_of(term(name, **settings))(BATCH, SOURCE, TARGET, step=3)
    assert float(values[name]) == pytest.approx(float(loss()), rel=1e-6)


PLAIN = [made for made in TERMS if made not in PARTS]
"""terms that are the loss of their name"""
COMMON = terms.MinEntropyTerm.model_fields
BESIDE: dict[str, Any] = {
    "log_barrier": losses.barrier_t,
    "pseudo_labels": losses.portion_at,
    "adversarial": losses.Discriminator,
    "latent_distribution": losses.latent_cross_entropy,
    "balanced_assignment": losses.balanced_cross_entropy,
}
"""what takes settings of a term beside the loss of its name"""
RENAMED = {"start": "portion", "step": "portion_step", "limit": "portion_limit"}
"""parameters of ``portion_at``, as ``pseudo_labels`` calls them"""
WRITTEN_TWICE = {
    "entropy": {"normalized"},
    "size_bounds": {"squared", "over"},
    "log_barrier": {"over", "start", "growth", "every", "limit"},
    "pseudo_labels": set(RENAMED.values()),
    "adversarial": {"width"},
    "latent_distribution": {"over"},
    "balanced_assignment": {"epsilon", "over"},
    "boxes": {"filled", "width"},
    "grid_crf": {"potts", "cycles"},
}


@pytest.mark.parametrize("made", TERMS, ids=NAMES)
def test_a_setting_has_the_default_of_the_parameter_that_it_fills(made: Any) -> None:
    """Both are written, because the command line reads settings without torch."""
    name, compared = made.model_fields["term"].default, set()
    own = {n: f for n, f in made.model_fields.items() if n not in COMMON and n != "class_weights"}
    for function in (vars(losses).get(name), BESIDE.get(name)):
        if callable(function):
            for parameter in inspect.signature(function).parameters.values():
                renamed = function is losses.portion_at
                setting = RENAMED.get(parameter.name, "") if renamed else parameter.name
                if setting in own and not own[setting].is_required():
                    assert parameter.default == own[setting].default, setting
                    compared.add(setting)
    settings = {n for n, field in own.items() if not field.is_required()}
    assert compared == (settings if made in PLAIN else WRITTEN_TWICE.get(name, set()))


@pytest.mark.parametrize("made", PLAIN, ids=[m.model_fields["term"].default for m in PLAIN])
def test_a_plain_loss_gets_every_parameter_and_its_term_asks_for_what_that_needs(made: Any) -> None:
    name = made.model_fields["term"].default
    parameters = list(inspect.signature(getattr(losses, name)).parameters.values())[1:]
    needed = {p.name for p in parameters if p.default is p.empty}
    assert needed <= {*GIVEN, *made.model_fields}
    asked = {"prior": "ratio", "sizes": "ratio", "areas": "ratio", "maps": "maps"}
    term_ = term(name, **REQUIRED.get(name, {}))
    assert term_.needs() == {asked[p.name] for p in parameters if p.name in asked}


def test_the_cases_and_the_other_files_of_this_folder_leave_no_term_out() -> None:
    elsewhere = {
        "class_ratio_kl",  # test_objective.py
        "pseudo_labels",
        "centroid_pseudo_labels",
        "adversarial",
        "dual_class_ratio",
        "landmarks",
        "seeds",
        "view_consistency",
        "deepcut",
    }
    assert {name for name, _, _ in CASES} | elsewhere == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_term_trains_in_the_loop_beside_another(name: str, tmp_path: Any) -> None:
    """In the loop with a second term, ramped: the weights move, stay finite, nothing is left to resume."""
    made = term(name, weight=0.1, ramp="cosine", ramp_steps=4, **REQUIRED.get(name, {}))
    before, _ = train(tmp_path / "0", [term("cross_entropy"), made], steps=0)
    kept, _ = train(tmp_path / "3", [term("cross_entropy"), made], steps=3, save_every=50)
    moved = [
        float((a - b).detach().abs().max())
        for a, b in zip(before.parameters(), kept.parameters(), strict=True)
    ]
    assert 0 < max(moved) < 1
    assert (tmp_path / "3" / RESUME_FILE).is_file()


ALSO: list[tuple[str, dict[str, Any]]] = [
    ("pseudo_labels", {"views": 3, "prune": "median", "threshold": 0.5, "dice": 1.0}),
    ("class_ratio_kl", {"tolerance": 0.1}),
    ("view_consistency", {"views": 2, "loss": "mean_entropy"}),
]
"""settings that take another way through a term"""


ON_THE_CPU = ("grid_crf", "boxes", "deepcut", "latent_distribution", "balanced_assignment")
"""terms that make the host wait, as the text of each says"""


def test_terms_that_wait_say_so() -> None:
    for made in TERMS:
        waits = made.model_fields["term"].default in ON_THE_CPU
        assert waits == ("for which a GPU waits" in " ".join((made.__doc__ or "").split()))


@pytest.mark.parametrize(
    ("name", "settings"),
    [*((name, {}) for name in NAMES if name not in ON_THE_CPU), *ALSO],
)
def test_within_a_round_no_term_makes_the_host_wait_for_the_device(
    name: str, settings: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a value waits for the device; a term may when its round begins, and at no other moment."""
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("uda.losses.") and hasattr(module, "readable"):
            monkeypatch.setattr(module, "readable", lambda values: False)
    reads: list[str] = []
    watched = False

    def counting(called: str, function: Any) -> Any:
        def counted(self: Tensor, *given: Any, **named: Any) -> Any:
            if watched:
                reads.append(called)
            return function(self, *given, **named)

        return counted

    for called in ("item", "tolist", "numpy", "cpu", "nonzero"):
        monkeypatch.setattr(Tensor, called, counting(called, getattr(Tensor, called)))
    for called in ("__bool__", "__float__", "__int__", "__index__", "__array__"):
        monkeypatch.setattr(Tensor, called, counting(called, getattr(Tensor, called)))
    objective = objective_of(term(name, **REQUIRED.get(name, {}), **settings))
    student = network()
    objective.setup(make_fabric(CPU), student)
    objective.begin(0)
    watched = True
    objective.begin(1)
    notes = objective.annotate(BATCH)
    loss, _ = objective(BATCH, student(SOURCE_IMAGE), student(IMAGE), 1, notes)
    loss.backward()
    objective.after(1)
    assert reads == []
    bool(loss)
    assert reads == ["__bool__"]  # the count does count


@pytest.mark.parametrize(
    ("name", "settings", "missing"),
    [
        ("sorted_area", {}, "class ratios"),
        ("landmarks", {}, "class of superpixels"),
        ("seeds", {}, "class of some pixels"),
        ("dual_class_ratio", {}, "class ratios"),
        ("size_bounds", {}, "class ratios"),
        ("size_bounds", {"bounds": "quantiles"}, "sizes vary"),
        ("spatial_prior_kl", {}, "where each class lies"),
        ("pseudo_labels", {"spatial": True}, "where each class lies"),
    ],
)
def test_a_term_whose_prior_knows_too_little_is_refused_with_the_remedy(
    name: str, settings: dict[str, Any], missing: str
) -> None:
    with pytest.raises(PriorError, match=missing) as caught:
        Objective([term(name, **settings)], PriorTensors())
    assert caught.value.fix


def test_terms_say_what_they_need() -> None:
    assert terms.PseudoLabelTerm().needs() == frozenset()
    assert terms.PseudoLabelTerm(spatial=True).needs() == {"maps"}
    assert terms.EntropyTerm(class_weights="inverse_ratio").needs() == {"ratio"}
    assert terms.LogBarrierTerm(bounds="quantiles").needs() == {"sizes"}
