"""Sizes in an exported program are written as expressions, which torch evaluates. They may be arithmetic only."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from uda.errors import ModelError

_FUNCTIONS = frozenset(
    re.findall(
        r"\w+",
        """
        Abs Add And BitwiseFn_bitwise_and BitwiseFn_bitwise_or CeilDiv CeilToInt CleanDiv Eq
        Equality Float FloatPow FloatTrueDiv FloorDiv FloorToInt Ge GreaterThan Gt Identity
        IntTrueDiv Integer LShift Le LessThan Lt Max Min Mod ModularIndexing Mul Ne Not Or
        Piecewise Pow PowByNatural PythonMod RShift Rational RoundDecimal RoundToInt
        StrictGreaterThan StrictLessThan Symbol ToFloat TruncToFloat TruncToInt Unequality Where
        cast_symbool_to_symint_guardless ceiling floor max min sqrt
        """,
    )
)
_PARTS = (
    ast.Expression,
    ast.Load,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.keyword,
    ast.Subscript,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
)


def check_expressions(description: bytes, name: str) -> None:
    """Refuse a program that has anything but arithmetic where sizes and guards are described.

    Args:
        description: the JSON of the program.

    Raises:
        ModelError: not JSON, or an expression that calls or reads something else.
    """
    try:
        found = list(_expressions(json.loads(description)))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"its description is not JSON: {error}", where=name, fix="export the network again"
        ) from error
    for text in found:
        if not _is_arithmetic(text):
            raise ModelError(
                f"describes a size by {text[:80]!r}, which is not arithmetic and is not evaluated",
                where=name,
                fix="export the network yourself, from code you trust",
            )


def _expressions(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from _expressions(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "expr_str":
                yield str(value)
            elif key in ("guards_code", "range_constraints") and isinstance(value, list | dict):
                yield from map(str, value)
            yield from _expressions(value)


def _is_arithmetic(text: str) -> bool:
    try:
        parsed = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(_is_harmless(node) for node in ast.walk(parsed))


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return "__" not in node.id
    if isinstance(node, ast.Constant):  # sympy reads a text as an expression again: names only
        text = node.value
        return not isinstance(text, str | bytes) or (
            isinstance(text, str)
            and re.fullmatch(r"[A-Za-z]\w*", text) is not None
            and "__" not in text
        )
    if isinstance(node, ast.Attribute):
        return node.attr in {"size", "stride", "storage_offset"}
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) or (
            isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
        )
    return isinstance(node, _PARTS)
