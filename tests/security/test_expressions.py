"""Sizes and guards of an exported program: bounded arithmetic without a hidden word."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any

import pytest
from foreign_networks import Plain, exported, repacked

from uda.config.networks import ForeignNetwork
from uda.errors import ModelError
from uda.networks.foreign.adapter import build_foreign
from uda.networks.foreign.expressions import check_expression
from uda.networks.foreign.programs import unheard

HIDDEN = ["s0 # \x1b]0;owned\x07", "s0 #\nerror: forged", "s0\n", "s0\x0c + 1", "ſ0 + 1", "s0 # x"]
ENDLESS = [
    "9^9^9^2",
    "1_000_000^2^40",
    "Pow(9, e=99999999)",
    "LShift(1, x=99999999)",
    "1e99999999",
    "1e-99999999",
    "1e300",
    "9" * 30,
    "sqrt(Float(2, 9999999))",
    "Float(2, precision=9999999)",
    "Pow(2, Pow(2, Pow(2, 64)))",
    "Pow(9, 64 + 64)",
    "Pow(9, Symbol('s0'))",
    "((9**64)**64)**64",
    "u999999999",
    "Symbol('u999999999')",
]
SOUND = [
    "Symbol('s94', positive=True, integer=True)",
    "Mul(Integer(2), Max(Integer(1), Symbol('s3', integer=True)))",
    "Pow(Symbol('s0'), Integer(-1))",
    "(-1 + s0)**2 // 4",
    "L['x'].size()[0] % 2 == 0",
    "2*s10000",
    "1.5*s0",
]


@pytest.mark.parametrize("text", HIDDEN + ENDLESS)
def test_expressions_with_hidden_words_or_endless_values_are_refused(text: str) -> None:
    with pytest.raises(ModelError, match="is not evaluated"):
        check_expression(text, "x")


@pytest.mark.parametrize("text", SOUND)
def test_expressions_that_torch_writes_pass(text: str) -> None:
    check_expression(text, "x")


@pytest.mark.parametrize("text", HIDDEN)
@pytest.mark.parametrize("place", ["range_constraints", "guards_code"])
def test_no_word_of_a_program_reaches_the_terminal(
    text: str, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def change(member: str, content: bytes) -> bytes:
        if not member.endswith("models/model.json"):
            return content
        raw: dict[str, Any] = json.loads(content)
        if place == "guards_code":
            raw[place] = [text]
        else:
            raw[place][text] = {"min_val": 0, "max_val": 10}
        return json.dumps(raw).encode()

    data = repacked(exported(Plain().eval()), change)
    with pytest.raises(ModelError, match="is not evaluated") as refused:
        build_foreign(ForeignNetwork(kind="exported", name="x"), 3, data)
    assert "\x1b" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_torch_is_silent_while_a_program_is_at_work(capfd: pytest.CaptureFixture[str]) -> None:
    with unheard():
        for name in ("torch.export", "torch._export.x", "torch.fx.experimental.symbolic_shapes"):
            logging.getLogger(name).error("\x1b]0;owned\x07")
        warnings.warn("\x1b]0;owned\x07", stacklevel=1)
        sys.stderr.write("\x1b]0;owned\x07\n")
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
