"""Does the score of `uda suggest` tell where a model is wrong? Rank correlations with errors, of several criteria.

    python benchmarks/suggest.py MODEL... --root FOLDER [--with OTHER] [--k 3] [--slices 3]
        [--card cmrseg_lge] [--split adapt] [--boxes lge/weak/boxes.csv] [--scribbles lge/weak/scribbles]

No training and no complete label is needed. Errors come from weak annotations of the images, which `uda suggest` never
sees. Of a slice: 1 − IoU of the tight box of a structure and the box that was given, mean over the structures that
either shows (`IoU`), and the pixels in one box alone, over both (`pixels`). Of a case: the mean of the first over its
slices, the sum of the second, and the share of scribbled pixels with the wrong class, mean over classes (`scribbles`).
`within` is the mean over cases of the correlation over their slices. Random scores have 0 on average; `size`, minus the
predicted structures' pixels, shows how much small structures alone explain. Prints Markdown, the errors of the
suggested cases, and the cases as YAML.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from uda.config.loading import load_card
from uda.config.recipe import Compute
from uda.data.cases import Case, card_root, cases_of
from uda.data.geometry import inside, label_slices
from uda.data.volumes import read_volume
from uda.devices.device import make_fabric
from uda.files.csv_files import read_rows
from uda.networks.model_file import Trained
from uda.prediction.opinions import Panel
from uda.prediction.suggestion import (
    Opinions,
    chosen_cases,
    disagreement,
    similarity,
    suggestions,
)
from uda.prediction.views import VIEWS
from uda.prediction.volumes import PreparedCase, read_case, view_planes

DRAWS = 200
"""of random scores"""

Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]
Boxes = dict[tuple[str, int], dict[str, Box]]
"""(case, slice) → structure → first row and column, last row and column"""


def entropy(p: Tensor) -> Tensor:
    """Entropy ``[n]`` of probabilities ``[n, k, h, w]``, summed over pixels."""
    return torch.special.entr(p).sum((1, 2, 3))


def bald(views: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Entropy of the mean of views minus the mean of their entropies ``[n]``, summed over pixels.

    Args:
        views: probabilities ``[n, k, h, w]``, and ``[h, w]`` with 1 where a view shows a pixel.

    Source: Houlsby et al., Bayesian Active Learning for Classification and Preference Learning, 2011; Gal, Islam &
    Ghahramani, Deep Bayesian Active Learning with Image Data, ICML 2017, there over dropout.
    """
    count = torch.stack([shown for _, shown in views]).sum(0)
    mean = torch.stack([p * shown for p, shown in views]).sum(0) / count
    each = torch.stack([torch.special.entr(p).sum(1) * shown for p, shown in views]).sum(0) / count
    return (torch.special.entr(mean).sum(1) - each).sum((1, 2))


def soft_dice_doubt(p: Tensor) -> Tensor:
    """1 − soft Dice ``[n]`` of probabilities ``[n, k, h, w]`` and their own labels; the mean over structures found.

    Source: Borges, Pacheco & Silva, Soft Dice Confidence, 2024, slice by slice.
    """
    labels = torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).movedim(-1, 1)
    hard, soft = labels.sum((2, 3))[:, 1:], p.sum((2, 3))[:, 1:]
    dice = 2 * (p * labels).sum((2, 3))[:, 1:] / (hard + soft).clamp_min(1e-6)
    found = hard > 0
    return ((1 - dice) * found).sum(1) / found.sum(1).clamp_min(1)


@dataclass(frozen=True)
class Judged:
    """Scores of the slices of one case by every criterion, and the errors of its mask."""

    opinions: Opinions
    scores: dict[str, Floats]
    """criterion → ``[s]``"""
    cases: dict[str, float]
    """criterion → score of the case"""
    iou: Floats
    pixels: Floats
    scribbles: float


def soft_scores(trained: Trained, case: PreparedCase, fabric: Fabric) -> tuple[Tensor, Tensor]:
    """BALD, entropy, soft Dice and size ``[4, s]``, and the labels ``[s, h, w]``."""
    streams = [view_planes(trained.network, trained.info, case.slices, fabric, v) for v in VIEWS]
    found, labels = [], []
    for parts in zip(*streams, strict=True):
        views = [view.back(part.softmax(1)) for view, part in zip(VIEWS, parts, strict=True)]
        p = views[0][0]
        labels.append(p.argmax(1))
        size = -(labels[-1] > 0).sum((1, 2)).float()
        found.append(torch.stack([bald(views), entropy(p), soft_dice_doubt(p), size]))
    return torch.cat(found, 1), torch.cat(labels)


