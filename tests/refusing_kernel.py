"""A kernel that refuses system calls of this process with an error, whatever library makes them."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

# x86-64: /usr/include/asm/unistd_64.h
_WRITE = {"write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "pwritev2": 328}
_SYNC = {"fsync": 74, "fdatasync": 75}
_RENAME = {"rename": 82, "renameat": 264, "renameat2": 316, "link": 86, "linkat": 265}
_CHANGE = {
    **_RENAME, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "unlink": 87, "unlinkat": 263, "truncate": 76, "ftruncate": 77,
    "chmod": 90, "fchmod": 91, "fchmodat": 268, "symlink": 88, "symlinkat": 266,
}  # fmt: skip
_OPENAT = 257
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CALLS = {"write": _WRITE, "fsync": _SYNC, "rename": _RENAME, "change": _CHANGE}
_LOAD, _EQUAL, _GREATER, _ANY, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06  # of classic BPF
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2


def possible() -> bool:
    return platform.system() == "Linux" and platform.machine() == "x86_64"


@dataclass(frozen=True)
class Refusing:
    """From now on the calls fail in this process and its children.

    ``write`` fails on files alone, not on standard output; ``change`` is whatever a read-only disk refuses.
    """

    calls: str
    code: int = errno.EIO

    def __call__(self) -> None:
        program = b"".join(_program(self.calls, self.code))
        buffer = ctypes.create_string_buffer(program)
        given = struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(_SECCOMP, _FILTER, given, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")


def _program(calls: str, code: int) -> list[bytes]:
    refuse, allow = _step(_RETURN, _ERROR | code), _step(_RETURN, _ALLOW)
    steps = []
    for number in CALLS[calls].values():
        if calls == "write":  # the first argument is the file
            steps += [_step(_LOAD, 0), _step(_EQUAL, number, 0, 3), _step(_LOAD, 16)]
            steps += [_step(_GREATER, 2, 0, 1), refuse]
        else:
            steps += [_step(_LOAD, 0), _step(_EQUAL, number, 0, 1), refuse]
    if calls == "change":
        steps += [_step(_LOAD, 0), _step(_EQUAL, _OPENAT, 0, 3), _step(_LOAD, 32)]
        steps += [_step(_ANY, _WRITING, 0, 1), refuse]
    return [*steps, allow]


def _step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)
