"""Data of the section on guarded adaptations, which ``templates/selection.html`` lays out, and its figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from uda.config.postprocess import POST
from uda.config.recipe import LAST
from uda.report.figures import INK, MISS, SOFT, TERM_COLOURS, figure_of, shorten, svg
from uda.report.files import read_selections
from uda.report.schema import Candidate, Selection
from uda.report.wording import BEFORE, marked, ordered, role

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Words(NamedTuple):
    """What a score is called and what it measures."""

    title: str
    text: str
    better: Literal["more", "less", ""] = "more"


SCORES = {
    "consistency": Words(
        "consistency",
        "how well the masks of an image agree (Dice, 0 to 1) with those of the same image when its grey values, its "
        "place or the network's features are disturbed a little",
    ),
    "ratio_distance": Words(
        "distance to the ratio",
        "how far the shares of the pixels that the classes take are from the expected ones (KL divergence in nats; 0 "
        "is a perfect match, and stands for every model where no ratio is known)",
        "less",
    ),
    "agreement": Words(
        "agreement",
        "Dice, 0 to 1, with the mean prediction of all safe models, the two before adaptation among them; a model "
        "that stands alone is suspect",
    ),
    "confidence": Words(
        "source confidence",
        "how probable the model before adaptation finds these masks (soft Dice, 0 to 1)",
    ),
    "mutual_information": Words(
        "mutual information",
        "whether single pixels are sure of their class while all classes together stay in use (nats)",
    ),
    "density": Words(
        "density",
        "how many other pixels of a sample are predicted like a pixel (soft neighbourhood density, nats): predictions "
        "in a few dense groups score high",
    ),
    "nuclear_norm": Words(
        "nuclear norm",
        "whether the predictions of a class-balanced sample of pixels are sure and of many classes (0 to 1)",
    ),
    "held_out": Words(
        "held-out consistency",
        "how well the masks of an image agree (Dice, 0 to 1) with those of the same image under changes that no "
        "student is trained for: coarser pixels, a bias field, another contrast, a random filter, a deformation",
    ),
    "size_variation": Words(
        "size variation",
        "how much the size of a structure in a case changes under these changes (0 to 1)",
        "less",
    ),
    "continuity": Words(
        "continuity",
        "how well the masks of neighbouring slices agree (Dice, 0 to 1); what is usual depends on the slice distance",
    ),
    "largest_component": Words(
        "largest component",
        "which share of a structure is one piece in three dimensions (0 to 1)",
    ),
    "area_smoothness": Words(
        "smoothness of areas",
        "whether a structure's area changes evenly from slice to slice (0 to 1)",
    ),
    "before_agreement": Words(
        "agreement before",
        "Dice, 0 to 1, with the mean prediction of the two models before adaptation",
    ),
    "source_agreement": Words(
        "agreement with the source",
        "Dice, 0 to 1, of the masks with those of the mean prediction with the model before adaptation: what stands "
        "when that model has half of the vote",
    ),
    "entropy": Words(
        "mean entropy",
        "how unsure the model is of a pixel, as a share of the largest possible. It is shown and never used, because "
        "it falls straight through a collapse: a network that calls everything background is very sure",
        "",
    ),
}
KEPT = {
    "source": "the model as it came, before adaptation",
    "adabn": "the model before adaptation, with BatchNorm statistics of the target",
}

KEPT_COLOUR = "#cfe8d5"
CROWD = 20  # models beyond which points would hide the lines
TICKS = 5  # steps that are written below the axis
SPREAD = 0.012  # of the axis, between the points of one model


def kept(run: Path, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What the guard of each variant kept, and the adapted rows that had none."""
    rows = ordered(metrics["rows"])
    plain = [row for row in rows if not row["name"].endswith((POST, LAST))]
    alone = [r for r in plain if role(r) in ("adapted", "oracle") and "selection" not in r]
    found = read_selections(run)
    shown = {row["name"]: found[row["name"]] for row in rows if row["name"] in found}
    return judged(shown, map(marked, alone))


def judged(selections: Mapping[str, Selection], unjudged: Iterable[str] = ()) -> dict[str, Any]:
    """One line for each variant, figures, all candidates, and what the scores measure.

    Args:
        selections: by variant.
        unjudged: marked names of adapted rows that no guard looked at.
    """
    ruling = {score for one in selections.values() for score in one["rule"]}
    limits = {score for one in selections.values() for score in _limiting(one)}
    names = dict.fromkeys(
        score for one in selections.values() for score in (*one["rule"], *_soft(one))
    )
    ranked = sorted(names, key=lambda name: (name not in ruling, name == "entropy"))
    return {
        "variants": [_variant(name, one) for name, one in selections.items()],
        "unjudged": list(unjudged),
        "figures": [
            (f"Ranks of the checkpoints of {name} over its steps", _figure(name, one))
            for name, one in selections.items()
        ],
        "glossary": [(_words(name), name in ruling, name in limits) for name in ranked],
    }


