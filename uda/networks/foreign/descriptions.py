"""Check the JSON description of an exported program before torch turns it into Python code.

torch writes names into source code that it runs, looks up operators by their path, and imports modules that a tree of
inputs or outputs names. Here names must be identifiers, operators must be listed (:mod:`.operators`), and trees must
consist of tuples, lists and dicts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from uda.errors import ModelError
from uda.networks.foreign.expressions import check_expression
from uda.networks.foreign.operators import is_listed

_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_PLAIN = re.compile(r"[A-Za-z0-9_.,:+/ -]*")
_NAMES = frozenset({"name", "as_name", "user_input_name", "forward_arg_names", "field_names"})
_TREES = frozenset({"in_spec", "out_spec"})
_TREE_TYPES = frozenset(
    {
        None,
        "builtins.tuple",
        "builtins.list",
        "builtins.dict",
        "collections.OrderedDict",
        "torch.fx.immutable_collections.immutable_list",
        "torch.fx.immutable_collections.immutable_dict",
    }
)
_FREE = frozenset({"as_string", "as_strings"})
"""keys of string arguments, which torch does not evaluate"""
_SHARED = 16
"""the most values per byte; above 1 where an axis of a tensor repeats the same memory"""
_DIALECTS = frozenset({"ATEN", "TRAINING"})
_OBJECTS = frozenset({"as_custom_obj", "custom_obj"})


def checked_description(content: bytes, name: str) -> bytes:
    """The description of a program without its metadata (traces of source code).

    Raises:
        ModelError: the description is not JSON, or holds a word that torch could run, import or call.
    """
    return json.dumps(_checked_tree(content, name)).encode()


def check_payload(content: bytes, parts: Mapping[str, bytes], folder: str, name: str) -> None:
    """Check the list of tensors of an exported program.

    Raises:
        ModelError: the list is not JSON, or names a pickle, a missing part, or more values than the part can hold.
    """
    raw = _checked_tree(content, name)
    entries = raw.get("config") if isinstance(raw, dict) else None
    for key, entry in entries.items() if isinstance(entries, dict) else ():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise ModelError(
                f"{key!r} is a pickle, which could run code when it is opened",
                where=name,
                fix="export a network whose state is plain tensors",
            )
        part = parts.get(f"{folder}/{entry.get('path_name')}")
        if part is None:
            raise _refused(f"{key!r} lies in {str(entry.get('path_name'))[:80]!r}", name)
        if _count(entry.get("tensor_meta")) > _SHARED * len(part):
            raise _refused(f"{key!r} declares more values than it has", name)
        meta = entry.get("tensor_meta")
        device = meta.get("device") if isinstance(meta, dict) else None
        if device != {"type": "cpu", "index": None}:
            raise ModelError(
                f"its tensor {key!r} lies on the device {str(device)[:80]}; this is not opened",
                where=name,
                expected="tensors on the CPU",
                fix="export the network again: torch.export.export(model.cpu().eval(), …)",
            )


def _count(meta: Any) -> int:
    """Number of values of a tensor, from its description."""
    sizes = meta.get("sizes") if isinstance(meta, dict) else None
    found = (
        [s.get("as_int") for s in sizes if isinstance(s, dict)] if isinstance(sizes, list) else []
    )
    return math.prod(n for n in found if isinstance(n, int))


def _checked_tree(content: bytes, name: str) -> Any:
    try:
        return _checked(_parsed(content, name), "", name)
    except RecursionError:
        raise _refused("it is nested too deeply", name) from None


def _parsed(content: bytes | str, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"its description is not JSON: {error}", where=name, fix="export the network again"
        ) from error


def _checked(node: Any, key: str, name: str) -> Any:
    """The checked tree without metadata; ``key`` is the nearest key above ``node``."""
    if isinstance(node, list):
        return [_checked(item, key, name) for item in node]
    if isinstance(node, str):
        _check_text(node, key, name)
    if not isinstance(node, dict):
        return node
    for inner in node:
        if inner in _OBJECTS:
            raise _refused("it holds an object that is no tensor", name)
        _check_text(inner, "guards_code" if key == "range_constraints" else "", name)
    return {k: {} if k == "metadata" else _checked(v, k, name) for k, v in node.items()}


def _check_text(text: str, key: str, name: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _refused(f"it holds {text[:80]!r}, which is no text", name)
    if key in _FREE:
        return
    if key in ("expr_str", "guards_code"):
        check_expression(text, name)
    elif key in ("target", "as_operator"):
        if not is_listed(text):
            raise _refused(
                f"it calls {text[:80]!r}, which is not in the list of operators of tensors and numbers",
                name,
            )
    elif key in _TREES:
        _check_tree(_parsed(text, name), name)
    elif key == "verifiers" and text not in _DIALECTS:
        raise _refused(f"it is of the dialect {text[:80]!r}", name)
    elif not (_NAME if key in _NAMES else _PLAIN).fullmatch(text):
        raise _refused(f"something is called {text[:80]!r}", name)


def _check_tree(raw: Any, name: str) -> None:
    """Check a tree ``[version, {type, context, children_spec}]``; a context is null or the keys of a mapping."""
    if not isinstance(raw, list) or len(raw) != 2 or not isinstance(raw[0], int):
        raise _refused("a tree of inputs or outputs is malformed", name)
    pending = [raw[1]]
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or not _is_tree_type(node.get("type")):
            kind = node.get("type") if isinstance(node, dict) else node
            raise _refused(f"its inputs or outputs hold a {str(kind)[:80]!r}", name)
        context = node.get("context")
        keys = None if context is None else _parsed(str(context), name)
        if keys is not None and not _are_keys(keys):
            raise _refused(f"its inputs or outputs are called {str(context)[:80]!r}", name)
        children = node.get("children_spec")
        pending += children if isinstance(children, list) else []


def _is_tree_type(kind: Any) -> bool:
    return (kind is None or isinstance(kind, str)) and kind in _TREE_TYPES


def _are_keys(keys: Any) -> bool:
    return isinstance(keys, list) and all(
        isinstance(key, int) or (isinstance(key, str) and _PLAIN.fullmatch(key)) for key in keys
    )


def _refused(what: str, name: str) -> ModelError:
    return ModelError(
        f"{what}; this is not opened",
        where=name,
        expected="a file of torch.export.save whose network holds only tensors",
        fix="export the network yourself, from code you trust; in Python, uda.import_model takes a network of yours "
        "as it is",
    )
