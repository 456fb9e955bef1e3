"""The report as HTML: the sections of the page and its style.

Nothing here reads a file or draws a figure; every value that comes from outside passes ``escape``.
The page is one file: no scripts, no external assets, images only as ``data:`` URIs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from uda.report_table import (
    ROLES,
    Role,
    Row,
    best,
    duration,
    gain,
    marked,
    missed,
    number,
    ordered,
    points,
    role,
)

SUPERVISION = {
    "none": "nothing but images",
    "source_labels": "labels of the source, or what was computed from them",
    "target_tags": "which structures each target image shows",
    "target_sizes": "how large the structures of the target are",
    "anatomical": "general knowledge of the anatomy or the scene",
    "target_labels": "labels of the target: a bound, not an adaptation result",
}
HOW_TO_READ = (
    "Every row is one network, scored on the same labelled target cases. Compare a row with "
    "<b>source_only</b> (the network as it came from the source domain) and with <b>adabn</b> (the "
    "same, with BatchNorm statistics of the target and nothing else). Dice is overlap in points "
    "from 0 to 100, more is better; HD95 and ASSD are surface distances, less is better. The "
    "interval says how far the mean could move with other cases of the same kind; it says nothing "
    "about another random seed. <i>Used</i> lists what a row was told beyond target images. Rows "
    "marked † saw target labels and show what is possible, not what adaptation gives."
)


def headline(metrics: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    row = best(metrics["rows"])
    if row is None:
        return "<p class=headline>No row without target labels has a score.</p>"
    interval = row["dice"]["ci95"]
    spread = f", 95 % interval {points(interval[0])}–{points(interval[1])}" if interval else ""
    change = gain(row, metrics["rows"])
    known = change is not None and row["name"] != "source_only"
    moved = f", {points(change, sign=True)} points on source_only" if known else ""
    moved += "; no adaptation improves on it" if role(row) == "baseline" else ""
    return (
        f"<p class=headline><b>{escape(str(row['name']))}</b> has the highest mean Dice without "
        f"target labels: <b>{points(row['dice']['mean'])}</b>{spread}{moved}.</p>"
    )


def results_table(metrics: Mapping[str, Any]) -> str:
    """Means, intervals, the difference to source_only and the supervision ledger."""
    unit, rows = escape(metrics["distance_unit"]), ordered(metrics["rows"])
    top = best(rows)
    head = ["row", "Dice", "Δ source_only", "95&nbsp;%&nbsp;interval", "used"]
    head += [f"HD95, {unit}", f"ASSD, {unit}", "missed", "spurious"]
    lines = []
    for row in rows:
        change = None if row["name"] == "source_only" else gain(row, rows)
        cells = [
            _name(row),
            f"<b>{points(row['dice']['mean'])}</b>{_sd(row['dice'], 100)}",
            points(change, sign=True),
            _interval(row),
            "<br>".join(_chip(word) for word in row["supervision"]),
            *(f"{number(row[m]['mean'])}{_sd(row[m], 1)}" for m in ("hd95", "assd")),
            _count(missed(row)),
            _count(missed(row, "spurious")),
        ]
        lines.append((f"{role(row)}{' best' if row is top else ''}", cells))
    note = (
        "Mean over structures of the mean over cases; ± is the standard deviation over cases; the "
        "bar of the interval runs from 0 to 100. "
        "Shaded: highest mean Dice without target labels. † saw target labels."
    )
    return f"{_grid(head, lines)}<p class=note>{note}</p>{_ledger(rows)}"


def structures_table(metrics: Mapping[str, Any]) -> str:
    """Dice, and below it HD95, of every structure in every row."""
    unit, rows = escape(metrics["distance_unit"]), ordered(metrics["rows"])
    lines = []
    for row in rows:
        cells = [_name(row)]
        for name in metrics["classes"]:
            dice, hd95 = row["dice"]["per_class"][name], row["hd95"]["per_class"][name]
            lost = f" · {dice['missed']} missed" if dice["missed"] else ""
            cells.append(
                f"<b>{points(dice['mean'])}</b>{_sd(dice, 100)}"
                f"<small>HD95 {number(hd95['mean'])} {unit}{lost}</small>"
            )
        lines.append((role(row), cells))
    return _grid(["row", *(escape(name) for name in metrics["classes"])], lines)


def rules_list(rules: Sequence[str]) -> str:
    """What counts and how, in the words of the evaluation."""
    return f"<ul>{''.join(f'<li>{escape(str(rule))}</li>' for rule in rules)}</ul>"


def panels(figures: Iterable[tuple[str, str]], note: str) -> str:
    """Figures side by side as far as the screen is wide. ``figures``: (description, data URI)."""
    drawn = "".join(f"<figure>{_image(uri, alt)}</figure>" for alt, uri in figures)
    return f"<div class=panels>{drawn}</div><p class=note>{note}</p>"


def role_legend(colours: Mapping[Role, str]) -> str:
    """Which colour stands for which kind of row."""
    return _legend((ROLES[name], f"background:{colour}") for name, colour in colours.items())


def structure_legend(styles: Iterable[tuple[str, str, str]]) -> str:
    """``styles``: (structure, colour, CSS border style)."""
    return _legend(
        (name, f"border:2px {line} {colour};background:{colour}66") for name, colour, line in styles
    )


def overlay_case(entry: Mapping[str, Any], panes: Iterable[tuple[str, str, str]]) -> str:
    """One slice in several panes. ``panes``: (title, remark, data URI)."""
    title = f"{entry['rank']}: case {entry['case']}, slice {entry['slice']}"
    drawn = "".join(
        f"<figure>{_image(uri, f'{title}, {name}')}<figcaption><b>{escape(name)}</b> "
        f"{escape(remark)}</figcaption></figure>"
        for name, remark, uri in panes
    )
    return f"<h3>{escape(title)}</h3><div class=panes>{drawn}</div>"


def stages_table(stages: Sequence[Mapping[str, Any]]) -> str:
    """Wall time and hashes, so that a number can be traced to what made it."""
    lines = [
        (
            "",
            [
                escape(str(stage["stage"])),
                duration(stage.get("seconds")),
                _words(stage.get("supervision")),
                f"<code>{escape(str(stage.get('hash', '–'))[:12])}</code>",
                _hashes(stage.get("parents")),
            ],
        )
        for stage in stages
    ]
    return _grid(["stage", "wall time", "used", "hash", "parents"], lines)


def environment_list(values: Mapping[str, Any]) -> str:
    """Names and values, whatever the run recorded."""
    shown = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    body = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in shown.items())
    return f"<dl>{body}</dl>"


def page(title: str, subtitle: str, lead: str, sections: Iterable[tuple[str, str]]) -> str:
    """The whole document. ``title`` and ``subtitle`` are text, ``lead`` and sections HTML."""
    body = "".join(f"<section><h2>{escape(head)}</h2>{html}</section>" for head, html in sections)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)} · uda report</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p class=sub>{escape(subtitle)}</p>{lead}"
        f"<p>{HOW_TO_READ}</p></header>{body}</main></body></html>\n"
    )


def absent(reason: str) -> str:
    """The sentence that stands in for a section that could not be made."""
    return f"<p class=absent>Left out: {escape(reason)}.</p>"


def _name(row: Row) -> str:
    name = escape(marked(row)).replace("_", "_<wbr>").replace(" †", "&nbsp;†")
    return f"{name}<small>{ROLES[role(row)]}</small>"


def _sd(measure: Mapping[str, Any], scale: float) -> str:
    sd = measure["sd"]
    return "" if sd is None else f"<span class=sd> ± {number(scale * sd)}</span>"


def _count(n: int) -> str:
    return f"<b class=bad>{n}</b>" if n else "0"


def _chip(word: str) -> str:
    warn = " warn" if word == "target_labels" else ""
    return f"<span class='chip{warn}'>{escape(str(word))}</span>"


def _words(words: Any) -> str:
    listed = words if isinstance(words, list) else [words] if words else []
    return " ".join(_chip(str(word)) for word in listed) or "–"


def _hashes(parents: Any) -> str:
    """Hashes of the parents, given as a list or by name."""
    named = parents if isinstance(parents, Mapping) else dict.fromkeys(parents or (), "")
    lines = [
        f"{escape(str(key)) if value else ''} <code>{escape(str(value or key)[:12])}</code>"
        for key, value in named.items()
    ]
    return "<br>".join(lines) or "–"


def _interval(row: Row) -> str:
    """The interval in figures and as a bar on a scale of 0 to 100 with the mean as a dot."""
    interval, mean = row["dice"]["ci95"], row["dice"]["mean"]
    if interval is None or mean is None:
        return "–"
    low, high = (100 * end for end in interval)
    return (
        f"<span class=bar><i style='left:{low:.1f}%;width:{high - low:.1f}%'></i>"
        f"<u style='left:{100 * mean:.1f}%'></u></span>"
        f"<span class=sd>{number(low)} – {number(high)}</span>"
    )


def _ledger(rows: Iterable[Row]) -> str:
    used = {word for row in rows for word in row["supervision"]}
    known = [(word, text) for word, text in SUPERVISION.items() if word in used]
    return "<dl>" + "".join(f"<dt>{_chip(w)}</dt><dd>{text}</dd>" for w, text in known) + "</dl>"


def _grid(head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table whose cells are HTML already; each line comes with its CSS classes."""
    top = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr class='{kind}'><th scope=row>{cells[0]}</th>"
        + "".join(f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for kind, cells in lines
    )
    return (
        f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _legend(entries: Iterable[tuple[str, str]]) -> str:
    keys = "".join(f"<span><i style='{css}'></i>{escape(name)}</span>" for name, css in entries)
    return f"<p class=legend>{keys}</p>"


def _image(uri: str, alt: str) -> str:
    return f"<img alt='{escape(alt)}' src='{uri}'>"


STYLE = """
:root{color-scheme:light;--ink:#1b1f24;--soft:#57606a;--line:#d8dee4;--tint:#f5f7f9}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:var(--ink);font:16px/1.55 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:1.9rem;line-height:1.2;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:44px 0 12px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:24px 0 8px;overflow-wrap:anywhere}
header p{max-width:78ch}.sub,.note,.absent,.sd,small,figcaption{color:var(--soft)}
.sub{margin:4px 0 18px}.headline{font-size:1.15rem}.note,.absent,small,figcaption{font-size:.84rem}
.absent{font-style:italic}
.scroll{overflow-x:auto;border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:7px 10px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{border-top:0;background:var(--tint);font-weight:600}
tbody th{font-weight:600;overflow-wrap:anywhere;min-width:9.5em;max-width:15em}
th:first-child{position:sticky;left:0;background:#fff;z-index:1}
thead th:first-child{background:var(--tint)}
td{white-space:nowrap}th small,td small{display:block;font-weight:400}
tr.best>*{background:#e8f3ea!important}
tr.oracle>*,tr.supervised>*{background:#fff6ea!important}
.bad{color:#a8200d}
.chip{display:inline-block;padding:0 7px;margin:1px 0;border-radius:9px;background:#e6ebf0;
font-size:.8rem;white-space:nowrap}.chip.warn{background:#fbd9b0;color:#6a3200}
.bar{display:block;position:relative;width:130px;height:10px;margin:7px 0 2px;background:#e1e6eb}
.bar i{position:absolute;top:2px;height:6px;min-width:2px;background:#7c9cc4}
.bar u{position:absolute;top:-2px;width:3px;height:14px;margin-left:-1px;background:var(--ink)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;font-size:.88rem;margin:12px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
figure{margin:0;min-width:0}img{display:block;width:100%;height:auto}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr));gap:20px}
.panes{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(46%,230px),1fr));gap:10px}
.panes img{background:#000;max-height:420px;object-fit:contain}
.legend span{display:inline-flex;align-items:center;margin-right:18px;font-size:.88rem}
.legend i{width:14px;height:14px;margin-right:6px;border-radius:3px;flex:none}
code{font-size:.88em}ul{padding-left:1.2em;max-width:90ch}
@media print{.scroll{overflow:visible}main{max-width:none}figure{break-inside:avoid}}
"""
