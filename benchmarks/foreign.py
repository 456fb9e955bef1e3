"""A network that is not ours on real data: trained elsewhere, imported, adapted source-free, scored.

    python benchmarks/foreign.py --root DATA/cardiac_bssfp_lge --seeds 0,1,2

Per seed: a plain U-Net (in this file) is trained on the bSSFP slices by a plain PyTorch loop and leaves a state
dict. Its program is exported with torch.export; `uda import` makes both one model file, which `uda.api.adapt` adapts
to the LGE images p11–p35 without the source (adabn, and mean_teacher at lr 1e-4 for 400 steps of 8, as the guard
keeps it and at its last step), and which is scored on p01–p10 before and after. The same weights in the Python class
must give the same masks. Prints Markdown; a part that is finished is not done again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from uda.api import adapt, evaluate_model, predict
from uda.cli.main import import_
from uda.config.augment import Augment
from uda.config.loading import load_card
from uda.config.recipe import Compute
from uda.data.augment import augment
from uda.data.cases import cases_of
from uda.data.store import Store, open_store
from uda.devices.device import deterministic, make_fabric
from uda.files.atomic import atomic_path, read_json
from uda.networks.importing import import_model
from uda.pipeline.environment import environment

SOURCE, TARGET = "cmrseg_bssfp", "cmrseg_lge"
WIDTH, BATCH, LR = 8, 8, 1e-3
CHANGES = Augment(rotate=20, scale=0.1, shift=0.05, flip=True)
ADAPT = ("lr=1e-4", "batch=8")


class Block(nn.Sequential):
    """Two 3×3 convolutions, each with BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        steps: list[nn.Module] = []
        for first in (inputs, outputs):
            convolution = nn.Conv2d(first, outputs, 3, padding=1, bias=False)
            steps += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*steps)


class PlainUNet(nn.Module):
    """The U-Net of Ronneberger et al. 2015 at an eighth of its width, as many a laboratory has one."""

    def __init__(self, classes: int = 4, width: int = WIDTH) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(5)]
        self.down = nn.ModuleList(
            Block(a, b) for a, b in zip([1, *widths[:-1]], widths, strict=True)
        )
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(Block(2 * b, b) for _, b in pairs)
        self.last = nn.Conv2d(width, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        kept: list[Tensor] = []
        x = image
        for level, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if level else x)
            kept.append(x)
        kept.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([kept.pop(), up(x)], 1))
        return self.last(x)


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    p = logits.softmax(1)
    y = functional.one_hot(labels, p.shape[1]).movedim(-1, 1).to(p.dtype)
    shared, both = (p * y).sum((0, 2, 3)), (p + y).sum((0, 2, 3))
    return 1 - (2 * shared[1:] / (both[1:] + 1e-5)).mean()


def train(store: Store, steps: int, seed: int, device: torch.device) -> dict[str, Tensor]:
    """An ordinary loop: Adam, cosine rate, cross-entropy and Dice, random rotations and flips."""
    torch.manual_seed(seed)
    network = PlainUNet().to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = np.random.default_rng(seed)
    generator = torch.Generator(device)
    generator.manual_seed(seed)
    for step in range(steps):
        chosen = draw.choice(len(store), BATCH, replace=False)
        image = torch.from_numpy(store.images[chosen])
        image = image.reshape(BATCH, 1, *image.shape[-2:]).to(device)
        label = torch.from_numpy(store.labels[chosen].astype(np.int64)).to(device)
        image, label = augment(image, label, CHANGES, generator)
        logits = network(image)
        loss = functional.cross_entropy(logits, label) + soft_dice_loss(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99 or step + 1 == steps:
            print(f"seed {seed} step {step + 1}: loss {float(loss):.4f}", flush=True)
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}


def source_weights(folder: Path, root: Path, steps: int, seed: int, compute: Compute) -> Path:
    """The state dict of the source network, trained now if it is not there."""
    path = folder / "state.pt"
    if path.is_file():
        return path
    card = load_card(SOURCE)
    cases = cases_of(card, root, "train", labels=True)
    store = open_store(card, cases, folder.parent / "store")
    with deterministic():
        state = train(store, steps, seed, make_fabric(compute).device)
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
    return path


def exported(folder: Path) -> Path:
    """The program of an untrained network: its weights come from the state dict."""
    path = folder / "unet.pt2"
    if not path.is_file():
        size = load_card(SOURCE).prepare.size
        batch = torch.export.Dim("batch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            program = torch.export.export(
                PlainUNet().eval(), (torch.zeros(2, 1, *size),), dynamic_shapes=({0: batch},)
            )
        with atomic_path(path) as temporary:
            torch.export.save(program, temporary)
    return path


