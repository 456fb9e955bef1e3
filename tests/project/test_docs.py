"""The page of mathematics says what the docstrings say, of every public loss, and its formulas can be set. The other
pages name every method, recipe and command, and their links lead somewhere."""

from __future__ import annotations

import re
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import load_script
from matplotlib.mathtext import MathTextParser

import uda
import uda.losses
from uda.cli.main import app
from uda.config.guard import SLICES, Rule
from uda.config.loading import available, load_recipe
from uda.config.methods import METHODS
from uda.errors import UdaError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "losses.md").read_text(encoding="utf-8")


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script(ROOT / "docs" / "make_losses.py", monkeypatch)


def write(folder: Path, docstring: str, returns: str = "Scalar") -> Path:
    """A package of one loss."""
    (folder / "__init__.py").write_text("from one import gap as gap\n")
    body = "\n".join("    " + line for line in f'r"""{docstring}"""'.splitlines())
    (folder / "one.py").write_text(
        f'"""Gaps."""\nEPS = 1e-3\ndef gap(logits, kind="mean", *, eps=EPS) -> {returns}:\n{body}\n'
    )
    return folder


COMPLETE = r"""How far p is from q.

Formula: $\sum_c |p_c - q_c|\,K$, halved
    when ``half``
Range: [0, 1]
Minimum: where :math:`p = q` | p = q
Collapse: none
Source: :class:`Somebody`, 2001

Free text.

Args:
    logits: ``[b, k, *s]``.
        Range: not a section, because it is indented
"""


def test_the_page_is_what_the_docstrings_make(maker: ModuleType) -> None:
    assert maker.page(ROOT / "uda" / "losses") == PAGE, "run `make docs`"


def test_every_public_name_has_one_block_and_every_loss_one_row(maker: ModuleType) -> None:
    found = maker.entries(ROOT / "uda" / "losses")
    functions = {name for name, value in vars(uda.losses).items() if callable(value)}
    headings = re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert sorted(headings) == sorted(entry.name for entry in found)
    assert set(headings) >= {n for n in functions if n[0].islower()}
    rows = re.findall(r"^\| \[(\w+)\]\(#(\w+)\) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in rows] == [entry.name for entry in found if entry.is_loss]
    assert {anchor for _, anchor in rows} <= set(headings)


def test_a_block_shows_the_call_and_every_section_with_its_continuation(
    maker: ModuleType, tmp_path: Path
) -> None:
    page = maker.page(write(tmp_path, COMPLETE))
    assert 'gap(logits, kind="mean", eps=0.001)' in page
    formula = r"$\displaystyle \sum_c \vert p_c - q_c\vert K$, halved when `half`"
    assert f"- **Formula**: {formula}\n- **Range**: [0, 1]\n- **Minimum**: where $p = q$" in page
    assert "- **Source**: `Somebody`, 2001\n" in page
    assert "not a section" not in page
    assert r"| [gap](#gap) | where $p = q$ \| p = q | none |" in page


@pytest.mark.parametrize("section", ["Formula", "Range", "Minimum", "Collapse", "Source"])
def test_a_loss_without_a_section_is_refused_by_name(
    maker: ModuleType, tmp_path: Path, section: str
) -> None:
    docstring = COMPLETE.replace(f"\n{section}:", "\nElse:")
    with pytest.raises(UdaError, match=f"the loss gap has no section {section}\n"):
        maker.page(write(tmp_path, docstring))


def test_what_returns_no_scalar_needs_a_docstring_alone(maker: ModuleType, tmp_path: Path) -> None:
    page = maker.page(write(tmp_path, "A tool.\n\nSource: Somebody, 2001\n", returns="Tensor"))
    assert "### gap\n\nA tool.\n\n" in page
    assert "- **Source**: Somebody, 2001\n" in page
    assert "[gap]" not in page
    with pytest.raises(UdaError, match="gap has no docstring"):
        maker.page(write(tmp_path, "", returns="Tensor"))


def test_an_open_formula_is_refused(maker: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UdaError, match=r"gap: a \$ of Range has no partner"):
        maker.page(write(tmp_path, COMPLETE.replace("[0, 1]", "[0, $K]")))


FORMULAS = re.findall(r"\$([^$]+)\$", PAGE)


def test_formulas_hold_nothing_that_markdown_takes_for_its_own() -> None:
    """A backslash before a sign loses it, a bar ends a cell, a space inside the dollars keeps them plain text."""
    assert len(FORMULAS) > 20
    wrong = [f for f in FORMULAS if re.search(r"\\[^A-Za-z]|\||\n|`", f) or f != f.strip()]
    assert wrong == []


def test_formulas_are_tex() -> None:
    """Matplotlib reads a smaller dialect, so its spellings are put in first."""
    parser = MathTextParser("path")
    for formula in FORMULAS:
        plain = re.sub(r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}", formula)
        plain = re.sub(r"\\(le|ge)(?![A-Za-z])", r"\\\1q", plain).replace(r"\displaystyle", "")
        width = parser.parse(f"${plain}$").width
        assert width > 0, formula


PAGES = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "checkpoints").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
]


