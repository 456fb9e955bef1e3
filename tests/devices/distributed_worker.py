"""Script that test_distributed.py runs in two processes: ``python distributed_worker.py FOLDER RECIPE [OVERRIDE …]``.

It writes a job's tensors to ``FOLDER/<job>/<rank>.tensors`` and runs the recipe in ``FOLDER/run``. At the end the
last process fails on purpose.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from uda.config.augment import Augment
from uda.config.loading import load_recipe
from uda.config.recipe import Compute, Training
from uda.config.terms import (
    AdversarialTerm,
    BoxesTerm,
    ClassRatioTerm,
    CrossEntropyTerm,
    DeepCutTerm,
    DualClassRatioTerm,
    MutualInformationTerm,
    PartialLabelsTerm,
    PseudoLabelTerm,
    Term,
    ViewConsistencyTerm,
)
from uda.data.sampling import batch_indices
from uda.data.seeds import mix
from uda.devices.device import deterministic, make_fabric
from uda.devices.distributed import (
    first_then_all,
    gather_objects,
    gather_shares,
    on_first,
    repeated,
    share,
    this_process,
)
from uda.devices.global_batch import all_outputs, all_rows, gathered, own_rows, rows_of
from uda.devices.sync_batchnorm import synchronised
from uda.errors import DataError, UdaError
from uda.networks.batchnorm import set_mode
from uda.pipeline import run as pipeline
from uda.training.loop import Run, fit
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.types import IGNORE, OTHER, Annotation, Batch, SourceBatch, TargetBatch

CLASSES, BATCH, IMAGES, SIDE = 3, 4, 12, 32

# One BatchNorm layer, its gradients and running statistics --------------------------------------------


def batchnorm(
    momentum: float | None = 0.1, mean: float = 10.0, kind: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Two steps on 6 rows; of two processes the first has 4 of them."""
    generator = torch.Generator().manual_seed(3)
    layer = nn.BatchNorm2d(5, momentum=momentum)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2, generator=generator)
        layer.bias.normal_(generator=generator)
    plain = nn.Sequential(nn.Identity(), layer).to(kind)
    model = synchronised(plain, torch.device("cpu"))
    here = this_process()
    rows = slice(None) if here.size == 1 else (slice(0, 4) if here.first else slice(4, 6))
    results: dict[str, Tensor] = {}
    for step in range(2):
        whole = (torch.randn(6, 5, 4, 3, generator=generator) * 3 + mean).to(kind)
        slope = torch.randn(whole.shape, generator=generator).to(kind)
        x = whole[rows].clone().requires_grad_()
        y = model(x)
        model.zero_grad()
        (y * slope[rows]).sum().backward()
        results |= {f"{step}.y": y.detach(), f"{step}.dx": x.grad}
        results |= {f"{step}.d{name}": p.grad.clone() for name, p in model.named_parameters()}
    results |= {f"state.{name}": value for name, value in model.state_dict().items()}
    model.eval()
    results["eval"] = model(whole[:2]).detach()
    nn.Sequential(nn.Identity(), nn.BatchNorm2d(5)).load_state_dict(model.state_dict())
    return {name: value.contiguous() for name, value in results.items()}


