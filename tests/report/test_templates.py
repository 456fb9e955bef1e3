"""Templates escape every value, miss no name in silence and hold nothing that a browser would run or load."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError, nodes

from uda.report.html import templates

NAMES = templates().list_templates()


@pytest.mark.parametrize("name", NAMES)
def test_a_template_compiles_escapes_all_and_loads_nothing(name: str) -> None:
    found = templates()
    found.get_template(name)
    assert found.loader is not None
    text, *_ = found.loader.get_source(found, name)
    tree = found.parse(text)
    assert {"safe", "forceescape"}.isdisjoint(one.name for one in tree.find_all(nodes.Filter))
    assert not list(tree.find_all(nodes.EvalContextModifier))  # an autoescape block
    assert not re.search(r"<script|https?:|url\(|@import", text)


def test_what_a_macro_is_given_is_text_and_what_it_lacks_is_an_error() -> None:
    call = "{% import 'sections.html' as sections %}{{ sections.absent(reason) }}"
    shown = templates().from_string(call)
    assert "Left out: &lt;i&gt;&#39;&#34;." in shown.render(reason="<i>'\"")
    with pytest.raises(UndefinedError, match="reason"):
        shown.render()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x\u202egpj", "x\\u202egpj"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\x1b[31m\t", "\\x1b[31m\\t"),
        ("one\ntwo", "one\ntwo"),
        ("95\u00a0% 心臓", "95\u00a0% 心臓"),
        ("h\udcc3\udca4lt", "hält"),
        ("\udcff", "\ufffd"),
    ],
)
def test_what_no_reader_would_see_stands_as_its_code(name: str, shown: str) -> None:
    assert templates().from_string("{{ name }}|").render(name=name) == f"{shown}|"


def test_the_templates_lie_in_the_package() -> None:
    assert {"page.html", "macros.html", "style.css", "report.html", "check.html"} <= set(NAMES)