def judged(
    case: Case,
    trained: Trained,
    panels: dict[str, Panel],
    boxes: Boxes,
    scribbles: Path | None,
    fabric: Fabric,
) -> Judged:
    """One case by every criterion."""
    prepared = read_case(case, trained.info.prepare)
    soft, labels = soft_scores(trained, prepared, fabric)
    scores = dict(
        zip(("BALD", "entropy", "1 − soft Dice", "size"), soft.double().numpy(), strict=True)
    )
    cases = {name: float(score.mean()) for name, score in scores.items()}
    opinions = {name: panel.opinions(case) for name, panel in panels.items()}
    for name, one in opinions.items():
        scores[f"{name}: 1 − Dice"], cases[f"{name}: 1 − Dice"] = disagreement(one.dice), one.doubt
        scores[f"{name}: share"] = one.share
        scores[f"{name}: score of `uda suggest`"] = one.scores
    classes, own = trained.info.classes, prepared.geometry.stored_slice
    iou, pixels = [], []
    for number, label in enumerate(labels.numpy()):
        given = boxes.get((case.name, own(number)), {})
        pairs = [(tight(label == k), given.get(classes[k])) for k in range(1, len(classes))]
        shown = [overlap(*pair) for pair in pairs if any(pair)]
        iou.append(np.mean([1 - one for one, _ in shown]) if shown else 0.0)
        pixels.append(sum(apart for _, apart in shown))
    wrong = np.nan
    if scribbles is not None:
        said = label_slices(
            read_volume(scribbles / case.image.name).array.astype(np.uint8), prepared.geometry
        )
        image = (slice(None), *inside(prepared.geometry))
        wrong = wrong_share(labels.numpy()[image], said[image], len(classes))
    return Judged(opinions["views"], scores, cases, np.array(iou), np.array(pixels), wrong)


def tight(mask: NDArray[np.bool_]) -> Box | None:
    """The box of a mask; None of an empty one."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])


def overlap(first: Box | None, second: Box | None) -> tuple[float, float]:
    """IoU of two boxes, and the pixels in one alone; a box that is not there is empty."""
    areas = [0 if b is None else (b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (first, second)]
    both = 0
    if first is not None and second is not None:
        rows = min(first[2], second[2]) - max(first[0], second[0]) + 1
        columns = min(first[3], second[3]) - max(first[1], second[1]) + 1
        both = max(0, rows) * max(0, columns)
    return both / (sum(areas) - both), float(sum(areas) - 2 * both)


def wrong_share(labels: NDArray[np.int64], said: NDArray[np.uint8], classes: int) -> float:
    """Share of annotated pixels with another label; the mean over classes."""
    shares = [(labels[said == k] != k).mean() for k in range(classes) if (said == k).any()]
    return float(np.mean(shares)) if shares else np.nan


def read_boxes(path: Path) -> Boxes:
    """Boxes of a CSV ``case,slice,class,row0,column0,row1,column1`` with both ends included."""
    rows = read_rows(path)
    found: Boxes = defaultdict(dict)
    for _, (case, number, name, *ends) in rows[1:]:
        top, left, bottom, right = map(int, ends)
        found[case, int(number)][name] = (top, left, bottom, right)
    return dict(found)


def rho(first: Sequence[float] | Floats, second: Sequence[float] | Floats) -> float:
    """Spearman's rank correlation; 0 where one of them is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def table(found: Sequence[Judged], seed: int = 0) -> str:
    """Correlations of every criterion in Markdown."""
    head = ("slices IoU", "within IoU", "slices pixels", "within pixels")
    head += ("cases IoU", "cases pixels", "cases scribbles")
    lines = [f"| criterion | {' | '.join(head)} |", f"|{'---|' * (1 + len(head))}"]
    lines.append(f"| random, mean ± sd of {DRAWS} | {' | '.join(_by_chance(found, seed))} |")
    for name in found[0].scores:
        scores = [one.scores[name] for one in found]
        cells = list(_of_slices(scores, found))
        if name in found[0].cases:
            of_case = [one.cases[name] for one in found]
            cells += [
                rho(of_case, errors) if np.isfinite(errors).all() else np.nan
                for errors in errors_of(found).values()
            ]
        shown = [f"{cell:.2f}" if np.isfinite(cell) else "–" for cell in cells]
        lines.append(f"| {name} | {' | '.join(shown + ['–'] * (len(head) - len(shown)))} |")
    return "\n".join(lines)


def _of_slices(scores: Sequence[Floats], found: Sequence[Judged]) -> Iterator[float]:
    """Correlation over all slices and mean correlation within a case, with either error."""
    for error in ("iou", "pixels"):
        errors = [getattr(one, error) for one in found]
        yield rho(np.concatenate(scores), np.concatenate(errors))
        yield float(np.mean([rho(*pair) for pair in zip(scores, errors, strict=True)]))