def unit() -> dict[str, Tensor]:
    """Results of gathering and broadcasting on every process."""
    here = this_process()
    results = {f"plain.{k}": v for k, v in batchnorm().items()}
    results |= {f"cumulative.{k}": v for k, v in batchnorm(momentum=None).items()}
    results |= {f"far.{k}": v for k, v in batchnorm(mean=1000).items()}

    for kind in (torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool):
        own = torch.arange(6).view(2, 3).add(6 * here.rank).to(kind)
        results[f"rows.{str(kind)[6:]}"] = all_rows(own).clone()
    last = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(here.rank))
    rows = all_rows(last.contiguous(memory_format=torch.channels_last))
    results["rows.last"] = rows.contiguous()
    results["rows.layout"] = torch.tensor(rows.is_contiguous(memory_format=torch.channels_last))
    results["rows.expected"] = torch.cat(
        [torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(r)) for r in range(2)]
    )

    whole = torch.linspace(-1, 1, 8).view(4, 2)
    mine = whole[rows_of(4)].clone().requires_grad_()
    unread = whole[rows_of(4)].clone().requires_grad_()
    main, absent, pair = all_outputs([mine, None, (2 * mine, unread)])
    assert absent is None
    assert isinstance(main, Tensor)
    assert isinstance(pair, tuple)
    loss = (main.exp().sum() + pair[0].sum()) ** 2
    loss.backward()
    results |= {
        "outputs.grad": mine.grad,
        "outputs.unread": unread.grad,
        "outputs.loss": loss.detach(),
    }

    index = torch.arange(4)
    batch = Batch(SourceBatch(whole, index), TargetBatch(whole + 1, index + 10))
    again = gathered(own_rows(batch))
    assert again.source is not None
    assert again.target is not None
    for name, found, expected in (
        ("image", again.source.image, whole),
        ("label", again.source.label, index),
        ("target", again.target.image, whole + 1),
        ("index", again.target.index, index + 10),
    ):
        assert torch.equal(found, expected), name
    results["agreed"] = torch.tensor(_agreements())
    return results


def _agreements() -> list[int]:
    """Results of the functions that exchange objects."""
    here = this_process()
    calls: list[int] = []

    def work() -> int:
        calls.append(this_process().size)
        return on_first(lambda: 40) + 2  # nested: waits for no other process

    together = [on_first(work), len(calls), sum(gather_objects(here.rank + 1))]
    calls.clear()
    each = first_then_all(work)
    together += [each, len(calls), calls[0]]
    found = gather_shares([number**2 for number in share(7, here)], 7)
    together.append(int(found == ([n**2 for n in range(7)] if here.first else [])))
    return together


def failures(folder: Path) -> None:
    """Faults of the first process alone, as every process sees them."""
    results = []
    for fault in (DataError("gone", where="a/file", fix="bring it back"), OSError("odd\nfault")):

        def fail(fault: Exception = fault) -> None:
            raise fault

        try:
            on_first(fail)
        except (UdaError, OSError) as error:
            fix = error.fix if isinstance(error, UdaError) else None
            results.append([type(error).__name__, str(error), fix, repeated(error)])
    (folder / f"faults.{this_process().rank}.json").write_text(json.dumps(results))


# The loop -------------------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2),
        nn.BatchNorm2d(8, momentum=None),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(8, CLASSES, 1),
    )


