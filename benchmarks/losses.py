"""Time and memory of every loss beside the demo's U-Net in the same run, and of the streamed thresholds.

    python benchmarks/losses.py
    python benchmarks/losses.py --device cuda
    python benchmarks/losses.py --threads 1 --cpu-time           # on a machine that others use
    python benchmarks/losses.py --only potts sorted_area --rounds 30

Prints Markdown. A round is one forward + backward of the network, then of each loss, all on the same device, so that a
busy minute hits both sides alike; a ratio is taken within a round, and the table shows their median (least–most).
Memory is the high-water mark of live bytes over the start, forward + backward, the gradient included, in units of the
logits' size. "over" marks what is past its limit.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from measure import (
    Calls,
    Clock,
    clock,
    judged,
    peak_bytes,
    resident_bytes,
    seconds,
    spread,
    times_in_turn,
)
from torch import Tensor

from uda import losses
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.losses import Prediction
from uda.networks.build import build
from uda.pipeline.environment import environment
from uda.types import IGNORE, OTHER

NETWORK = Network(channels=(16, 32, 64, 128), res_units=2, norm="batch")  # of cardiac_phantom
TENSORS = 4.0
MEGABYTES = 100.0


@dataclass(frozen=True)
class Scene:
    """Logits of a batch, laid out as the network lays them out, and everything to compare them with."""

    logits: Tensor
    image: Tensor
    labels: Tensor
    partly: Tensor
    labelled: Tensor
    boxes: Tensor
    """on the CPU, where a training has them"""
    boxed: Tensor
    coordinates: Tensor
    seeds: Tensor
    mask: Tensor
    confidence: Tensor
    soft: Tensor
    maps: Tensor
    prior: Tensor
    log_dual: Tensor
    segments: Tensor
    landmarks: Tensor
    discriminator: losses.Discriminator


def scene(shape: Sequence[int], device: torch.device, layout: torch.memory_format) -> Scene:
    torch.manual_seed(0)
    batch, classes, *space = shape
    labels = torch.randint(classes, (batch, *space)).masked_fill(
        torch.rand(batch, *space) < 0.2, IGNORE
    )
    prior = torch.arange(classes, 0, -1) / torch.arange(1, classes + 1).sum()
    labelled = (torch.arange(classes) % 2 == 1).expand(batch, classes)
    named = (labels % 2 == 1) | (labels == IGNORE)
    made = Scene(
        logits=3 * torch.randn(*shape).contiguous(memory_format=layout),
        image=torch.randn(batch, 1, *space),
        labels=labels,
        partly=labels.masked_fill(~named, OTHER),
        labelled=labelled,
        boxes=some_boxes(batch, classes, space),
        boxed=labelled,
        coordinates=turned(batch, space),
        seeds=labels.masked_fill(torch.rand(batch, *space) < 0.99, IGNORE),
        mask=torch.rand(batch, *space) < 0.8,
        confidence=torch.rand(batch, *space),
        soft=torch.randn(*shape).softmax(1),
        maps=torch.randn(classes, *space).softmax(0),
        prior=prior,
        log_dual=torch.zeros(classes),
        segments=torch.randint(64, (batch, *space)),
        landmarks=torch.randint(classes, (batch, 64)),
        discriminator=losses.Discriminator(classes),
    )
    kept = {"boxes": made.boxes}
    return Scene(**{name: value.to(device) for name, value in vars(made).items()} | kept)


def some_boxes(batch: int, classes: int, space: Sequence[int]) -> Tensor:
    """Three boxes an image, of a quarter to a half of its sides."""
    count, size = 3 * batch, torch.tensor(space)
    extent = (size * (0.25 + 0.25 * torch.rand(count, len(space)))).long()
    first = ((size - extent) * torch.rand(count, len(space))).long()
    row = torch.stack([torch.arange(count) // 3, torch.randint(1, classes, (count,))], 1)
    return torch.cat([row, first, first + extent - 1], 1)


def turned(batch: int, space: Sequence[int]) -> Tensor:
    """Where the pixels lay before images were turned by 10° and scaled by 1.1 about their middle."""
    middle = torch.tensor(space).view(-1, 1, 1) / 2
    grid = torch.stack(torch.meshgrid(*(torch.arange(float(n)) for n in space), indexing="ij"))
    row, column = (grid - middle) / 1.1
    sine, cosine = math.sin(math.radians(10)), math.cos(math.radians(10))
    place = torch.stack([cosine * row - sine * column, sine * row + cosine * column]) + middle
    return place.expand(batch, -1, -1, -1)


@dataclass(frozen=True)
class Row:
    """A loss of a scene and of logits (or of a ``Prediction``), and what share of a network step it may cost."""

    loss: Callable[[Scene, Any], Tensor]
    share: float | None = 0.1
    tensors: float | None = TENSORS
    of: Callable[[Scene, Tensor], list[Tensor]] = field(default=lambda scene, logits: [logits])
    """what the gradient is taken for"""


WITH_NETWORK = partial(Row, share=None, tensors=None)
"""What has a network of its own has no limit."""

ROWS = {
    "cross_entropy": Row(lambda s, z: losses.cross_entropy(z, s.labels)),
    "dice": Row(lambda s, z: losses.dice(z, s.labels)),
    "partial_cross_entropy": Row(
        lambda s, z: losses.partial_cross_entropy(z, s.labels, s.confidence)
    ),
    "soft_cross_entropy": Row(lambda s, z: losses.soft_cross_entropy(z, s.soft, s.confidence)),
    "partial_labels": Row(lambda s, z: losses.partial_labels(z, s.partly, s.labelled)),
    "partial_dice": Row(lambda s, z: losses.partial_dice(z, s.partly, s.labelled)),
    "agreement": Row(lambda s, z: losses.agreement(z, s.soft.clamp_min(1e-6).log())),
    "entropy": Row(lambda s, z: losses.entropy(z)),
    "entropy weighted, masked": Row(lambda s, z: losses.entropy(z, s.prior, False, s.mask)),
    "min_entropy": Row(lambda s, z: losses.min_entropy(z)),
    "max_square": Row(lambda s, z: losses.max_square(z)),
    "max_square image_weighted": Row(lambda s, z: losses.max_square(z, image_weighted=True)),
    "class_ratio_kl": Row(lambda s, z: losses.class_ratio_kl(z, s.prior)),
    "class_ratio_kl prior_to_prediction, batch": Row(
        lambda s, z: losses.class_ratio_kl(z, s.prior, "prior_to_prediction", "batch")
    ),
    "class_ratio_kl max_normalized": Row(
        lambda s, z: losses.class_ratio_kl(z, s.prior, kind="max_normalized", power=5.0)
    ),
    "class_ratio_kl with a tolerance": Row(
        lambda s, z: losses.class_ratio_kl(z, s.prior, tolerance=0.2)
    ),
    "class_ratio_hinge": Row(lambda s, z: losses.class_ratio_hinge(z, s.prior)),
    "size_cross_entropy": Row(lambda s, z: losses.size_cross_entropy(z, s.prior)),
    "dual_class_ratio": Row(lambda s, z: losses.dual_class_ratio(z, s.prior, s.log_dual)),
    "mutual_information": Row(lambda s, z: losses.mutual_information(z)),
    "size_bounds": Row(lambda s, z: losses.size_bounds(z, 0.9 * s.prior, s.prior)),
    "log_barrier": Row(lambda s, z: losses.log_barrier(z, 0.9 * s.prior, s.prior, 5.0)),
    "sorted_area": Row(lambda s, z: losses.sorted_area(z, s.prior)),
    "latent_cross_entropy": Row(
        lambda s, z: losses.latent_cross_entropy(z, 0.9 * s.prior, s.prior)
    ),
    "latent_cross_entropy tags": Row(
        lambda s, z: losses.latent_cross_entropy(
            z, *losses.tag_bounds(s.prior > s.prior.amin(), z[0, 0].numel())
        )
    ),
    # twice as many passes over the pixels, because ε = 0.05 makes predictions 20 times as sure
    "balanced_cross_entropy": Row(
        lambda s, z: losses.balanced_cross_entropy(z, s.prior), share=0.2
    ),
    "balanced_cross_entropy over image": Row(
        lambda s, z: losses.balanced_cross_entropy(z, s.prior, 1.0, "image")
    ),
    "boxes": Row(lambda s, z: losses.boxes(z, s.boxes, s.boxed)),
    "boxes turned": Row(lambda s, z: losses.boxes(z, s.boxes, s.boxed, s.coordinates)),
    "dice_consistency": Row(lambda s, z: losses.dice_consistency(z, s.soft, s.mask)),
    "mrkld": Row(lambda s, z: losses.mrkld(z)),
    "mrkld masked": Row(lambda s, z: losses.mrkld(z, s.mask)),
    "spatial_prior_kl": Row(lambda s, z: losses.spatial_prior_kl(z, s.maps)),
    "spatial_prior_kl prediction_to_prior": Row(
        lambda s, z: losses.spatial_prior_kl(z, s.maps, "prediction_to_prior")
    ),
    "landmark_cross_entropy": Row(
        lambda s, z: losses.landmark_cross_entropy(z, s.segments, s.landmarks)
    ),
    "potts": Row(lambda s, z: losses.potts(z, s.image), share=1.0),
    "laplacian": Row(lambda s, z: losses.laplacian(z, s.image)),
    "laplacian window": Row(lambda s, z: losses.laplacian(z, s.image, "window"), share=1.0),
    "dense_crf": Row(lambda s, z: losses.dense_crf(z, s.image)),
    # minimum cuts on the CPU; of noise, which takes longest
    "grid_crf": Row(lambda s, z: losses.grid_crf(z, s.image, s.seeds, 1.0), share=None),
    "adversarial_loss": WITH_NETWORK(lambda s, z: losses.adversarial_loss(s.discriminator, z)),
    "discriminator_loss": WITH_NETWORK(
        lambda s, z: losses.discriminator_loss(
            s.discriminator, losses.self_information(z), losses.self_information(z)
        ),
        of=lambda s, z: list(s.discriminator.parameters()),
    ),
}
"""Every public loss by its name, and after a space a variant that takes another way through the code."""


def once(row: Row, given: Scene) -> None:
    """Forward and backward of a loss."""
    logits = given.logits.detach().requires_grad_()
    torch.autograd.grad(row.loss(given, logits), row.of(given, logits))


def network_step(given: Scene, layout: torch.memory_format) -> Callable[[], object]:
    """Forward and backward of the demo's U-Net, laid out as in training, without a loss."""
    model = build(NETWORK, given.logits.shape[1]).to(memory_format=layout).to(given.logits.device)
    gradient = torch.randn_like(given.logits)

    def step() -> None:
        torch.autograd.grad(model(given.image), list(model.parameters()), gradient)

    return step


