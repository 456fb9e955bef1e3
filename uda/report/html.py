"""The document of the report, and the pieces that its sections are built of.

The page is one file: no scripts, no external assets, images only as ``data:`` URIs. Arguments are text, and escaped
here, unless they are called HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from uda.report.wording import ROLES, Row, fallback, marked, number, role

ALONE = (
    "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'\">"
)
"""tells the browser to run no script and to load nothing"""


def page(
    title: str,
    subtitle: str,
    lead: str,
    guide: str,
    sections: Iterable[tuple[str, str]],
    look: str = "",
) -> str:
    """The whole document. ``title`` and ``subtitle`` are text, ``lead``, ``guide`` and sections HTML, ``look`` CSS."""
    body = "".join(f"<section><h2>{escape(head)}</h2>{html}</section>" for head, html in sections)
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8>{ALONE}"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)} · uda report</title><style>{STYLE}{look}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1><p class=sub>{escape(subtitle)}</p>{lead}"
        f"<p>{guide}</p></header>{body}</main></body></html>\n"
    )


def absent(reason: str) -> str:
    """The sentence that stands in for a section that could not be made."""
    return f"<p class=absent>Left out: {escape(reason)}.</p>"


def rules_list(rules: Sequence[str]) -> str:
    """What counts and how, in the words of the evaluation."""
    return f"<ul>{''.join(f'<li>{escape(str(rule))}</li>' for rule in rules)}</ul>"


def grid(head: Sequence[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table whose cells are HTML already; each line comes with its CSS classes. A cell may bring its ``<td>``."""
    top = "".join(f"<th scope=col>{cell}</th>" for cell in head)
    body = "".join(
        f"<tr class='{kind}'><th scope=row>{cells[0]}</th>"
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in cells[1:])
        + "</tr>"
        for kind, cells in lines
    )
    return (
        f"<div class=scroll><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def name_cell(row: Row) -> str:
    """A row's name and, small, what kind of row it is."""
    name = escape(marked(row)).replace("_", "_<wbr>").replace(" †", "&nbsp;†")
    kind = "kept the model before adaptation" if fallback(row) else ROLES[role(row)]
    return f"{name.replace('→ ', '→&nbsp;')}<small>{kind}</small>"


def spread(measure: Mapping[str, Any], scale: float) -> str:
    """`` ± 3.2``; nothing when the spread is unknown."""
    sd = measure.get("sd")
    return "" if sd is None else f"<span class=sd> ± {number(scale * sd)}</span>"


def count(n: int) -> str:
    """A number that should be 0."""
    return f"<b class=bad>{n}</b>" if n else "0"


def chip(word: str) -> str:
    """A word of the supervision ledger."""
    warn = " warn" if word == "target_labels" else ""
    return f"<span class='chip{warn}'>{escape(str(word))}</span>"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """``entries``: (name, CSS of its key)."""
    keys = "".join(f"<span><i style='{css}'></i>{escape(name)}</span>" for name, css in entries)
    return f"<p class=legend>{keys}</p>"


def ramp(colours: Iterable[tuple[int, int, int]], low: str, high: str) -> str:
    """A scale of colours with words at both ends."""
    stops = ",".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours)
    bar = f"<i class=ramp style='background:linear-gradient(90deg,{stops})'></i>"
    return f"<p class=note>{escape(low)}{bar}{escape(high)}</p>"


def image(uri: str, alt: str) -> str:
    """A picture that lies in the page."""
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
td{white-space:nowrap}tr.published td{white-space:normal}th small,td small{display:block;font-weight:400}
tr.best>*{background:#e8f3ea!important}
tr.oracle>*,tr.supervised>*{background:#fff6ea!important}
tr.unsafe>*,td.soft{color:var(--soft)}td.wrap{white-space:normal;min-width:15em}
.judged table{font-size:.84rem}.judged th,.judged td{padding:6px 8px}.judged tbody th{min-width:0;white-space:nowrap}
.judged tr.why>*{border-top:0;padding-top:0;white-space:normal}
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
.panes.three{grid-template-columns:repeat(3,1fr)}.panes.three figcaption{overflow-wrap:anywhere}
details{margin:10px 0}summary{cursor:pointer;font-size:.88rem;color:var(--soft);margin-bottom:8px}
.heat{margin-top:18px}.heat table{font-size:.82rem}
.heat td{padding:7px 3px;text-align:center;border-left:1px solid #fff}
.heat thead th{vertical-align:bottom;text-align:center;padding:7px 2px}
.heat thead th:first-child{text-align:left;padding-left:10px}
.up{writing-mode:vertical-rl;transform:rotate(180deg);white-space:nowrap}
.swatch{display:block;width:14px;height:14px;margin:6px auto 0;border-radius:3px;border:1px solid #0002}
.ramp{display:inline-block;width:130px;height:12px;margin:0 8px;vertical-align:-1px}
.legend span{display:inline-flex;align-items:center;margin-right:18px;font-size:.88rem}
.legend i{width:14px;height:14px;margin-right:6px;border-radius:3px;flex:none}
code{font-size:.88em}ul{padding-left:1.2em;max-width:90ch}
@media(max-width:560px){.panes.three{grid-template-columns:1fr}}
@media print{.scroll{overflow:visible}main{max-width:none}figure{break-inside:avoid}}
"""
