"""Read the zip archive of a stored program: torch gets a new archive with only the parts of an exported program."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping

from uda.errors import ModelError

EXPORTED = re.compile(
    r"models/model\.json|archive_format|archive_version"
    r"|data/weights/(model_weights_config\.json|weight_[0-9]+|model\.pt)"
    r"|data/constants/(model_constants_config\.json|tensor_[0-9]+|model\.pt)"
    r"|version|byteorder|\.data/(version|serialization_id)"
)
LEFT_OUT = re.compile(r"data/sample_inputs/model\.pt|extra/.*")
"""Parts that are dropped because they are not needed: example images, author's notes."""

_ENCRYPTED = 1
_UNPACKED = 1 << 26
"""the most bytes of all compressed parts after unpacking; torch compresses source code alone"""


def read_parts(data: bytes, name: str) -> dict[str, bytes]:
    """Name below the archive's only folder → content; every checksum is verified.

    Raises:
        ModelError: no archive, or one that is damaged, encrypted, too large when unpacked, has several top folders
            or names a part twice.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if min((member.header_offset for member in members), default=1):
                raise zipfile.BadZipFile("it does not begin where its first part does")
            _check_members(members, len(data), name)
            if (damaged := archive.testzip()) is not None:
                raise ModelError(
                    f"its part {damaged!r} is damaged",
                    where=name,
                    fix="copy or save the file again",
                )
            return {m.filename.partition("/")[2]: archive.read(m) for m in members}
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise ModelError(
            f"cannot be read as a network: {error}",
            where=name,
            expected="a program of torch.jit.save or torch.export.save",
            fix="copy or save the file again; give a state dict as weights (--weights), not as "
            "the network",
        ) from error


def _check_members(members: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Refuse repeated parts, which two readers may read differently, and parts that would exhaust memory."""
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise _strange("names a part twice", name)
    if len({path.partition("/")[0] for path in names}) > 1:
        raise _strange("has several folders at its top", name)
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise _strange("is encrypted", name)
    small = [m.file_size for m in members if m.compress_type != zipfile.ZIP_STORED]
    if sum(m.file_size for m in members) - sum(small) > size or sum(small) > _UNPACKED:
        raise _strange("holds far more than the file has bytes", name)


def known_parts(parts: Mapping[str, bytes], name: str) -> dict[str, bytes]:
    """The parts of an exported program that torch may read.

    Raises:
        ModelError: an unknown part, such as compiled code or a pickled object.
    """
    for path in parts:
        if not EXPORTED.fullmatch(path) and not LEFT_OUT.fullmatch(path):
            raise ModelError(
                f"holds {path!r}, which could run code when it is opened",
                where=name,
                expected="a network, its weights and other tensors",
                fix="export a network whose state is tensors alone",
            )
    return {path: content for path, content in parts.items() if EXPORTED.fullmatch(path)}


def packed(parts: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of the parts, for torch to read."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in parts.items():
            archive.writestr(f"archive/{path}", content)
    buffer.seek(0)
    return buffer


def _strange(what: str, name: str) -> ModelError:
    return ModelError(
        f"the archive {what}, which torch never does",
        where=name,
        fix="save the program again with torch.export.save or torch.jit.save",
    )
