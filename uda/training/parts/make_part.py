"""From a recipe's term to the part that does its work."""

from __future__ import annotations

from uda.config import terms
from uda.training.parts.adversary import Adversary
from uda.training.parts.centroids import CentroidLabels
from uda.training.parts.dual import DualClassRatio
from uda.training.parts.landmarks import Landmarks
from uda.training.parts.part import Known, Part, check_known
from uda.training.parts.pointwise import Pointwise
from uda.training.parts.teacher import PseudoLabels


def make_part(term: terms.Term, known: Known) -> Part:
    """The part of a term.

    Raises:
        PriorError: the prior does not know what the term needs.
    """
    check_known(known, sorted(term.needs()), term.term)
    if isinstance(term, terms.PseudoLabelTerm):
        return PseudoLabels(term, known)
    if isinstance(term, terms.CentroidTerm):
        return CentroidLabels(term)
    if isinstance(term, terms.AdversarialTerm):
        return Adversary(term)
    if isinstance(term, terms.DualClassRatioTerm):
        return DualClassRatio(term, known)
    if isinstance(term, terms.LandmarksTerm):
        return Landmarks(known)
    return Pointwise(term, known)
