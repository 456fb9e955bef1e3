"""The class ratio of the whole data set: dual variables that ascend while the network descends."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from uda import losses
from uda.config.terms import DualClassRatioTerm
from uda.training.parts.part import Part, StepInputs, TrainingContext, present


class DualClassRatio(Part):
    """Primal–dual updates of PaNN (Zhou et al., ICCV 2019): one ascent step after each update.

    The dual variables start where they are best if the prediction already has the prior.
    """

    term: DualClassRatioTerm

    def setup(self, context: TrainingContext) -> None:
        ratio = present(self.prior.ratio).mean(0)
        self.log_dual = -ratio.clamp_min(1e-6).log()

    def value(self, inputs: StepInputs) -> Tensor:
        if not inputs.auxiliary:
            self.ratio = losses.class_ratio(inputs.unlabelled).detach().mean(0)
        return losses.dual_class_ratio(inputs.unlabelled, inputs.ratio(self.prior), self.log_dual)

    def after(self, step: int) -> None:
        self.log_dual = losses.dual_ascent(self.log_dual, self.ratio, self.term.rate)

    def state(self) -> dict[str, Tensor]:
        return {"log_dual": self.log_dual}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.log_dual = state["log_dual"].to(self.log_dual.device)
