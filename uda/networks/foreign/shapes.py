"""Input shape of an exported program; axes without a dynamic shape have one length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from uda.errors import ModelError

_NAMES: dict[int, tuple[str, ...]] = {
    4: ("batch", "channels", "rows", "columns"),
    5: ("batch", "channels", "slices", "rows", "columns"),
}


@dataclass(frozen=True)
class Axis:
    """Lengths slope · n + start of one axis, for whole n from low to high; slope 0 is a fixed length."""

    symbol: str
    slope: int
    start: int
    low: int = 0
    high: float = math.inf

    def number(self, length: int) -> int | None:
        """The n of a length; None where no n gives this length."""
        if not self.slope:
            return 0 if length == self.start else None
        n, rest = divmod(length - self.start, self.slope)
        return n if rest == 0 and self.low <= n <= self.high else None

    def __str__(self) -> str:
        if not self.slope:
            return str(self.start)
        factor = self.symbol if self.slope == 1 else f"{self.slope}·{self.symbol}"
        return f"{factor} + {self.start}" if self.start else factor


@dataclass(frozen=True)
class Shape:
    """The shape of the images that a program was exported for."""

    axes: tuple[Axis, ...]
    name: str

    def check(self, image: Tensor) -> None:
        """Check that the program takes images of this shape.

        Raises:
            ModelError: it does not; the error gives the line of Python that exports it for any number of images.
        """
        size = tuple(image.shape)
        found: dict[str, int] = {}
        for axis, length in zip(self.axes, size, strict=False):
            n = axis.number(length)
            if n is None or found.setdefault(axis.symbol, n) != n:
                raise self._refusal(size)
        if len(size) != len(self.axes):
            raise self._refusal(size)

    def _refusal(self, size: tuple[int, ...]) -> ModelError:
        names = _NAMES.get(len(size), ("batch",))
        example = ", ".join(map(str, (2, *size[1:])))
        return ModelError(
            f"the program was exported for images [{', '.join(map(str, self.axes))}], "
            f"and gets {list(size)} ({', '.join(names)})",
            where=self.name,
            expected="a program that takes any number of images of that size",
            fix=f"torch.export.export(model.eval(), (torch.zeros({example}),), "
            'dynamic_shapes=({0: torch.export.Dim("batch")},))',
        )


def shape_of(program: Any, name: str) -> Shape:
    """The shape of an ``ExportedProgram``'s only input.

    Raises:
        ModelError: the program takes several inputs, or an input that is no tensor.
    """
    names = program.graph_signature.user_inputs
    inputs = [
        node for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    ]
    if len(names) != 1 or not isinstance(inputs[0].meta.get("val"), Tensor):
        raise ModelError(
            f"the program takes {len(names)} inputs: {', '.join(map(str, names))}",
            where=name,
            expected="one input: images [b, c, *s]",
            fix="export a module whose forward takes only the images",
        )
    letters: dict[str, str] = {}
    lengths = inputs[0].meta["val"].shape
    return Shape(tuple(_axis(n, program.range_constraints, letters) for n in lengths), name)


def _axis(length: Any, ranges: Any, letters: dict[str, str]) -> Axis:
    """A fixed length, or slope · n + start of one symbol; the program's guards check any other expression."""
    if isinstance(length, int):
        return Axis("", 0, length)
    expression = length.node.expr
    symbols = list(expression.free_symbols)
    start: Any = expression
    slope: Any = 0
    if len(symbols) == 1:
        start, slope = expression.subs(symbols[0], 0), expression.coeff(symbols[0], 1)
    if slope == 0 or expression != slope * symbols[0] + start or not slope.is_Integer:
        return Axis(str(expression), 1, 0)
    known = ranges.get(symbols[0])
    # A lower bound of 2 only excludes the special cases 0 and 1; torch does not enforce it either.
    low = int(known.lower) if known is not None and known.lower > 2 else 0
    high = int(known.upper) if known is not None and known.upper.is_Integer else math.inf
    letter = letters.setdefault(str(symbols[0]), "nmpqrs"[len(letters) % 6])
    return Axis(letter, int(slope), int(start), low, high)
