"""Atomic writing of text, JSON and tensor files, and their reading; tensor files carry a checksum."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from uda.errors import ModelError, RunError, one_line
from uda.files.digests import fingerprint
from uda.files.ledger import ledger_of
from uda.files.untrusted import head_of, parse_json, read_text

PICKLES = (b"PK\x03\x04", *(bytes([0x80, protocol]) for protocol in range(2, 6)))
"""how files of torch.save begin; a safetensors file may too: eight bytes of length, then its header in braces"""
LISTED = 8
"""model files that a message names at most"""
_UNFINISHED = re.compile(r"\.uda-[0-9a-f]{32}")
"""Names of the hidden folders of unfinished writes: at random, so that no other folder has one."""
CHECKSUM = "uda.checksum"
"""Metadata key of a tensor file: checksum of its tensors and of its other metadata."""


@contextlib.contextmanager
def atomic_path(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path; if the block succeeds, flush it to disk and move it to ``path``.

    If the block fails, an older file at ``path`` stays as it is. Below a folder with an open ledger
    (:mod:`uda.files.ledger`) the file enters it.

    Args:
        keep: where to move an older file instead of replacing it.

    Raises:
        DataError: an older file at ``path`` is foreign to the open ledger.
        RunError: writing fails (disk full or read-only, quota).
    """
    with disk(path), scratch(path.parent) as folder:
        temporary = folder / path.name
        yield temporary
        sync(temporary)
        if (ledger := ledger_of(path)) is not None:
            ledger.add(path, temporary)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """Yield a hidden folder in ``parent`` for unfinished files and remove it afterwards.

    First it removes such folders of killed processes. A process locks its own folder, and the lock ends with
    the process. On disks without locks the folders of killed processes stay.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent, fcntl.LOCK_EX):  # no other process sweeps before the folder is locked
        sweep(parent)
        folder = parent / f".uda-{secrets.token_hex(16)}"
        folder.mkdir(mode=0o700)
        lock = contextlib.ExitStack()
        lock.enter_context(_locked(folder, fcntl.LOCK_EX))
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the unfinished writes of killed processes; running processes hold a lock on theirs."""
    for stale in unfinished(parent):
        with contextlib.suppress(OSError), _locked(stale, fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
            if locked:
                shutil.rmtree(stale, ignore_errors=True)


def unfinished(parent: Path) -> list[Path]:
    """The hidden folders of unfinished writes in a folder."""
    return [path for path in parent.glob(".uda-*") if _UNFINISHED.fullmatch(path.name)]


@contextlib.contextmanager
def _locked(folder: Path, operation: int) -> Iterator[bool]:
    """Lock a folder; yields False on a disk without locks.

    Raises:
        BlockingIOError: another process holds the lock, and ``operation`` does not wait.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except BlockingIOError:
            raise
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn a write error of the block into a :class:`RunError`.

    Raises:
        RunError: writing fails (disk full or read-only, quota).
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: Exception) -> RunError:
    return RunError(
        f"cannot be written: {error}",
        where=path,
        expected="free space and permission to write",
        fix="free some space (`df -h`) or choose another --out; complete results are unchanged, "
        "and the same command resumes from them",
    )


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN raises ValueError, because it is not standard JSON."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote.

    Raises:
        ModelError: the file is missing or not JSON.
    """
    try:
        return parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read as JSON: {error}",
            where=path,
            fix="run the stage that wrote it again",
        ) from error


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    keep: Path | None = None,
) -> None:
    """Write a safetensors file with a checksum, whole or not at all; an older file moves to ``keep``."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = {**metadata, CHECKSUM: _checksum(contiguous, metadata)}
    with atomic_path(path, keep) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, metadata=signed)
        _order_metadata(temporary)
        temporary.chmod(mode)  # safetensors lets only the owner read


def _order_metadata(path: Path) -> None:
    """Sort the metadata, which safetensors writes in any order, so that equal content gives equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:
            file.seek(8)
            file.write(text.ljust(length))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Checksum of names, dtypes, shapes, bytes and metadata."""
    entries = [
        [name, str(tensor.dtype), list(tensor.shape), _crc(tensor)]
        for name, tensor in sorted(tensors.items())
    ]
    return fingerprint([entries, sorted(metadata.items())])


def _crc(tensor: Tensor) -> int:
    """CRC-32C of a tensor's bytes, as fast as the memory; safetensors has no checksum."""
    crc: int = google_crc32c.value(tensor.reshape(-1).view(torch.uint8).numpy())
    return crc


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ModelError: the file is missing, damaged or in another format; a pickle is named as such, never opened.
    """
    beside: list[str] = []
    if not os.path.exists(path):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            beside = sorted(map(str, path.parent.glob(f"*/{path.name}")))
    head = head_of(
        path,
        "give the path of a model.safetensors",
        f"one of {', '.join(beside[:LISTED])}" if beside else None,
    )
    if head.startswith(PICKLES) and head[8:] != b"{":
        program = program_in(path)
        raise ModelError(
            f"is {program}, and no model yet"
            if program
            else "is a pickle (torch.save), which can run code when it is opened",
            where=path,
            expected="a safetensors file",
            fix="make a model of it: uda import NETWORK --card CARD --out FOLDER"
            if program
            else "if it is a state dict, give it to `uda import NETWORK --weights FILE` under the ending .pt: "
            "it is read with weights_only=True, which runs no code",
        )
    try:
        with safe_open(path, framework="pt") as tensors:
            found = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            metadata = dict(tensors.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read as safetensors: {one_line(str(error))[:300]}",
            where=path,
            fix="copy the file again, or run the stage that wrote it again",
        ) from error
    recorded = metadata.pop(CHECKSUM, None)
    if recorded is not None and recorded != _checksum(found, metadata):
        raise ModelError(
            "has changed since it was written: its checksum differs",
            where=path,
            fix="copy the file again, or run the stage that wrote it again",
        )
    return found, metadata if recorded is None else {**metadata, CHECKSUM: recorded}


def program_in(path: Path) -> str:
    """The kind of program in a torch file, by the names of its parts, which are not opened; empty for others."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = {name.partition("/")[2] for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return ""
    if any(part.startswith("models/") for part in parts):
        return "a program of torch.export"
    return "a TorchScript program" if "constants.pkl" in parts else ""


def prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names with ``group.``, so that several groups fit into one file."""
    return {f"{group}.{name}": tensor for name, tensor in tensors.items()}


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by group: the inverse of :func:`prefixed`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state, named ``<index of the weight>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{k}": v for i, values in state.items() for k, v in values.items() if v is not None
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore a state of :func:`optimizer_tensors`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, values in grouped(tensors).items():
        weight = weights[int(index)]
        for key, tensor in values.items():
            if tensor.shape == weight.shape:  # fused kernels need the weight's memory layout
                tensor = torch.empty_like(weight).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