def _by_chance(found: Sequence[Judged], seed: int) -> Iterator[str]:
    """Correlations of random scores: how far a criterion without any value may get."""
    rng = np.random.default_rng(seed)
    every = []
    for _ in range(DRAWS):
        cells = list(_of_slices([rng.random(len(one.iou)) for one in found], found))
        every.append(cells + [rho(rng.random(len(found)), e) for e in errors_of(found).values()])
    for mean, sd in zip(np.mean(every, 0), np.std(every, 0), strict=True):
        yield f"{mean:.2f} ± {sd:.2f}" if np.isfinite(mean) else "–"


def errors_of(found: Sequence[Judged]) -> dict[str, list[float]]:
    """The errors of every case."""
    return {
        "IoU": [float(one.iou.mean()) for one in found],
        "pixels": [float(one.pixels.sum()) for one in found],
        "scribbles": [one.scribbles for one in found],
    }


def chosen_table(found: Sequence[Judged], k: int) -> str:
    """Mean errors of the cases that rules choose, and how near the nearest chosen case is to every case."""
    doubt = np.array([one.opinions.doubt for one in found])
    alike = similarity(np.stack([one.opinions.features for one in found]))
    chosen: dict[str, list[int]] = {
        "`uda suggest`": chosen_cases(doubt, alike, k),
        "most doubtful": [int(i) for i in np.argsort(-doubt, kind="stable")[:k]],
        "most typical": chosen_cases(np.ones_like(doubt), alike, k),
        "farthest first": farthest_first(doubt, alike, k),
    }
    rng = np.random.default_rng(0)
    draws = [rng.choice(len(found), min(k, len(found)), replace=False) for _ in range(1000)]
    lines = [f"| {k} cases | IoU | pixels | scribbles | likeness | |", f"|{'---|' * 6}"]
    for name, some in chosen.items():
        listed = ", ".join(found[i].opinions.case for i in some)
        lines.append(f"| {name} | {' | '.join(_means(found, alike, [some]))} | {listed} |")
    lines.append(f"| random, mean of 1000 | {' | '.join(_means(found, alike, draws))} | |")
    return "\n".join(lines)


def _means(
    found: Sequence[Judged], alike: Floats, chosen: Sequence[Sequence[int] | NDArray[np.int64]]
) -> Iterator[str]:
    for errors in errors_of(found).values():
        yield f"{np.mean([np.mean(np.array(errors)[list(some)]) for some in chosen]):.3g}"
    yield f"{np.mean([alike[list(some)].max(0).mean() for some in chosen]):.2f}"


def farthest_first(doubt: Floats, alike: Floats, k: int) -> list[int]:
    """The most doubtful case, then those with much doubt that are unlike the chosen ones.

    Source: Sener & Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018, with
    the doubt as a weight.
    """
    chosen = [int(doubt.argmax())]
    while len(chosen) < min(k, len(doubt)):
        value = doubt * (1 - alike[chosen].max(0))
        value[chosen] = -1
        chosen.append(int(value.argmax()))
    return chosen


def main(arguments: Sequence[str] | None = None, say: Callable[[str], object] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="+")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--card", default="cmrseg_lge")
    parser.add_argument("--split", default="adapt")
    parser.add_argument("--with", dest="other", type=Path, help="compare with this model, too")
    parser.add_argument("--boxes", default="lge/weak/boxes.csv", help="below the card's root")
    parser.add_argument("--scribbles", default="lge/weak/scribbles", help="folder; '' for none")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--slices", type=int, default=3)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    card, fabric = load_card(given.card), make_fabric(Compute(device="cpu"))
    cases, root = cases_of(card, given.root, given.split), card_root(card, given.root)
    boxes = read_boxes(root / given.boxes)
    scribbles = root / given.scribbles if given.scribbles else None
    for path in given.model:
        trained = Trained.load(path)
        # the images are the target's, whatever domain the model file was written for
        trained = replace(trained, info=replace(trained.info, prepare=card.prepare))
        panels = {"views": Panel(trained.network, trained.info, fabric)}
        if given.other is not None:
            other = Trained.load(given.other)
            second = (other.network, replace(other.info, prepare=card.prepare))
            panels["other model"] = Panel(trained.network, trained.info, fabric, second)
        found = [judged(case, trained, panels, boxes, scribbles, fabric) for case in cases]
        say(f"\n{path}\n\n{table(found)}\n\n{chosen_table(found, given.k)}\n")
        listed = suggestions(
            [one.opinions for one in found], panels["views"].structures, given.k, given.slices
        )
        some = list(dict.fromkeys(one.case for one in listed))
        places = {name: [one.slice for one in listed if one.case == name] for name in some}
        say(yaml.safe_dump({"cases": some, "slices": places}, default_flow_style=None, width=200))


if __name__ == "__main__":
    main()
