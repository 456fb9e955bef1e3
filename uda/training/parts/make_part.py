"""From a recipe's term to the part that does its work."""

from __future__ import annotations

from uda.config import terms
from uda.config.fields import Frozen
from uda.training.parts.adversary import Adversary
from uda.training.parts.annotated import Boxes, GridCrf, PartialLabels
from uda.training.parts.centroids import CentroidLabels
from uda.training.parts.consistency import ViewConsistency
from uda.training.parts.deepcut import DeepCut
from uda.training.parts.dual import DualClassRatio
from uda.training.parts.landmarks import Landmarks
from uda.training.parts.part import Part, PriorTensors, check_prior
from uda.training.parts.pointwise import (
    BalancedAssignment,
    Bounded,
    Entropy,
    LatentDistribution,
    Pointwise,
    ViewAgreement,
)
from uda.training.parts.seeds import Seeds
from uda.training.parts.teacher import PseudoLabels

PARTS: dict[type[Frozen], type[Part]] = {
    terms.ViewAgreementTerm: ViewAgreement,
    terms.EntropyTerm: Entropy,
    terms.SizeBoundsTerm: Bounded,
    terms.LogBarrierTerm: Bounded,
    terms.LatentDistributionTerm: LatentDistribution,
    terms.BalancedAssignmentTerm: BalancedAssignment,
    terms.LandmarksTerm: Landmarks,
    terms.SeedsTerm: Seeds,
    terms.DualClassRatioTerm: DualClassRatio,
    terms.PseudoLabelTerm: PseudoLabels,
    terms.PartialLabelsTerm: PartialLabels,
    terms.GridCrfTerm: GridCrf,
    terms.BoxesTerm: Boxes,
    terms.DeepCutTerm: DeepCut,
    terms.CentroidTerm: CentroidLabels,
    terms.ViewConsistencyTerm: ViewConsistency,
    terms.AdversarialTerm: Adversary,
}
"""The part of each term; any other term is the loss of its name (:class:`Pointwise`)."""


def make_part(term: terms.Term, prior: PriorTensors) -> Part:
    """The part of a term.

    Raises:
        PriorError: the prior does not know what the term needs.
    """
    check_prior(prior, sorted(term.needs()), term.term)
    return PARTS.get(type(term), Pointwise)(term, prior)
