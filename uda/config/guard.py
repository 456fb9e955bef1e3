"""Settings of the guard, which judges an adaptation's checkpoints without labels."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from uda.config.fields import Amount, Frozen, Positive, Probability, Share
from uda.errors import nearest

Factor = Annotated[float, Field(gt=1)]
SCORES = (
    "ratio_distance",
    "mutual_information",
    "consistency",
    "agreement",
    "density",
    "nuclear_norm",
    "confidence",
    "held_out",
    "size_variation",
    "continuity",
    "largest_component",
    "area_smoothness",
    "before_agreement",
    "source_agreement",
)
"""scores that a rule may name; :mod:`uda.selection.scores` computes them"""


def _known(name: str) -> str:
    if name not in SCORES:
        raise ValueError(f"no score {name!r}; {nearest(name, SCORES)}")
    return name


Score = Annotated[str, AfterValidator(_known)]
Gain = Annotated[float, Field(allow_inf_nan=False)]


class Rule(Frozen):
    """How to choose among the source model, AdaBN and the safe checkpoints.

    The one of the best mean rank by ``ranked`` is kept. The other settings say what everything but AdaBN has to show
    to be chosen; where nothing does, AdaBN is kept. A score that is not known takes no part.

    A recipe's rule names what it changes: :meth:`over` takes the rest from the rule for the kind of images. A dump
    holds what was named.
    """

    ranked: Annotated[tuple[Score, ...], Field(min_length=1)] = ("consistency", "nuclear_norm")
    """scores whose ranks are averaged"""
    better: dict[Score, Gain] = Field(default_factory=dict)
    """scores by which it has to be better than AdaBN, and by how much more than this; with a negative number it may be
    worse, but not by so much"""
    most: Annotated[float, Field(gt=0, le=1)] = 1.0
    """share of ``better`` that suffices"""
    margin: Share = 0.0
    """by how much its mean rank has to be above AdaBN's, as a share of the distance between best and worst rank"""
    distance: Amount | None = None
    """largest ``ratio_distance``, as a multiple of AdaBN's; None: any"""
    distance_floor: Amount = 0.0
    """``ratio_distance`` that is never too large, in nats"""
    trust_region: Amount | None = None
    """how far its labels may be from those of the models before adaptation, as a multiple of AdaBN's distance from them
    (1 − ``before_agreement``); None: any"""
    trust_region_floor: Share = 0.0
    """distance from the models before adaptation that is never too large"""

    latest: bool = False
    """keep the last safe checkpoint, whatever its scores; for a training on annotations"""

    def over(self, usual: Rule) -> Rule:
        """The rule ``usual`` with the settings that were given here."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return usual.model_copy(update=given)

    def _left_out(self) -> frozenset[str]:
        return frozenset(type(self).model_fields) - self.model_fields_set


SLICES = Rule(
    ranked=("held_out", "nuclear_norm", "continuity", "largest_component"),
    better={"nuclear_norm": 0.0, "continuity": 0.0},
    trust_region=4.0,
)
"""for images that are neighbouring slices; `benchmarks/selectbench.py` measures what a rule is worth"""
IMAGES = Rule()
"""for images that have no neighbours, such as photographs"""


class Guard(Frozen):
    """Limits and effort of ``select: guarded``."""

    LATER: ClassVar[frozenset[str]] = frozenset({"rule", "settled"})

    images: Positive = 64
    """Target images that every checkpoint is judged on: neighbouring slices of a few cases, and slices evenly spread
    over the target."""
    factor: Factor = 3.0
    """A checkpoint is unsafe if a structure's predicted ratio is more than ``factor`` times below or above the
    expected range."""
    overlap: Share = 0.7
    """A checkpoint is unsafe if a structure's Dice with the source model's prediction and that with AdaBN's are both
    below this share of the Dice between those two."""
    patience: Positive = 3
    """The training ends after so many judgements without improvement."""
    unsafe: Positive = 2
    """Unsafe checkpoints in a row after which the training ends."""
    rule: Rule | None = None
    """What to change of :data:`SLICES` where some of the judged images are neighbouring slices, else of
    :data:`IMAGES`."""
    settled: Probability | None = None
    """The training ends when the labels of two checkpoints in a row agree by at least this Dice, the mean over
    structures on the judged images; None: it goes on."""

    def annotated(self) -> Guard:
        """The guard of a training on annotations. They know what the models before adaptation do not, so the distance
        from these is no fault, and the last safe checkpoint is kept; a ``rule`` of one's own stays."""
        rule = Rule(latest=True) if self.rule is None else self.rule
        return self.model_copy(update={"overlap": 0.0, "rule": rule})
