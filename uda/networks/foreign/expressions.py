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
_NUMBERS = frozenset({"Integer", "Rational", "Float"})
_LARGEST = 2.0**64
"""the largest number in an expression, in absolute value; the smallest real one is its inverse"""
_LAST_SYMBOL = 10_000
"""the largest number in the name of a symbol, since torch counts up to it"""
_HIDDEN = re.compile(r"[^ -~]|#|[0-9.]_|[0-9.][eE][+-]?[0-9]{4}")
"""what Python's parser drops or rounds before it can be checked: comments, line breaks, digits in groups, 1e-9999"""


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
    if len(text) > _LONGEST or _HIDDEN.search(text):
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
    """Whether the exponent is a small number and the base has no power or shift."""
    if isinstance(power, ast.BinOp):
        base, exponent = power.left, power.right
    elif isinstance(power, ast.Call) and len(power.args) == 2:
        base, exponent = power.args
    else:
        return False
    if any(_is_power(inner) for inner in ast.walk(base)):
        return False
    return all(
        isinstance(part, ast.UnaryOp | ast.USub | ast.Load)
        or (isinstance(part, ast.Name) and part.id in _NUMBERS)
        or (isinstance(part, ast.Call) and ast.unparse(part.func) in _NUMBERS)
        or (
            isinstance(part, ast.Constant)
            and isinstance(part.value, int | float)
            and abs(part.value) <= _EXPONENT
        )
        for part in ast.walk(exponent)
    )


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return _is_name(node.id)
    if isinstance(node, ast.Constant):
        return _is_harmless_constant(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr in {"size", "stride", "storage_offset"}
    if isinstance(node, ast.Call):
        return _is_harmless_call(node)
    return isinstance(node, _PARTS) and not isinstance(node, ast.BitXor)  # a power in sympy


def _is_name(text: str) -> bool:
    number = re.search(r"[0-9]*$", text)
    digits = number.group().lstrip("0") if number else ""
    return (
        re.fullmatch(r"[A-Za-z_]\w*", text) is not None
        and "__" not in text
        and (len(digits) <= len(str(_LAST_SYMBOL)) and int(digits or 0) <= _LAST_SYMBOL)
    )


def _is_harmless_constant(value: object) -> bool:
    """Whether a constant is a number of ordinary size, or a name: sympy parses a string as an expression."""
    if isinstance(value, str):
        return value[:1] != "_" and _is_name(value)
    if isinstance(value, float):
        return value == 0 or 1 / _LARGEST <= abs(value) <= _LARGEST  # NaN compares false
    return value is None or (isinstance(value, int) and abs(value) <= _LARGEST)


def _is_harmless_call(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        return not call.keywords
    if not isinstance(call.func, ast.Name) or call.func.id not in _FUNCTIONS:
        return False
    if call.func.id == "Float" and len(call.args) != 1:
        return False  # a precision
    assumed = call.func.id == "Symbol"  # Symbol('s0', positive=True)
    return all(
        assumed and isinstance(one.value, ast.Constant) and isinstance(one.value.value, bool)
        for one in call.keywords
    )
