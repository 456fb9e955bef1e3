"""The report of a folder of predictions: what is not to be trusted first, with the reason and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from uda.config.colors import distinct_colors
from uda.files.atomic import write_json, write_text
from uda.networks.model_file import ModelInfo
from uda.prediction.confidence import RATIO, structures_of
from uda.prediction.outcome import Outcome, Places, ordered, read_record
from uda.prediction.trust import KINDS, NOTHING, expectations, in_words, unknown, words
from uda.report.figures import data_uri, structure_style
from uda.report.html import grid, image, legend, page, ramp
from uda.report.pictures import entropy_colours
from uda.report.sections import structure_legend

TABLE, PAGE = "predictions.json", "report.html"
SHOWN = 60
"""cases whose pictures are on the page; all lie beside it"""
COLUMNS = 8
"""structures that have a column of their own"""
OPINION = (
    "Confidence is the model's own opinion: the overlap (Dice) with the truth that it expects, 1 being all of it. It "
    "is not calibrated on these images, and a model can be sure and wrong."
)
PROOF = (
    "A case is flagged where its image is unlike those the model was last trained on or adapted to, where a structure "
    "is missing or of unusual size, or where the model is unsure. No flag is no proof: nobody compared these masks "
    "with a reference."
)
BANNER = (
    "Not judged: {kinds}. This model's file does not say what its images were like: it was imported, or trained by "
    "an older version. Adapt it once to images that it suits (<code>uda adapt --method adabn</code>), and it will."
)
LOOK = """
.warn{background:#fff8e5;border:1px solid #d8b24a;border-radius:8px;padding:8px 12px;max-width:90ch}
.case{border:1px solid var(--line);border-left:5px solid #a8200d;border-radius:8px;padding:2px 16px 14px;
margin:0 0 20px;break-inside:avoid}
.case h3{margin:12px 0 10px}.two{display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start}
.two img{flex:1 1 480px;min-width:0;background:#000}.two .scroll{flex:1 1 420px}
.case td,.case th{padding:5px 9px}.case tbody th{font-weight:400;max-width:none}
.case pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.86rem;margin:6px 0}
.chip.bad{background:#fbe3df;color:#8a1a0a}
.case tr.todo>*{border-top:0;padding-top:0;white-space:normal;color:var(--soft);font-size:.86rem}
.rest{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:18px;align-items:start}
.rest figure{border:1px solid var(--line);border-radius:8px;overflow:hidden}.rest img{background:#000}
figcaption{padding:6px 10px}figcaption b{color:var(--ink)}
tr.flagged>*{background:#fdf1ef!important}td.n,th+th{text-align:left}
"""


def write_report(places: Places, info: ModelInfo) -> None:
    """Write ``predictions.json`` and ``report.html`` of every case that the folder remembers."""
    found = [read_record(places, case) for case in places.recorded()]
    cases = ordered(one for one in found if one is not None)
    table = {
        "classes": list(info.classes),
        "confidence": OPINION,
        "flags": PROOF,
        "not_judged": list(unknown(info)),
        "expected": _expected(info),
        "cases": [one.as_json() for one in cases],
    }
    write_json(places.out / TABLE, table)
    write_text(places.out / PAGE, _page(places, info, cases))


def _expected(info: ModelInfo) -> dict[str, Any]:
    return {
        name: {"low": one.low, "high": one.high, "usual": list(one.seen), "cases": one.cases}
        for name, one in expectations(info).items()
    }


def _page(places: Places, info: ModelInfo, cases: Sequence[Outcome]) -> str:
    doubtful = [one for one in cases if not one.trusted]
    rest = [one for one in cases if one.trusted]
    sections = [
        ("Not trusted: look at these first", _doubtful(places, info, doubtful)),
        (
            "Nothing unusual, least confident first",
            _rest(places, info, rest, SHOWN - len(doubtful)),
        ),
        ("All cases", _table(info, cases)),
        ("What is expected", _expectations(info)),
    ]
    names = ", ".join(info.classes[k] for k in structures_of(info))
    return page(
        f"Predictions in {places.out.resolve().name}",
        f"{len(cases)} case(s) · {names}",
        _lead(info, len(doubtful), len(cases)),
        f"{escape(OPINION)} {escape(PROOF)}",
        sections,
        LOOK,
    )


def _lead(info: ModelInfo, doubtful: int, count: int) -> str:
    told = (
        f"<b class=bad>{doubtful} of {count} case(s) are not to be trusted as they are.</b>"
        if doubtful
        else f"None of {count} case(s) is unusual."
    )
    banner = BANNER.format(kinds=" and ".join(unknown(info)))
    missing = f"<p class=warn>{banner}</p>" if unknown(info) else ""
    return f"<p class=headline>{told}</p>{missing}"


def _legend(info: ModelInfo) -> str:
    found = structures_of(info)
    names = [info.classes[k] for k in found]
    if found.start == 0:
        shades = [f"background:rgb{color}" for color in distinct_colors(len(names))]
        keys = legend(zip(names, shades, strict=True))
    else:
        styles = [structure_style(k) for k in range(len(names))]
        keys = structure_legend((name, *style) for name, style in zip(names, styles, strict=True))
    note = (
        "Left: the image (of a volume the slice that shows most). Middle: what was found. Right: "
    )
    scale = ramp(entropy_colours(8), f"{note}where the model is sure", "unsure")
    return keys + scale


def _doubtful(places: Places, info: ModelInfo, cases: Sequence[Outcome]) -> str:
    if not cases:
        return "<p class=absent>No case.</p>"
    shown = [_case(places, one, number < SHOWN) for number, one in enumerate(cases)]
    return _legend(info) + "".join(shown)


def _case(places: Places, case: Outcome, picture: bool) -> str:
    kinds = ["failed"] if case.fault else _kinds(case)
    chips = " ".join(f"<span class='chip bad'>{kind}</span>" for kind in kinds)
    sure = "" if case.confidence is None else f" <small>confidence {case.confidence:.2f}</small>"
    reasons = f"<pre>{escape(case.fault)}</pre>" if case.fault else _reasons(case)
    drawn = _picture(places, case) if picture and not case.fault else ""
    head = f"<h3>{escape(case.case)} {chips}{sure}</h3>"
    return f"<article class=case>{head}<div class=two>{drawn}{reasons}</div></article>"


def _reasons(case: Outcome) -> str:
    """A table of what is unusual, here and usually; after those that have it in common what to do."""
    lines: list[tuple[str, Sequence[str]]] = []
    for fix in dict.fromkeys(flag.fix for flag in case.flags):
        for flag in (one for one in case.flags if one.fix == fix):
            here = "not found" if not flag.value else in_words(flag.measure, flag.value)
            name = words(flag.measure) if flag.usual else NOTHING
            cells = [_number_cell(escape(text)) for text in (here, flag.usual)]
            lines.append(("", [escape(name), *cells]))
        lines.append(("todo", ["", f"<td colspan=2>{escape(fix)}</td>"]))
    where = next((flag.where for flag in case.flags if flag.where), "")
    return grid(["unusual", "here", escape(where)], lines)


def _picture(places: Places, case: Outcome) -> str:
    path: Path = places.picture(case.case)
    if not path.is_file():
        return ""
    encoded = data_uri("image/jpeg", path.read_bytes())
    return image(encoded, f"case {case.case}: image, structures, where the model is unsure")


def _rest(places: Places, info: ModelInfo, cases: Sequence[Outcome], room: int) -> str:
    if not cases:
        return "<p class=absent>No case.</p>"
    shown = cases[: max(room, 0)]
    figures = "".join(
        f"<figure>{_picture(places, one)}<figcaption><b>{escape(one.case)}</b> "
        f"confidence {_two(one.confidence)}</figcaption></figure>"
        for one in shown
    )
    left = len(cases) - len(shown)
    more = f"<p class=note>{left} more are in the table below; their pictures are in the folder cases.</p>"
    return f"{_legend(info)}<div class=rest>{figures}</div>{more if left else ''}"


def _table(info: ModelInfo, cases: Sequence[Outcome]) -> str:
    names = [info.classes[k] for k in structures_of(info)]
    names = names if len(names) <= COLUMNS else []
    lines = []
    for case in cases:
        verdict = "failed" if case.fault else ", ".join(_kinds(case)) or "nothing unusual"
        cells = [escape(case.case), verdict, _number_cell(_two(case.confidence))]
        for name in names:
            one = case.structures.get(name, {"confidence": None, "ratio": None})
            share = "" if one["ratio"] is None else in_words(f"{RATIO}{name}", one["ratio"])
            cells.append(_number_cell(f"{_two(one['confidence'])}<small>{share}</small>"))
        cells.append(escape(case.file.name) if case.file else "–")
        lines.append(("" if case.trusted else "flagged", cells))
    heads = ["case", "unusual", "confidence", *(escape(name) for name in names), "label map"]
    note = "Below the confidence of a structure: its share of the image." if names else ""
    return grid(heads, lines) + f"<p class=note>{note}</p>"


def _expectations(info: ModelInfo) -> str:
    found = expectations(info)
    lines = [
        (
            "",
            [
                escape(words(name)),
                in_words(name, *one.seen),
                in_words(name, one.low, one.high),
                str(one.cases or "–"),
            ],
        )
        for name, one in found.items()
    ]
    note = (
        "The model's own images are those it was last trained on or adapted to, without the strangest 2 %. What is "
        "accepted is their range and a margin. Confidence is that of the images it was trained on, of which a model is "
        "surer than of others."
    )
    heads = ["", "the model's own images", "accepted", "images"]
    if info.images is None:
        heads[1] = "training labels, or a fixed number"
        note = "The model does not know what its images were like."
    return f"{grid(heads, lines)}<p class=note>{note}</p>"


def _kinds(case: Outcome) -> list[str]:
    return [kind for kind in KINDS if any(flag.kind == kind for flag in case.flags)]


def _number_cell(html: str) -> str:
    return f"<td class=n>{html}</td>"


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
