"""Writes docs/losses.md, the page of mathematics, from the docstrings of ``uda/losses/``.

    make docs

A public function that returns a ``Scalar`` is a loss and must have every section of ``SECTIONS``; whatever else is
public is a tool and shows those that it has. Nothing is imported: the page is a function of the source text.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from uda.errors import UdaError, raise_all

ROOT = Path(__file__).parents[1]
WIDTH = 100
SECTIONS = ("Formula", "Range", "Minimum", "Collapse", "Source")
ORDER = (
    "supervised",
    "partial_labels",
    "agreement",
    "entropy",
    "class_ratio",
    "dual",
    "spatial_prior",
    "landmarks",
    "mutual_information",
    "constraints",
    "sorted_area",
    "latent_distribution",
    "balanced_assignment",
    "boxes",
    "thresholds",
    "self_training",
    "consistency",
    "centroids",
    "adversarial",
    "potts",
    "grid_crf",
    "laplacian",
    "dense_crf",
    "mean_field",
    "prediction",
)
"""Modules as they are read; one that is not named here comes last."""

HEAD = r"""# Losses

What every loss of `uda.losses` is. Written by `make docs` from the docstrings in [uda/losses](../uda/losses): change
those, not this page. Each docstring also holds its arguments, its errors and an example worked by hand.

| symbol | is |
|---|---|
| $z$, $p$ | logits `[b, k, *s]` and $p = \mathrm{softmax}(z)$ over the classes; 2-D and 3-D |
| $c$, $K$ | a class, and how many there are |
| $x$, $N$ | a pixel, and how many an image has |
| $b$, $B$ | an image, and how many the batch has |
| $\hat\tau$, $\tau$ | predicted class ratio, $\hat\tau_c = \frac{1}{N}\sum_x p_c(x)$ unless said otherwise; its prior |

Logarithms are natural. Every loss takes logits or a `Prediction`, which the losses of one objective share, computes in
float32 and returns a scalar. *Collapse* says which degenerate prediction the loss, alone, cannot tell from a good one.
"""


@dataclass(frozen=True)
class Entry:
    """One public name of ``uda.losses``."""

    name: str
    module: str
    node: ast.FunctionDef | ast.ClassDef
    constants: dict[str, str]
    """values of the module's constants as written, because a default may name one"""

    @property
    def is_loss(self) -> bool:
        node = self.node
        return isinstance(node, ast.FunctionDef) and _written(node.returns) == "Scalar"

    @property
    def summary(self) -> str:
        """The docstring's first paragraph."""
        return markdown(" ".join(_doc(self.node).partition("\n\n")[0].split()))

    @property
    def call(self) -> str:
        """Name, parameters and their defaults."""
        if isinstance(self.node, ast.FunctionDef):
            return self.name + _parameters(self.node, self.constants)
        init = next((m for m in _methods(self.node) if m.name == "__init__"), None)
        if init is not None:
            return self.name + _parameters(init, self.constants)
        fields = [n for n in self.node.body if isinstance(n, ast.AnnAssign)]
        return f"{self.name}({', '.join(_field(f) for f in fields)})"

    @property
    def methods(self) -> Iterator[tuple[str, str]]:
        """Call and first sentence of every public method that says something of itself."""
        if isinstance(self.node, ast.ClassDef):
            for method in _methods(self.node):
                first = " ".join(_doc(method).partition("\n\n")[0].split())
                if first and not method.name.startswith("_") and method.name != "forward":
                    read = any("property" in _written(d) for d in method.decorator_list)
                    call = method.name if read else method.name + _parameters(method, {})
                    yield call, markdown(first)

    @property
    def sections(self) -> dict[str, str]:
        """Text of each section of ``SECTIONS`` that the docstring has."""
        found: dict[str, list[str]] = {}
        lines: list[str] = []
        for line in _doc(self.node).splitlines():
            start = re.match(rf"({'|'.join(SECTIONS)}):\s+(\S.*)", line)
            if start:
                lines = found[start[1]] = [start[2]]
            elif line.startswith("    "):
                lines.append(line.strip())
            else:
                lines = []
        return {name: markdown(" ".join(lines)) for name, lines in found.items()}


def _written(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)


def _doc(node: ast.FunctionDef | ast.ClassDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "")


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [n for n in node.body if isinstance(n, ast.FunctionDef)]


def _field(field: ast.AnnAssign) -> str:
    default = f"={_written(field.value)}" if field.value is not None else ""
    return _written(field.target) + default


def _parameters(function: ast.FunctionDef, constants: dict[str, str]) -> str:
    """``(logits, eps=1e-10)``: no annotations, because they are in the source and do not fit in a line."""
    arguments = function.args
    plain = [*arguments.posonlyargs, *arguments.args]
    required = len(plain) - len(arguments.defaults)
    pairs = [
        *zip(plain, [None] * required + list(arguments.defaults), strict=True),
        *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
    ]
    words = []
    for argument, default in pairs:
        value = constants.get(_written(default), _written(default))
        words.append(f"{argument.arg}={value}" if value else argument.arg)
    listed = ", ".join(word for word in words if word not in {"self", "cls"})
    return f"({listed})".replace("'", '"')