def kept_words(selection: Selection) -> str:
    """What was kept, for somebody who does not know our names."""
    kept = selection["kept"]
    return KEPT.get(kept, f"the checkpoint of {kept}")


def safe_ranks(selection: Selection) -> dict[str, dict[str, float]]:
    """Rank of each safe candidate by each score that counts, 1 the worst."""
    from uda.selection import Scores, mean_ranks

    def scores(one: Candidate) -> Scores:
        values = (one["scores"].get(field.name) for field in fields(Scores))
        return Scores(*(math.nan if value is None else value for value in values))

    safe = {one["name"]: scores(one) for one in selection["candidates"] if one["safe"]}
    ranked = {name: mean_ranks(safe, (name,)) for name in selection["rule"]}
    return {one: {name: ranks[one] for name, ranks in ranked.items()} for one in safe}


def _figure(name: str, selection: Selection) -> str:
    titles = [_words(score).title for score in selection["rule"]]
    return rank_plot(name, selection, safe_ranks(selection), titles)


def _words(score: str, selection: Selection | None = None) -> Words:
    """Words of a score; of one that this version does not know, ``stage.json`` says which values are better."""
    better = selection.get("better", {}) if selection else {}
    return SCORES.get(score, Words(score, "", "less" if better.get(score) == "smaller" else "more"))


def _limiting(selection: Selection) -> set[str]:
    """Scores by which a checkpoint has to be better than AdaBN, or not too far from it."""
    criteria = selection.get("criteria", {})
    distances = {"distance": "ratio_distance", "trust_region": "before_agreement"}
    return {
        *criteria.get("better", {}),
        *(score for name, score in distances.items() if criteria.get(name) is not None),
    }


def _soft(selection: Selection) -> list[str]:
    """Scores that are shown and not ranked, the entropy last."""
    found = dict.fromkeys(s for one in selection["candidates"] for s in one["scores"])
    return sorted((s for s in found if s not in selection["rule"]), key=lambda s: s == "entropy")


def _variant(name: str, one: Selection) -> dict[str, Any]:
    """What one variant kept and why, and every model that was judged."""
    rule, soft = one["rule"], _soft(one)
    best = {score: _best(one, score) for score in rule}
    chosen = one["kept"] if one["fallback"] else f"step {one['step']}"
    checkpoints = [c for c in one["candidates"] if c["name"] not in BEFORE]
    arrows = {"more": "\u00a0↑", "less": "\u00a0↓", "": ""}
    return {
        "name": name,
        "kept": one["kept"],
        "before": BEFORE.get(one["kept"]),
        "safe": sum(c["safe"] for c in checkpoints),
        "judged": len(checkpoints),
        "why": one["why"],
        "ended": one["ended"],
        "heads": [f"{w.title}{arrows[w.better]}" for w in (_words(s, one) for s in (*rule, *soft))],
        "candidates": [_candidate(c, chosen, rule, soft, best) for c in one["candidates"]],
    }


def _candidate(
    one: Candidate,
    chosen: str,
    rule: Sequence[str],
    soft: Sequence[str],
    best: Mapping[str, float | None],
) -> dict[str, Any]:
    """A model, and its scores: each in words, whether it counts, and whether it is the best."""
    title = one["name"] if one["name"] in BEFORE else f"step {one['step']}"
    scores = []
    for name in (*rule, *soft):
        value, counts = one["scores"].get(name), name in best
        lost = name == "agreement" and not one["safe"]
        top = counts and one["safe"] and value is not None and value == best[name]
        scores.append(("–" if lost else _value(value), counts, top))
    return {
        "title": BEFORE.get(title, title),
        "kept": title == chosen,
        "safe": one["safe"],
        "rank": one["rank"],
        "scores": scores,
        "faults": one["faults"],
        "refused": one.get("refused", ""),
    }


def _best(selection: Selection, score: str) -> float | None:
    known = (one["scores"].get(score) for one in selection["candidates"] if one["safe"])
    values = [value for value in known if value is not None]
    return (min if _words(score).better == "less" else max)(values, default=None)


def _value(value: float | None) -> str:
    """Three decimals, or three digits of what they would make 0."""
    if value is None:
        return "–"
    said = f"{value:.3f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"
    return said.replace("-", "−")