def target_images(folder: Path, root: Path) -> Path:
    """A folder of the target's images that may be seen, as links."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for case in cases_of(load_card(TARGET), root, "adapt"):
        link = images / case.image.name
        if not link.is_symlink():
            link.symlink_to(case.image.resolve())
    return images


def check_same_masks(model: Path, state: Path, folder: Path, root: Path, compute: Compute) -> None:
    """The exported program and the Python class with the same weights segment a case alike."""
    case = cases_of(load_card(TARGET), root, "test")[0].image
    twin = import_model(
        PlainUNet, folder / "registered", card=SOURCE, weights=state, name="PlainUNet"
    )
    masks = []
    for name, path in (("program", model), ("class", twin)):
        outcomes = list(
            predict(path, case.parent / f"{case.name}*", folder / f"same-{name}", compute=compute)
        )
        masks.append(np.asarray(nibabel.load(outcomes[0].file).dataobj))
    if not np.array_equal(*masks):
        differ = int((masks[0] != masks[1]).sum())
        raise SystemExit(f"program and class disagree in {differ} voxels of {case.name}")
    print(f"program and class agree in every voxel of {case.name}", flush=True)


def rows_of(
    folder: Path, root: Path, steps: int, adapt_steps: int, seed: int, compute: Compute
) -> dict[str, dict[str, Any]]:
    """The scores of one seed: row → metrics."""
    state = source_weights(folder, root, steps, seed, compute)
    model = folder / "source" / "model.safetensors"
    if not model.is_file():
        import_(exported(folder), SOURCE, folder / "source", weights=state)
    check_same_masks(model, state, folder, root, compute)
    images = target_images(folder, root)
    teacher = (*ADAPT, f"steps={adapt_steps}")
    settings: dict[str, tuple[str, Sequence[str]]] = {
        "adabn": ("adabn", ()),
        "mean_teacher": ("mean_teacher", teacher),
        "mean_teacher_last": ("mean_teacher", (*teacher, "select=last")),
    }
    models = {"source": model}
    for row, (method, overrides) in settings.items():
        models[row] = adapt(
            model,
            images,
            folder / row,
            method=method,
            overrides=overrides,
            seed=seed,
            compute=compute,
            quiet=False,
        )
    return {
        name: scores(path, root, folder / f"test-{name}", compute) for name, path in models.items()
    }


def scores(model: Path, root: Path, out: Path, compute: Compute) -> dict[str, Any]:
    path = out / "evaluate" / "metrics.json"
    if not path.is_file():
        evaluate_model(model, TARGET, root, out, split="test", compute=compute)
    (row,) = read_json(path)["rows"]
    return row


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Mean Dice, Dice of each structure (points) and mean ASSD (voxels) of one row."""
    structures = row["dice"]["per_class"]
    dice = {name: 100 * values["mean"] for name, values in structures.items()}
    return {"mean Dice": 100 * row["dice"]["mean"], **dice, "ASSD": row["assd"]["mean"]}


def table(found: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """A line per seed and row, then mean ± sd over seeds."""
    values = {
        (seed, name): numbers(row) for seed, rows in found.items() for name, row in rows.items()
    }
    columns = list(next(iter(values.values())))
    lines = [f"| seed | row | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for (seed, name), row in values.items():
        lines.append(f"| {seed} | {name} | {' | '.join(f'{row[c]:.2f}' for c in columns)} |")
    for name in next(iter(found.values())):
        cells = [_over_seeds([values[seed, name][c] for seed in found]) for c in columns]
        lines.append(f"| all | {name} | {' | '.join(cells)} |")
    return lines


def _over_seeds(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--adapt-steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("checkpoints/foreign"))
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    compute = Compute(device=given.device)
    found = {}
    for seed in map(int, given.seeds.split(",")):
        folder = given.out / f"seed-{seed}-steps-{given.steps}-{given.adapt_steps}"
        found[seed] = rows_of(folder, given.root, given.steps, given.adapt_steps, seed, compute)
    parameters = sum(p.numel() for p in PlainUNet().parameters())
    print(f"\n{environment(compute)}\n")
    print(f"PlainUNet, {parameters / 1e6:.2f} M parameters, {given.steps} steps of {BATCH}")
    print(
        f"adabn; mean_teacher of {given.adapt_steps} steps, {', '.join(ADAPT)}, kept by the guard and last"
    )
    print("Dice in points, ASSD in voxels\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
