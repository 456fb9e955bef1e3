"""Small inputs for parts: a network with features, target images, a batch of both domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from uda.config.networks import Network
from uda.config.recipe import Compute, Training
from uda.config.terms import CrossEntropyTerm, Term
from uda.devices.device import make_fabric
from uda.networks.build import build
from uda.training.loop import Run, fit
from uda.training.objective import Objective
from uda.training.parts import Part, PriorTensors
from uda.types import IGNORE, OTHER, Annotation, Batch, SourceBatch, TargetBatch

CLASSES, SIZE, IMAGES = 3, 32, 6
CPU = Compute(device="cpu")


def term(name: str, **settings: Any) -> Term:
    made: Term = TypeAdapter(Term).validate_python({"term": name, **settings})
    return made


def prior_of_scene() -> PriorTensors:
    ratio = torch.tensor([[0.7, 0.2, 0.1]]).expand(IMAGES, -1).contiguous()
    maps = torch.rand(CLASSES, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) + 0.1
    segments = torch.arange(SIZE * SIZE // 16).view(SIZE // 4, SIZE // 4) // 8
    seeds = torch.arange(SIZE * SIZE // 16).view(SIZE // 4, SIZE // 4) % (CLASSES + 2)
    seeds[seeds >= CLASSES] = IGNORE
    return PriorTensors(
        ratio,
        maps / maps.sum(0),
        torch.tensor([1.0, 0.4, 0.2]),
        segments.to(torch.int16).expand(IMAGES, -1, -1).contiguous(),
        (torch.arange(int(segments.max()) + 1) % CLASSES).to(torch.uint8).expand(IMAGES, -1),
        seeds=seeds.to(torch.uint8).expand(IMAGES, -1, -1).contiguous(),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    return build(Network(channels=(4, 8), res_units=1), CLASSES)


def target_images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(IMAGES, 1, SIZE, SIZE, generator=generator)


def all_images() -> Iterator[Tensor]:
    return iter(target_images().split(4))


def batch_of(step: int) -> Batch:
    """Two images of each domain; the source's labels follow its intensities."""
    generator = torch.Generator().manual_seed(100 + step)
    image = torch.randn(2, 1, SIZE, SIZE, generator=generator)
    label = (image[:, 0] > 0.5).long() + (image[:, 0] > 1.5).long()
    index = torch.tensor([step % IMAGES, (step + 1) % IMAGES])
    target = TargetBatch(target_images()[index], index)
    return Batch(SourceBatch(image, label), target, annotation_of(step))


def annotation_of(step: int) -> Annotation:
    """Some marked pixels, of the second image by labels of class 1 alone, and a box in each image."""
    generator = torch.Generator().manual_seed(200 + step)
    label = torch.randint(CLASSES, (2, SIZE, SIZE), generator=generator)
    label[1][label[1] != 1] = OTHER
    label[torch.rand(label.shape, generator=generator) < 0.7] = IGNORE
    labelled = torch.tensor([[True, True, True], [False, True, False]])
    boxes = torch.tensor(
        [[[0, 1, 4, 5, 20, 21], [0, 2, 8, 2, 12, 30]], [[0, 2, 1, 1, 9, 9], [-1] * 6]]
    )
    boxed = torch.tensor([[[False, True, True]]]).expand(2, -1, -1)
    grid = torch.meshgrid(*(torch.arange(float(SIZE)) for _ in range(2)), indexing="ij")
    return Annotation(label, labelled, 2, boxes, boxed, torch.stack(grid).expand(2, -1, -1, -1))


class Killed(BaseException):
    """Ends the loop on the spot."""


def dying(step: int) -> Batch:
    """The batches, until the loop is killed at step 5."""
    if step == 5:
        raise Killed
    return batch_of(step)


def objective_of(*terms: Term) -> Objective:
    return Objective(terms, prior_of_scene(), all_images, seed=5)


P = TypeVar("P", bound=Part)


def set_up(student: nn.Module, one: Term, kind: type[P]) -> tuple[Objective, P]:
    """An objective of one term, begun with a network, and the term's part."""
    objective = objective_of(one)
    objective.setup(make_fabric(CPU), student)
    part = objective.parts[0]
    assert isinstance(part, kind)
    return objective, part


def train(
    folder: Path,
    terms: Sequence[Term],
    *,
    batches: Callable[[int], Batch] = batch_of,
    objective: Objective | None = None,
    **changes: Any,
) -> tuple[nn.Module, Objective]:
    """The network after some steps of the loop, and the objective with its parts."""
    plain = {
        "steps": 6,
        "batch": 2,
        "lr": 1e-2,
        "save_every": 2,
        "objective": (CrossEntropyTerm(),),
    }
    used = objective or objective_of(*terms)
    kept = fit(
        make_fabric(CPU),
        network(),
        used,
        Training.model_validate({**plain, **changes}),
        batches,
        Run(0, "stage", folder),
        set_mode=lambda model: model.train(),
        snapshot=lambda model, step: False,
    )
    return kept, used


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)