def rank_plot(
    title: str,
    selection: Selection,
    ranks: Mapping[str, Mapping[str, float]],
    titles: Sequence[str],
) -> str:
    """Rank of each model by every score that counts (thin) and their mean (black), 1 the worst.

    The two models before adaptation stand at the left, checkpoints follow by step. What was unsafe has no rank and is
    a cross at the bottom; the model that was kept is shaded.

    Args:
        ranks: by candidate and score, of the safe ones.
        titles: of the scores of ``selection["rule"]``.
    """
    places = _places(selection["candidates"])
    few = len(places) <= CROWD
    with figure_of(4.8, 3.3) as figure:
        axes = figure.add_subplot()
        _shade(axes, selection, places)
        drawn = zip(selection["rule"], titles, strict=True)
        for number, (name, said) in enumerate(drawn):
            heights = {one: of[name] for one, of in ranks.items()}
            shift = SPREAD * (number - (len(titles) - 1) / 2) * _length(places)
            colour = TERM_COLOURS[number % len(TERM_COLOURS)]
            _line(axes, places, heights, colour, 0.9, 2.6 if few else 1.0, said, shift)
        known = {c["name"]: c["rank"] for c in selection["candidates"] if c["rank"] is not None}
        _line(axes, places, known, INK, 2.0, 5.0 if few else 2.6, "their mean")
        refused = [
            c["name"] for c in selection["candidates"] if c.get("refused") and c["name"] in known
        ]
        if refused:
            x, y = [places[name] for name in refused], [known[name] for name in refused]
            axes.plot(
                x, y, "o", mfc="white", mec=INK, ms=5.0, zorder=4, label="may not replace AdaBN"
            )
        lost = [places[c["name"]] for c in selection["candidates"] if not c["safe"]]
        if lost:
            low = [0.06] * len(lost)  # of the height of the axes
            marks = axes.get_xaxis_transform()
            axes.plot(
                lost, low, "x", color=MISS, ms=6, mew=1.8, label="unsafe", transform=marks, zorder=3
            )
        _frame(axes, places, selection["candidates"], max(len(known), 2))
        figure.suptitle(shorten(title, 44), x=0.01, ha="left", weight="bold", size=11)
        figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
        return svg(figure)


def _places(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Where each candidate stands on the axis of steps: the models before adaptation left of the first step."""
    steps = [one["step"] for one in candidates if one["name"] not in BEFORE]
    gap = max(steps[0], 0.2 * steps[-1]) if steps else 1.0
    first = steps[0] if steps else 1
    left = {name: first - gap * (len(BEFORE) - i) for i, name in enumerate(BEFORE)}
    return {one["name"]: left.get(one["name"], one["step"]) for one in candidates}


def _length(places: Mapping[str, float]) -> float:
    return max(places.values()) - min(places.values())


def _line(
    axes: Axes,
    places: Mapping[str, float],
    heights: Mapping[str, float],
    colour: str,
    width: float,
    size: float,
    label: str,
    shift: float = 0.0,
) -> None:
    """Points of the models before adaptation, and a line through the checkpoints; a gap where one was unsafe."""
    before = [name for name in places if name in BEFORE]  # points alone, large enough to be seen
    after = [name for name in places if name not in BEFORE]
    for names, style in ((before, "o"), (after, "o-")):
        x = [places[name] + shift for name in names]
        y = [heights.get(name, math.nan) for name in names]
        said = label if names is after else None
        seen = size if names is after else max(size, 2.6)
        axes.plot(x, y, style, color=colour, lw=width, ms=seen, label=said)


def _shade(axes: Axes, selection: Selection, places: Mapping[str, float]) -> None:
    """A band behind the model that was kept."""
    kept = selection["kept"] if selection["fallback"] else f"{selection['step']:06d}"
    if kept in places:
        x, length = places[kept], _length(places)
        beside = min((abs(place - x) for place in places.values() if place != x), default=1.0)
        half = min(max(0.4 * beside, 0.01 * length), 0.035 * length)
        axes.axvspan(x - half, x + half, color=KEPT_COLOUR, lw=0, label="kept")


def _frame(
    axes: Axes, places: Mapping[str, float], candidates: Sequence[Candidate], highest: int
) -> None:
    """Ticks, limits and names of the axes."""
    from matplotlib.ticker import MaxNLocator

    steps = [one for one in candidates if one["name"] not in BEFORE]
    stride = math.ceil(len(steps) / TICKS)
    shown = [one for one in candidates if one["name"] in BEFORE] + steps[stride - 1 :: stride or 1]
    words = [one["name"] if one["name"] in BEFORE else str(one["step"]) for one in shown]
    axes.set_xticks([places[one["name"]] for one in shown], words)
    axes.set_ylim(1 - 0.2 * highest, 1.06 * highest)  # room for what is unsafe below the worst rank
    ticks = MaxNLocator(7, integer=True).tick_values(1, highest)
    axes.set_yticks([tick for tick in ticks if 1 <= tick <= highest])
    axes.set_ylabel("rank, more is better")
    axes.set_xlabel("step")
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    if steps:
        border = (places[steps[0]["name"]] + max(places[name] for name in BEFORE)) / 2
        axes.axvline(border, color=SOFT, lw=0.8, ls=":")