def markdown(text: str) -> str:
    """Docstring markup as Markdown; in formulas nothing that Markdown itself would take for an escape or a cell."""
    text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
    text = re.sub(r":\w+:`~?([^`]*)`", r"``\1``", text)
    text = text.replace("``", "`")
    return re.sub(r"\$[^$]*\$", lambda formula: f"${_tame(formula[0][1:-1]).strip()}$", text)


def _tame(formula: str) -> str:
    for sign, word in (
        (r"\{", r"\lbrace "),
        (r"\}", r"\rbrace "),
        (r"\|", r"\Vert "),
        ("|", r"\vert "),
        *((space, " ") for space in (r"\,", r"\;", r"\:", r"\!", "  ")),
    ):
        formula = formula.replace(sign, word)
    return formula


def display(text: str) -> str:
    """Formulas with fractions and sums as large as on a line of their own."""
    return re.sub(r"\$([^$]*\\(?:frac|sum)[^$]*)\$", r"$\\displaystyle \1$", text)


def entries(package: Path) -> list[Entry]:
    """The public names in the order of the page: module by module, each as its file is written."""
    top = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in top.body if isinstance(node, ast.ImportFrom)]
    public = {alias.name for node in imports for alias in node.names}
    found = []
    for path in sorted(package.glob("*.py"), key=lambda p: (_place(p.stem), p.stem)):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assigned = [n for n in tree.body if isinstance(n, ast.Assign)]
        constants = {_written(n.targets[0]): _written(n.value) for n in assigned}
        found += [
            Entry(node.name, path.stem, node, constants)
            for node in tree.body
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public
        ]
    return found


def _place(module: str) -> int:
    return ORDER.index(module) if module in ORDER else len(ORDER)


def check(found: list[Entry], package: Path) -> None:
    """Refuse a public name that does not say what the page must show.

    Raises:
        UdaError: every public name without a docstring, every loss that lacks sections, every unclosed formula.
    """
    faults = []
    for entry in found:
        where = package / f"{entry.module}.py"
        missing = [name for name in SECTIONS if name not in entry.sections] if entry.is_loss else []
        if not entry.summary:
            faults.append(UdaError(f"{entry.name} has no docstring", where=where))
        if missing:
            lines = ", ".join(f"'{name}: …'" for name in missing)
            faults.append(
                UdaError(
                    f"the loss {entry.name} has no section {', '.join(missing)}",
                    where=where,
                    fix=f"write {lines} at the start of a line of its docstring",
                )
            )
        faults += [
            UdaError(f"{entry.name}: a $ of {name} has no partner", where=where)
            for name, text in entry.sections.items()
            if text.count("$") % 2
        ]
    raise_all(faults, "the losses' docstrings")


def page(package: Path) -> str:
    """The whole page."""
    found = entries(package)
    check(found, package)
    blocks = [HEAD, _overview([entry for entry in found if entry.is_loss])]
    for module in dict.fromkeys(entry.module for entry in found):
        blocks.append(f"## uda.losses.{module}\n\n{_introduction(package / f'{module}.py')}\n")
        members = [entry for entry in found if entry.module == module]
        blocks += [_block(entry) for entry in members if entry.is_loss]
        blocks += [_block(entry) for entry in members if not entry.is_loss]
    return "\n".join(blocks)


def _overview(losses: list[Entry]) -> str:
    rows = ["| loss | least where | collapse |", "|---|---|---|"]
    for entry in losses:
        cells = [f"[{entry.name}](#{entry.name})"]
        cells += [entry.sections[name].replace("|", r"\|") for name in ("Minimum", "Collapse")]
        rows.append(f"| {' | '.join(cells)} |")
    return "## Overview\n\n" + "\n".join(rows) + "\n"


def _introduction(path: Path) -> str:
    text = inspect.cleandoc(
        ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or path.stem
    )
    return markdown(text)


def _block(entry: Entry) -> str:
    call = entry.call
    if len(call) > WIDTH:  # as ruff would, which formats Python in Markdown too
        name, _, inside = call.removesuffix(")").partition("(")
        if len(inside) + 4 > WIDTH:  # one argument a line
            # not within a tuple, such as (0.5, 1.0)
            inside = re.sub(r", (?![^(]*\))", ",\n    ", inside) + ","
        call = f"{name}(\n    {inside}\n)"
    lines = [f"### {entry.name}", "", entry.summary, "", "```python", call, "```"]
    sections = entry.sections
    if "Formula" in sections:
        sections["Formula"] = display(sections["Formula"])
    told = [f"- **{name}**: {sections[name]}" for name in SECTIONS if name in sections]
    told += [f"- `.{call}`: {sentence}" for call, sentence in entry.methods]
    return "\n".join([*lines, "", *told, ""] if told else [*lines, ""])


def main() -> None:
    """Write the page, or say what keeps it from being written."""
    try:
        text = page(ROOT / "uda" / "losses")
    except UdaError as error:
        raise SystemExit(str(error)) from error
    Path(__file__).with_name("losses.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
