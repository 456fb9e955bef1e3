"""Check the source code in a TorchScript file: refuse operators that read or write files.

torch evaluates default arguments and restores objects while it loads, so the code is checked before. torch's own
printer wrote it. Text that this printer never writes (escaped letters, other quotes) is refused, because it could hide
a word.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from uda.errors import ModelError
from uda.networks.foreign.descriptions import DENIED

_WORDS = DENIED
_WORD = re.compile(r"[A-Za-z_]\w*")
_OTHER_OPS = re.compile(r"\bops\s*\.\s*(?!(?:prim|aten|torchvision)\s*\.)\w+\s*\.\s*\w+\s*\(")
_OBJECTS = re.compile(rb"torch[.\n]classes")
_ESCAPE = re.compile(r"\\([xuUN]|[0-7]{1,3})")
_TEXT = re.compile(r'"((?:[^"\\\n]|\\.)*)"')


def check_scripts(parts: Mapping[str, bytes], name: str) -> None:
    """Refuse code that could touch files or is obfuscated.

    Args:
        parts: name → content of the parts of a TorchScript archive.

    Raises:
        ModelError: names the word and the part.
    """
    for path, content in parts.items():
        if path.endswith((".py", ".pkl")) and _OBJECTS.search(content):
            raise _refused("an object of torch.classes", path, name)
        if path.endswith(".py"):
            _check_source(content, path, name)


def _check_source(content: bytes, path: str, name: str) -> None:
    try:
        text = content.decode("ascii")
    except UnicodeDecodeError:
        raise _refused("letters that torch's printer does not write", path, name) from None
    for escape in _ESCAPE.findall(text):
        if not escape.isdecimal() or 0x20 <= int(escape, 8) < 0x7F:
            raise _refused(f"an escape \\{escape} of a letter that needs none", path, name)
    code = _TEXT.sub(" ", text)
    if '"""' in text or '"' in code or "'" in code:
        raise _refused("quotes that torch's printer does not write", path, name)
    words = {*_WORD.findall(code), *_TEXT.findall(text)}  # a string may name an attribute
    if found := words & _WORDS:
        raise _refused(f"the word {min(found)!r}", path, name)
    if other := _OTHER_OPS.search(code):
        raise _refused(f"the operator {other[0].rstrip('(')!r}", path, name)


def _refused(what: str, path: str, name: str) -> ModelError:
    return ModelError(
        f"its code {path!r} has {what}, and could touch files when it is opened or run",
        where=name,
        expected="operators of tensors alone",
        fix="export the network with torch.export.export; only import what you would run",
    )
