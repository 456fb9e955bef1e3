"""The section of the page that tells which checkpoint a guarded adaptation kept, and what the others got."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Literal, NamedTuple

from uda.report.html import grid
from uda.report.schema import Candidate, Selection
from uda.report.sections import panels
from uda.report.selection_figure import rank_plot
from uda.report.wording import BEFORE


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
PROMISE = (
    "<b>What the guard does:</b> every few steps it looks at the network's predictions of the same target images. A "
    "checkpoint is unsafe where a structure is lost, takes far more or less room than expected or lies elsewhere than "
    "before adaptation, and where predictions are no numbers. The safe ones and both models before adaptation are "
    "ranked by each score that counts; the best mean rank is kept.",
    "<b>What it promises:</b> no unsafe checkpoint is kept; and where none is better, by these scores, than what was "
    "there before adaptation, that model is what you get, weight for weight.",
    "<b>What it cannot promise:</b> that the masks are right. It compares by scores that need no labels, and masks can "
    "be wrong while scores are good, above all where the model before adaptation was wrong too. Look at some "
    "predictions before you rely on them.",
)
FIGURE = (
    "Rank among the safe models: thin by each score that counts, black the mean of these ranks, which decides. Left of "
    "the dotted line stand the models before adaptation. Green: what was kept. A cross at the bottom: unsafe."
)
TABLE = (
    "Green: kept. Bold: the best safe model by a score that counts. Grey columns are shown and do not count. "
    "↑ more is better, ↓ less is better. An unsafe model is not compared with others: it has no rank and no agreement. "
    "source_only is the model as it came, adabn the same with BatchNorm statistics of the target."
)


def selection_section(selections: Mapping[str, Selection], unjudged: Iterable[str] = ()) -> str:
    """One line for each variant, figures, all candidates folded below, and what scores and guard mean.

    Args:
        selections: by variant.
        unjudged: marked names of adapted rows that no guard looked at.
    """
    figures = [
        (f"Ranks of the checkpoints of {name} over its steps", _figure(name, one))
        for name, one in selections.items()
    ]
    tables = "".join(_folded(name, one, len(selections) == 1) for name, one in selections.items())
    names = dict.fromkeys(
        score for one in selections.values() for score in (*one["rule"], *_soft(one))
    )
    others = ", ".join(unjudged)
    note = f"<p class=note>Not judged: {escape(others)}.</p>" if others else ""
    return (
        f"{_lines(selections)}{note}<ul>{''.join(f'<li>{said}</li>' for said in PROMISE)}</ul>"
        f"{panels(figures, FIGURE)}{tables}{_glossary(selections, names)}"
    )


def kept_words(selection: Selection) -> str:
    """What was kept, for somebody who does not know our names."""
    kept = selection["kept"]
    return KEPT.get(kept, f"the checkpoint of {kept}")


def safe_ranks(selection: Selection) -> dict[str, dict[str, float]]:
    """Rank of each safe candidate by each score that counts, 1 the worst."""
    from dataclasses import fields

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


def _words(score: str) -> Words:
    return SCORES.get(score, Words(score, ""))


def _soft(selection: Selection) -> list[str]:
    """Scores that are shown and do not count, the entropy last."""
    found = dict.fromkeys(s for one in selection["candidates"] for s in one["scores"])
    return sorted((s for s in found if s not in selection["rule"]), key=lambda s: s == "entropy")


def _lines(selections: Mapping[str, Selection]) -> str:
    """What each variant kept and why."""
    lines = []
    for name, one in selections.items():
        judged = [c for c in one["candidates"] if c["name"] not in BEFORE]
        safe = sum(c["safe"] for c in judged)
        kept = f"→&nbsp;{BEFORE[one['kept']]}" if one["kept"] in BEFORE else escape(one["kept"])
        cells = [
            escape(name).replace("_", "_<wbr>"),
            f"<b>{kept}</b>",
            f"{safe} of {len(judged)}",
            f"<td class=wrap>{escape(one['why'])}</td>",
            f"<td class=wrap>{escape(one['ended'])}</td>",
        ]
        lines.append(("", cells))
    return grid(["variant", "kept", "safe checkpoints", "why", "training ended"], lines)


def _folded(name: str, selection: Selection, shown: bool) -> str:
    """Every candidate of a variant."""
    head = f"{escape(name)}: every model that was judged"
    table = _candidates(selection)
    return f"<details{' open' * shown}><summary>{head}</summary>{table}</details>"


def _candidates(selection: Selection) -> str:
    rule, soft = selection["rule"], _soft(selection)
    best = {name: _best(selection, name) for name in rule}
    heads = ["model", "safe", "mean rank", *map(_head, rule), *map(_head, soft)]
    chosen = selection["kept"] if selection["fallback"] else f"step {selection['step']}"
    lines = []
    for one in selection["candidates"]:
        title = one["name"] if one["name"] in BEFORE else f"step {one['step']}"
        values = {name: _value(one["scores"].get(name)) for name in (*rule, *soft)}
        if not one["safe"]:
            values["agreement"] = "–"
        top = {n for n in rule if one["safe"] and one["scores"].get(n) == best[n] is not None}
        cells = [
            BEFORE.get(title, title),
            "yes" if one["safe"] else "<b class=bad>no</b>",
            "–" if one["rank"] is None else f"<b>{one['rank']:.2f}</b>",
            *(f"<b>{values[name]}</b>" if name in top else values[name] for name in rule),
            *(f"<td class=soft>{values[name]}</td>" for name in soft),
        ]
        kind = "best" if title == chosen else "" if one["safe"] else "unsafe"
        lines.append((kind, cells))
        if one["faults"]:
            said = "<br>".join(map(escape, one["faults"]))
            lines.append(("unsafe why", ["", f"<td colspan={len(heads) - 1}>{said}</td>"]))
    return f"<div class=judged>{grid(heads, lines)}</div><p class=note>{TABLE}</p>"


def _head(score: str) -> str:
    words = _words(score)
    arrow = {"more": "&nbsp;↑", "less": "&nbsp;↓", "": ""}[words.better]
    return f"{escape(words.title)}{arrow}"


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


def _glossary(selections: Mapping[str, Selection], names: Iterable[str]) -> str:
    ruling = {score for one in selections.values() for score in one["rule"]}

    def entries() -> Iterator[str]:
        for name in sorted(names, key=lambda name: (name not in ruling, name == "entropy")):
            words = _words(name)
            counts = "counts" if name in ruling else "does not count"
            better = f" {words.better.capitalize()} is better; it {counts}." if words.better else ""
            text = f"{words.text[:1].upper()}{words.text[1:]}." if words.text else ""
            yield f"<dt>{escape(words.title)}</dt><dd>{text}{better}</dd>"

    return f"<h3>What the scores measure</h3><dl>{''.join(entries())}</dl>"