def loss_lines(
    given: Scene, layout: torch.memory_format, rounds: int, names: Sequence[str], now: Clock
) -> Iterator[str]:
    device, unit = given.logits.device, given.logits.nbytes
    works: dict[str, Callable[[], object]] = {"network": network_step(given, layout)}
    works |= {name: partial(once, ROWS[name], given) for name in names}
    taken = times_in_turn(works, rounds, now)
    network = taken.pop("network")
    size = "×".join(map(str, given.logits.shape))
    yield f"| {size}, {rounds} rounds | ms | of a network step | limit | tensors at the peak | limit |"
    yield "|---|---|---|---|---|---|"
    yield f"| U-Net forward + backward | {1000 * statistics.median(network):.1f} | 1 | | | |"
    for name, own in taken.items():
        row, ratios = ROWS[name], [a / b for a, b in zip(own, network, strict=True)]
        tensors = peak_bytes(works[name], device) / unit
        share = statistics.median(ratios)
        cells = [
            f"{1000 * statistics.median(own):.1f}",
            judged(spread(ratios, ".1%"), share, row.share, f"{row.share or 0:.0%}"),
            # a scalar and a few per-class values are not a tensor of the logits' size
            judged(f"{tensors:.2f}", tensors - 0.05, row.tensors, f"{row.tensors or 0:.0f}"),
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def sharing_lines(given: Scene, rounds: int, now: Clock) -> Iterator[str]:
    """Two losses of one objective, given one ``Prediction`` and given logits each."""

    def both(scene: Scene, logits: Any) -> Tensor:
        return losses.entropy(logits) + losses.class_ratio_kl(logits, scene.prior)

    rows = {
        "one Prediction": Row(lambda scene, logits: both(scene, Prediction(logits))),
        "logits each": Row(both),
    }
    works = {name: partial(once, row, given) for name, row in rows.items()}
    taken = times_in_turn(works, rounds, now)
    ratios = [a / b for a, b in zip(*taken.values(), strict=True)]
    yield "| entropy + class_ratio_kl | log_softmax forward, backward | ms | time | tensors |"
    yield "|---|---|---|---|---|"
    for name, work in works.items():
        with Calls() as calls:
            work()
        kernels = ("_log_softmax", "_log_softmax_backward_data")
        counts = ", ".join(str(calls.counts[kernel]) for kernel in kernels)
        ratio = spread(ratios, ".2f") if name == "one Prediction" else "1"
        tensors = peak_bytes(work, given.logits.device) / given.logits.nbytes
        spent = 1000 * statistics.median(taken[name])
        yield f"| {name} | {counts} | {spent:.1f} | {ratio} | {tensors:.2f} |"


def _stream(
    images: int, classes: int, size: Sequence[int], threads: int, device: torch.device
) -> tuple[int, float, bool]:
    """Thresholds of images that are made one at a time, in one buffer: bytes beyond it, seconds, soundness."""
    torch.set_num_threads(threads)
    image = torch.randn(1, classes, *size, device=device)
    spent = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
    else:
        start = resident_bytes("VmRSS")
    histogram = losses.ConfidenceHistogram(classes, device)
    for _ in range(images):
        image.normal_(std=3.0)
        spent.append(seconds(partial(histogram.add, image), clock(device, False)))
    thresholds = histogram.log_thresholds(0.2)
    cuda = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if cuda else resident_bytes("VmHWM")
    return peak - start, statistics.median(spent), not bool(thresholds.isnan().any())


def stream_lines(
    images: int, classes: int, size: Sequence[int], threads: int, device: torch.device
) -> Iterator[str]:
    """In a process of its own, whose memory holds one image and the interpreter at the start."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        extra, spent, sound = pool.submit(_stream, images, classes, size, threads, device).result()
    if not sound:
        raise SystemExit("a threshold is not a number")
    held, shown = extra / 1e6, "×".join(map(str, (classes, *size)))
    one = 4 * classes * torch.Size(size).numel() / 1e6
    yield "| streamed thresholds | ms an image | memory beyond one image | limit |"
    yield "|---|---|---|---|"
    cell = judged(f"{held:.0f} MB", held, MEGABYTES, f"{MEGABYTES:.0f} MB")
    yield f"| {images} images of {shown} ({one:.0f} MB each) | {1000 * spent:.1f} | {cell} |"


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="CPU seconds of this process instead of seconds, with --threads 1: for a machine that others use",
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 5, 256, 256], metavar="b k h w")
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    parser.add_argument("--layout", choices=layouts, default="channels_last", help="of the logits")
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS), metavar="LOSS")
    parser.add_argument("--images", type=int, default=500, help="streamed; 0 leaves that table out")
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024])
    given = parser.parse_args(words)
    if given.cpu_time and (given.threads, given.device.type) != (1, "cpu"):
        parser.error("--cpu-time needs --threads 1 and the CPU")
    given.layout = layouts[given.layout]
    return given


def main(words: Sequence[str] | None = None) -> None:
    given = arguments(words)
    torch.set_num_threads(given.threads)
    told = environment(Compute(device=given.device.type))
    print(", ".join(f"{key} {value}" for key, value in told.items()), end="\n\n")
    tensors = scene(given.shape, given.device, given.layout)
    now = clock(given.device, given.cpu_time)
    for line in loss_lines(tensors, given.layout, given.rounds, given.only, now):
        print(line)
    print()
    for line in sharing_lines(tensors, given.rounds, now):
        print(line)
    print()
    if given.images:
        streamed = stream_lines(
            given.images, given.classes, given.size, given.threads, given.device
        )
        for line in streamed:
            print(line)


if __name__ == "__main__":
    main()