def anchors(page: Path) -> set[str]:
    """What a link may name on a page, as GitHub makes it of the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_every_link_leads_to_a_file_and_to_a_heading_in_it() -> None:
    links = [
        (page, *link.partition("#")[::2])
        for page in PAGES
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert {ROOT / "README.md", ROOT / "docs" / "methods.md"} <= {page for page, *_ in links}
    lost = [
        (page.name, path, anchor)
        for page, path, anchor in links
        if not (target := page.parent / path if path else page).exists()
        or (anchor and anchor not in anchors(target))
    ]
    assert lost == []


def rows(page: str, name: str = r"\w+") -> list[str]:
    """The names in the first column of a page's tables."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return [found for cell in cells for found in re.findall(rf"`({name})`", cell)]


def test_the_page_of_methods_has_every_method_once_and_no_other() -> None:
    assert sorted(rows("methods.md")) == sorted({"adabn", *METHODS})


def test_the_page_of_recipes_has_every_recipe_once_and_no_other() -> None:
    assert sorted(rows("recipes.md")) == sorted(path.stem for path in available("recipe").values())


def test_every_command_has_a_section_and_a_question() -> None:
    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    titles = " ".join(re.findall(r"^## (.+)$", page, re.MULTILINE))
    sections = set(re.findall(r"uda (\w+)", titles)) | {"pretrain"}  # under `uda run`
    assert sections == verbs
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {verb for verb in verbs if f"`uda {verb}" not in readme} == set()


def test_the_citation_says_what_the_package_says() -> None:
    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    about = metadata("uda-seg")
    assert said["cff-version"] == "1.2.0"
    assert said["version"] == uda.__version__ == about["Version"]
    assert said["license"] == about["License-Expression"]
    assert [author["name"] for author in said["authors"]] == [about["Author"]]


def blocks(page: str) -> list[dict[str, Any]]:
    """What the YAML of a page says, a block each."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [yaml.safe_load(one) for one in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def test_the_whole_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    (whole,) = [one for one in blocks("recipes.md") if "name" in one]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(whole))
    assert load_recipe(str(path), []).variants.keys() == {"ratio_teacher"}


def test_the_page_of_the_guard_prints_the_rule_for_slices() -> None:
    (said,) = blocks("selection.md")
    assert Rule.model_validate(said["guard"]["rule"]) == SLICES


def test_the_page_of_the_design_has_every_room_once_and_no_other() -> None:
    package = ROOT / "uda"
    rooms = {path.relative_to(package).parts[0] for path in package.rglob("*.py")} - {"__init__.py"}
    assert sorted(name.rstrip("/") for name in rows("design.md", r"[\w.]+/?")) == sorted(rooms)