def pictures() -> tuple[Tensor, Tensor]:
    """``[n, 1, h, w]`` with labels of which some are ignored."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(IMAGES, 1, SIDE, SIDE, generator=generator)
    label = (image[:, 0] > -0.5).long() + (image[:, 0] > 0.7).long()
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    label[0, :20] = IGNORE  # processes count different numbers of pixels
    return image, label


def draw(step: int) -> Batch:
    """This process's rows of a step's batch."""
    here, (image, label) = this_process(), pictures()
    own = BATCH // here.size
    source, target = (
        batch_indices(IMAGES, own, step, mix(name), here.rank, here.size) for name in ("s", "t")
    )
    return Batch(
        SourceBatch(image[source], label[source]),
        TargetBatch(2 * image[target] + 1, torch.from_numpy(target)),
        marks(label[target], torch.from_numpy(target)),
    )


def marks(label: Tensor, index: Tensor) -> Annotation:
    """Labels of which some name one class alone, and a box whose place depends on the image."""
    named = torch.tensor([[True] * CLASSES, [False, True, False]])[index % 2]
    some = torch.where((label != 1) & (index % 2 == 1)[:, None, None], OTHER, label)
    some[:, ::2] = IGNORE
    low = (index % 5)[:, None]
    corners = torch.cat([low + 2, low + 3, low + 20, low + 22], 1)
    boxes = torch.cat([torch.zeros_like(low), torch.ones_like(low), corners], 1)[:, None]
    boxed = torch.tensor([[[False, True, True]]]).expand(len(label), -1, -1)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(SIDE))] * 2, indexing="ij"))
    place = grid.expand(len(label), -1, -1, -1)
    return Annotation(some, named, 2, boxes, boxed.contiguous(), place.contiguous())


OBJECTIVES: dict[str, tuple[Term, ...]] = {
    "losses": (
        CrossEntropyTerm(),
        ClassRatioTerm(direction="prediction_to_prior", over="batch"),
        MutualInformationTerm(over="batch", weight=0.5),
    ),
    "parts": (
        CrossEntropyTerm(),
        AdversarialTerm(width=4),
        DualClassRatioTerm(),
        PseudoLabelTerm(round_steps=2, teacher="ema", decay=0.9),
        PseudoLabelTerm(views=3, prune="median", portion=1.0, portion_limit=1.0, dice=1.0),
        ViewConsistencyTerm(views=2),
    ),
    "marks": (
        CrossEntropyTerm(),
        PartialLabelsTerm(dice=1.0),
        BoxesTerm(),
        DeepCutTerm(round_steps=2, sigma_space=4.0),
        MutualInformationTerm(weight=0.5),
    ),
}


class StoppedError(Exception):
    """Raised by a test to stop the loop."""


def train(
    folder: Path, objective: str, steps: int = 5, stop_at: int = -1, lose_at: int = -1
) -> dict[str, Tensor]:
    """Weights after the loop; ``metrics.csv`` holds its losses.

    Args:
        stop_at: every process stops when it asks for the batch of this step.
        lose_at: the last process fails at this step.
    """
    ratio = torch.tensor([0.3, 0.5, 0.2]).expand(IMAGES, CLASSES).contiguous()
    settings = Training(
        steps=steps,
        batch=BATCH,
        lr=0.02,
        optimizer="sgd",
        objective=OBJECTIVES[objective],
        augment=Augment(rotate=10, noise=0.1, gamma=0.1),
        ema=0.5,
        save_every=2,
        log_every=1,
    )

    def batches(step: int) -> Batch:
        if step == stop_at:
            raise StoppedError
        if step == lose_at and this_process().rank == this_process().size - 1:
            raise DataError("a file is gone")
        return draw(step)

    with deterministic():
        fabric = make_fabric(Compute(device="cpu"))
        target = [2 * pictures()[0] + 1]
        known = PriorTensors(ratio=ratio)
        kept = fit(
            fabric,
            network(),
            Objective(settings.objective, known, lambda: target, seed=7),
            settings,
            batches,
            Run(0, "stage", folder),
            set_mode=lambda model: set_mode(model, "train"),
            snapshot=lambda model, step: False,
        )
    plain = network()
    plain.load_state_dict(kept.state_dict())
    return {name: value.contiguous() for name, value in plain.state_dict().items()}


def resumed(folder: Path) -> dict[str, Tensor]:
    """Train, stop after the checkpoint of step 4, and resume."""
    with contextlib.suppress(StoppedError):
        train(folder, "parts", steps=6, stop_at=5)
    return train(folder, "parts", steps=6)


JOBS: dict[str, Callable[[Path], dict[str, Tensor]]] = {
    "unit": lambda folder: unit(),
    "losses": lambda folder: train(folder, "losses"),
    "marks": lambda folder: train(folder, "marks"),
    "parts": lambda folder: train(folder, "parts", steps=6),
    "resumed": resumed,
}


def main(root: Path, recipe: str, overrides: Sequence[str]) -> None:
    torch.set_num_threads(1)
    for name, job in JOBS.items():
        folder = root / name
        folder.mkdir(exist_ok=True)
        save_file(job(folder), folder / f"{this_process().rank}.tensors")
    failures(root)
    events: list[tuple[str, str]] = []
    for _ in range(2):
        read = load_recipe(recipe, overrides)
        pipeline.run(read, root / "run", announce=lambda *event: events.append(event))
    (root / f"events.{this_process().rank}.json").write_text(json.dumps(events))
    train(root / "lost", "losses", lose_at=3)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
