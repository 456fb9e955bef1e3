"""What augmentation costs: its time over that of the training step it feeds, all in turns in one run.

    OMP_NUM_THREADS=1 python benchmarks/augment.py
    python benchmarks/augment.py --device cuda

The step is a forward and a backward pass of the default U-Net with cross-entropy and Dice, clipping and AdamW. Each
named set and each change of its own has a line, 2-D and, for the sets of volumes, 3-D. Images are noise: their content
does not change the time. Prints Markdown with medians and the range over the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

import torch
from measure import clock, judged, spread, times_in_turn
from torch import Tensor, nn

from uda import losses
from uda.config.augment import Augment
from uda.config.loading import parse
from uda.config.networks import Network
from uda.data.augment import augment
from uda.networks.build import build

CLASSES = 4
LIMIT = 0.15
"""of a training step, for the strong sets"""
SETS = ("light", "strong", "photo_light", "photo_strong")
CHANGES: dict[str, dict[str, object]] = {
    "rotate, scale, shift": {"rotate": 15, "scale": 0.2, "shift": 0.1},
    "gamma, contrast, brightness": {"gamma": 0.4, "contrast": 0.2, "brightness": 0.2},
    "noise": {"noise": 0.1},
    "elastic": {"elastic": {"p": 1.0}},
    "class_bezier": {"class_bezier": {"p": 1.0}},
    "bezier": {"bezier": {"p": 1.0}},
    "location_scale": {"location_scale": {"p": 1.0}},
    "convolve": {"convolve": {"p": 1.0}},
    "bias": {"bias": {"p": 1.0}},
    "low_resolution": {"low_resolution": {"p": 1.0}},
    "mask": {"mask": {"p": 1.0}},
}
"""each for every image"""


def step_of(network: nn.Module, image: Tensor, label: Tensor) -> Callable[[], None]:
    """A training step on these images."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        logits = network(image)
        loss = losses.cross_entropy(logits, label) + losses.dice(logits, label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def drawn(image: Tensor, label: Tensor, settings: Augment) -> Callable[[], None]:
    """The same images under other changes at each call."""
    seeds = count()

    def work() -> None:
        generator = torch.Generator(image.device).manual_seed(next(seeds))
        augment(image, label, settings, generator)

    return work


def lines(
    shape: tuple[int, ...], channels: int, batch: int, rounds: int, device: torch.device
) -> list[str]:
    """Lines of the table for images of this shape."""
    image = torch.rand(batch, channels, *shape, device=device)
    label = torch.randint(0, CLASSES, (batch, *shape), device=device)
    settings = parse(
        Network, {"spatial_dims": len(shape), "patch": shape} if len(shape) == 3 else {}, "network"
    )
    network = build(settings, CLASSES, channels).train().to(device)
    works = {"": step_of(network, image, label)}
    some = [name for name in SETS if name.startswith("photo") == (channels == 3)]
    chosen: dict[str, dict[str, object]] = {f"`{name}`": {"generalize": name} for name in some}
    if channels == 1:
        chosen |= CHANGES
    for name, raw in chosen.items():
        works[name] = drawn(image, label, parse(Augment, raw, name))
    taken = times_in_turn(works, rounds, clock(device, device.type == "cpu"))
    step = taken.pop("")
    size = "×".join(map(str, (batch, channels, *shape)))
    rows = []
    for name, seconds in taken.items():
        shares = [one / base for one, base in zip(seconds, step, strict=True)]
        middle = sorted(shares)[len(shares) // 2]
        limit = LIMIT if "strong" in name else None
        rows.append(
            f"| {size} | {name} | {judged(spread(shares, '.1%'), middle, limit, f'{LIMIT:.0%}')} |"
        )
    return rows


def main(given: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=192, help="pixels of a slice's side")
    parser.add_argument("--depth", type=int, default=16, help="slices of a 3-D patch")
    parser.add_argument("--batch", type=int, default=8, help="slices a batch; patches: a quarter")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(given)
    measured = partial(lines, rounds=options.rounds, device=torch.device(options.device))
    side = options.size
    print("| images | change | of a training step | limit |")
    print("|---|---|---|---|")
    for row in (
        *measured((side, side), 1, options.batch),
        *measured((side, side), 3, options.batch),
        *measured((options.depth, side // 2, side // 2), 1, max(2, options.batch // 4)),
    ):
        print(row, flush=True)


if __name__ == "__main__":
    main()
