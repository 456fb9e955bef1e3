"""The contract of a part: what it may know, what it may see, when it is called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from uda.errors import ConfigError, PriorError
from uda.losses import Prediction
from uda.types import Annotation, Batch, SourceBatch, TargetBatch

T = TypeVar("T")

Images = Callable[[], Iterable[Tensor]]
"""every target image once, in batches ``[b, c, *s]`` on the host"""
Neighbours = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""of target slices by their numbers ``[b]``: the images ``[b, c, h, w]`` so many slices further in their cases, on the
host, and whether there is one ``[b]``"""


@dataclass(frozen=True)
class PriorTensors:
    """What a prior tells the terms, as tensors. A validated recipe has what its terms need."""

    ratio: Tensor | None = None
    """``[n, k]``, a row for each target slice in the order of its store"""
    maps: Tensor | None = None
    """``[k, h, w]``: how often each class is at a pixel; sums to 1 over classes"""
    largest: Tensor | None = None
    """``[k]``: the 95 % quantile of each class's ratio in images that show it; the background's is 1"""
    segments: Tensor | None = None
    """``[n, h', w']`` int16: the superpixel of each pixel of the target slices, on a coarser grid"""
    landmarks: Tensor | None = None
    """``[n, s]`` uint8: the class of each superpixel; ``IGNORE`` where it is not sure enough"""

    seeds: Tensor | None = None
    """``[n, h', w']`` uint8: the class of each pixel of the target slices, on a coarser grid, or ``IGNORE``"""

    def to(self, device: torch.device) -> PriorTensors:
        values = [getattr(self, field.name) for field in fields(self)]
        return PriorTensors(*(None if value is None else value.to(device) for value in values))


@dataclass(frozen=True)
class TrainingContext:
    """What a part gets at set-up: the student, the images, the seed."""

    fabric: Fabric
    student: nn.Module
    seed: int
    images: Images
    neighbours: Neighbours | None = None
    """None where images have no neighbours: photographs, patches of volumes"""


@dataclass(frozen=True)
class StepInputs:
    """What a part sees of one step, after augmentation."""

    batch: Batch
    source: Prediction | None
    target: Prediction | None
    step: int
    auxiliary: bool = False
    """whether the predictions are those of the auxiliary head"""
    notes: Tensor | None = None
    """what the part noted on the images before their augmentation, moved along with them"""

    @property
    def unlabelled(self) -> Prediction:
        """Prediction of the target images."""
        return present(self.target)

    @property
    def labelled(self) -> tuple[Prediction, SourceBatch]:
        """Prediction of the source images, with their labels."""
        return present(self.source), present(self.batch.source)

    @property
    def annotated(self) -> tuple[Prediction, Annotation]:
        """Prediction of the target images, with what is marked on them."""
        return present(self.target), present(self.batch.annotation)

    def of_drawn(self) -> StepInputs:
        """The target images that were drawn from all, without those that were drawn because they are marked."""
        target, annotation = self.batch.target, self.batch.annotation
        if target is None or annotation is None or annotation.drawn == len(target.image):
            return self
        some = slice(annotation.drawn)
        batch = replace(self.batch, target=TargetBatch(target.image[some], target.index[some]))
        seen = self.target and Prediction(self.target.logits[some])
        return replace(self, batch=replace(batch, annotation=None), target=seen)

    def ratio(self, prior: PriorTensors) -> Tensor:
        """The prior's rows ``[b, k]`` of this batch's target images; of a patch the mean over its slices."""
        rows = present(prior.ratio)[present(self.batch.target).index]
        return rows if rows.dim() == 2 else rows.mean(1)


class Part:
    """One term at work. Most only have a value; the other methods are moments in the loop's step.

    ``setup`` once → in every step ``begin`` → ``annotate`` → ``mix`` → (augmentation, network) → ``value`` for
    each head → (update of the network) → ``after``. Everything random is drawn from (seed, step).
    """

    def __init__(self, term: Any, prior: PriorTensors) -> None:
        self.term, self.prior = term, prior

    def setup(self, context: TrainingContext) -> None:
        """Build what the part owns, on the device."""

    def begin(self, step: int) -> None:
        """Before a step: a new round, where the part has rounds."""

    def annotate(self, target: TargetBatch) -> Tensor | None:
        """Notes ``[b, m, *s]`` on target images ``[b, c, *s]`` as they are before augmentation."""
        return None

    def mix(
        self, batch: Batch, notes: Tensor | None, generator: torch.Generator
    ) -> tuple[Batch, Tensor | None]:
        """Paste images together, and the part's notes with them."""
        return batch, notes

    def value(self, inputs: StepInputs) -> Tensor:
        """The term's value, unweighted."""
        raise NotImplementedError

    def after(self, step: int) -> None:
        """After the network's update."""

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint has to hold of the part."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what ``state`` gave."""


def present(value: T | None) -> T:
    """What a validated recipe guarantees to be there."""
    if value is None:
        raise ConfigError(
            "a term needs something that this stage does not have: images of a domain, or a prior"
        )
    return value


def check_prior(prior: PriorTensors, needed: Iterable[str], term: str) -> None:
    """Refuse a prior that does not know what a term needs.

    Raises:
        PriorError: names the term, what is missing, and where to get it.
    """
    remedies = {
        "ratio": ("class ratios", "name a prior with prior:"),
        "maps": ("where each class lies", "use a prior of kind spatial"),
        "landmarks": ("the class of superpixels", "use a prior of kind landmarks"),
        "seeds": ("the class of some pixels", "use a prior of kind cam"),
        "sizes": (
            "how the sizes vary",
            "use a prior of kind source_labels whose model knows them, or bounds: ratio",
        ),
    }
    held = {
        "ratio": prior.ratio,
        "maps": prior.maps,
        "landmarks": prior.landmarks,
        "seeds": prior.seeds,
        "sizes": prior.largest,
    }
    for name in needed:
        if held[name] is None:
            what, fix = remedies[name]
            raise PriorError(f"term {term!r} needs a prior that knows {what}", fix=fix)
