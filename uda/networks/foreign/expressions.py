"""Check the size expressions in an exported program, which torch evaluates: only arithmetic is allowed."""

from __future__ import annotations

import ast
import re

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


_LONGEST = 4096
"""characters of the longest expression, of which torch writes some hundred"""
_GROWING = frozenset({"Pow", "PowByNatural", "FloatPow", "LShift"})
_POWERS, _EXPONENT = 3, 64
"""the most powers and shifts in one expression, and their largest exponent"""


def check_expression(text: str, name: str) -> None:
    """Refuse a size or a guard that is anything but arithmetic.

    Raises:
        ModelError: the expression calls or reads something else, or its value could be too large to compute.
    """
    if not _is_arithmetic(text):
        raise ModelError(
            f"describes a size by {text[:80]!r}, which is not arithmetic and is not evaluated",
            where=name,
            fix="export the network yourself, from code you trust",
        )


def _is_arithmetic(text: str) -> bool:
    if len(text) > _LONGEST:
        return False
    try:
        parsed = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # too deeply nested
        return False
    nodes = list(ast.walk(parsed))
    return all(_is_harmless(node) for node in nodes) and _is_bounded(nodes)


def _is_bounded(nodes: list[ast.AST]) -> bool:
    """Whether the value can be computed in reasonable time, unlike that of 9**9**9."""
    powers = [node for node in nodes if _is_power(node)]
    return len(powers) <= _POWERS and all(_is_small(node) for node in powers)


def _is_power(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.Pow | ast.LShift)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in _GROWING


def _is_small(power: ast.AST) -> bool:
    """Whether the exponent has only names and small numbers, and no product, power or shift."""
    if isinstance(power, ast.BinOp):
        exponents: list[ast.expr] = [power.right]
    else:
        exponents = power.args[1:] if isinstance(power, ast.Call) else []
    for part in (inner for exponent in exponents for inner in ast.walk(exponent)):
        if isinstance(part, ast.Mult | ast.Pow | ast.LShift):
            return False
        if isinstance(part, ast.Constant) and not (
            isinstance(part.value, int | float) and abs(part.value) <= _EXPONENT
        ):
            return False
    return True


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return "__" not in node.id
    if isinstance(node, ast.Constant):  # sympy parses a string as an expression: names only
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
