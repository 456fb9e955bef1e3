"""How pages are made: templates hold all markup and style, Python hands them plain data.

A page is one file: no script, nothing from outside, images only as ``data:`` URIs. Every value is escaped, and what
would be invisible in it, or turn the direction of the text, stands there as its code. A name that a template asks for
and does not get is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from uda.errors import DataError, visible
from uda.files.atomic import write_text
from uda.report import wording


class Section(NamedTuple):
    """A part of a page: a macro of a template and what it is called with."""

    title: str
    file: str
    macro: str
    data: dict[str, Any]


def section(
    title: str, make: Callable[..., dict[str, Any]], *given: Any, macro: str = ""
) -> Section:
    """A section of the data that ``make`` returns, or a sentence on why it could not be made.

    Args:
        given: to ``make``.
        macro: ``photos.gallery`` is the macro ``gallery`` of ``photos.html``. Left out, macro and template have the
            names of ``make`` and its module.
    """
    file, name = macro.split(".") if macro else (make.__module__.split(".")[-1], make.__name__)
    try:
        return Section(title, f"{file}.html", name, make(*given))
    except DataError as fault:
        return Section(title, "sections.html", "absent", {"reason": fault.what})


@cache
def templates() -> Environment:
    """The templates of the package, with the words and numbers of :mod:`uda.report.wording` as filters."""
    found = Environment(
        loader=PackageLoader("uda.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    words = ("duration", "fallback", "interval", "marked", "missed", "number", "points")
    for name in (*words, "published_score", "role", "score"):
        found.filters[name] = getattr(wording, name)
    found.filters["hex"] = "#{0[0]:02x}{0[1]:02x}{0[2]:02x}".format
    for name in ("KEPT_TITLE", "PUBLISHED", "ROLES"):
        found.globals[name] = getattr(wording, name)
    return found


NO_BREAK = "\u00a0"
"""the one invisible character that our own words use"""


def _seen(value: Any) -> Any:
    """A value as the page shows it; what a macro returned is finished already."""
    if hasattr(value, "__html__"):
        return value
    known = str(value).encode("utf-8", "surrogateescape")  # file names in a locale without UTF-8
    return NO_BREAK.join(map(visible, known.decode("utf-8", "replace").split(NO_BREAK)))


def write_page(path: Path, template: str, sections: Iterable[Section] = (), **values: Any) -> Path:
    """Write a page whole or not at all; returns its path.

    Args:
        values: what the template asks for beside the sections; ``title`` and ``subtitle`` at the least.
    """
    page = templates().get_template(template).render(sections=sections, **values)
    write_text(path, page)
    return path
