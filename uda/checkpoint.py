"""Files that are complete or absent: atomic writes, tensor files, stage folders, the run lock."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from uda.errors import ModelError, RunError

STAGE_FILE = "stage.json"


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place, flushed to disk, when the block ends well.

    When the block fails nothing changes: an older file stays as it was.

    Raises:
        RunError: the disk refuses (full, read-only, quota).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _refused(path, error) from error
    try:
        temporary = folder / path.name
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        raise _refused(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refused(path: Path, error: Exception) -> RunError:
    return RunError(
        f"cannot be written: {error}",
        where=path,
        expected="room and permission to write",
        fix="free some space (`df -h`) or choose another --out; what was complete before is unchanged, "
        "and the same command goes on from there",
    )


def _sync(path: Path) -> None:
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
    """Write JSON whole or not at all; NaN is refused because no other reader knows it."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        ModelError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read as JSON: {error}",
            where=path,
            fix="make it again with the stage that wrote it",
        ) from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata=dict(metadata))
        temporary.chmod(path.parent.stat().st_mode & 0o666)  # safetensors shuts others out


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ModelError: missing, cut short, or another format (a pickle is named as such and never opened).
    """
    if not path.is_file():
        raise ModelError(
            "there is no such file", where=path, fix="give the path of a model.safetensors"
        )
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head == b"PK\x03\x04":
        raise ModelError(
            "is a pickle (torch.save), which can run code when it is opened",
            where=path,
            expected="a safetensors file",
            fix="where you trust it, convert it: safetensors.torch.save_file("
            "torch.load(path, weights_only=True), 'model.safetensors')",
        )
    try:
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            return {n: tensors.get_tensor(n) for n in names}, dict(tensors.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot be read as safetensors: {error}", where=path, fix="copy or make the file again"
        ) from error


def prefixed(group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under ``group.``, so that several groups fit into one file."""
    return {f"{group}.{name}": tensor for name, tensor in tensors.items()}


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The groups of such a file."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    return groups


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """An optimiser's state, ``<number of the weight>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{k}": v for i, values in state.items() for k, v in values.items() if v is not None
    }


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put such a state back."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, values in grouped(tensors).items():
        weight = weights[int(index)]
        for key, tensor in values.items():
            if tensor.shape == weight.shape:  # fused kernels walk raw memory: same layout
                tensor = torch.empty_like(weight).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    shell = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": shell})


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class StageFolder:
    """A folder that is complete (it holds ``stage.json``) or absent; work happens in a hidden twin.

    The twin carries the hash, so that unfinished work of another configuration is never continued.
    """

    def __init__(self, path: Path, hash_: str) -> None:
        self.path, self.hash = path, hash_
        self.work = path.parent / f".{path.name}.{hash_[:12]}"
        self._old = path.parent / f".{path.name}.old"

    def recorded(self) -> dict[str, Any] | None:
        """``stage.json`` of the complete stage, or None."""
        if not self.path.exists() and (self.work / STAGE_FILE).is_file():
            self._sweep()
            os.replace(self.work, self.path)  # killed between the two renames of commit()
        if not (self.path / STAGE_FILE).is_file():
            return None
        recorded = read_json(self.path / STAGE_FILE)
        return recorded if isinstance(recorded, dict) else None

    def begin(self, restart: bool) -> Path:
        """The folder to work in, with what a killed run left there unless ``restart``.

        Raises:
            ModelError: the place is taken by a folder that no stage wrote; it would be replaced.
            RunError: the disk refuses.
        """
        if self.path.exists() and not (self.path / STAGE_FILE).is_file():
            raise ModelError(
                "there is something here that uda did not write, and it would be replaced",
                where=self.path,
                fix="choose another --out, or move it away",
            )
        unfinished = re.compile(re.escape(f".{self.path.name}.") + r"([0-9a-f]{12}|old)")
        for stale in self.path.parent.glob(f".{self.path.name}.*"):
            if unfinished.fullmatch(stale.name) and (restart or stale != self.work):
                shutil.rmtree(stale)
        self._sweep()
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(self.work, error) from error
        return self.work

    def _sweep(self) -> None:
        """Remove what a killed write left half done."""
        for half_written in list(self.work.rglob(".*")):
            shutil.rmtree(half_written, ignore_errors=True)

    def commit(self, record: Mapping[str, Any]) -> None:
        """Write ``stage.json`` and put the finished folder in place of an older one."""
        write_json(self.work / STAGE_FILE, record)
        if self.path.exists():
            os.replace(self.path, self._old)
        os.replace(self.work, self.path)
        _sync(self.path.parent)
        shutil.rmtree(self._old, ignore_errors=True)


@contextlib.contextmanager
def lock(folder: Path, name: str = ".lock") -> Iterator[None]:
    """Hold a run folder for one process at a time; a folder in which nothing came to be is removed.

    Raises:
        RunError: another process holds it, or the disk refuses.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise _refused(folder, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(handle.fileno()).st_ino:
                raise BlockingIOError("released and taken again meanwhile")
        except OSError as error:
            raise RunError(
                "another run is writing into this folder",
                where=folder,
                fix="wait for it, or choose another --out",
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()  # refused, as it should be, for a folder that holds anything
