"""Refuse outputs that lie in, on or around an input, where they could replace it or be read as input later."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uda.errors import DataError


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse an output that is an input or holds one, or that lies in an input folder. Links are followed.

    Args:
        out: file or folder that will be written.
        inputs: files, and folders of which every file counts as input.

    Raises:
        DataError: names the first such input; or the path begins with ``~``.
    """
    if str(out).startswith("~"):
        raise DataError(
            "begins with ~, which the shell did not replace by your home folder",
            where=out,
            fix="write --out ~/… with a space, or the whole path",
        )
    written = out.resolve()
    for given in inputs:
        places = (given.parent.resolve() / given.name, given.resolve())
        for path in dict.fromkeys(places):
            if written == path:
                how = "is an input of the same command"
            elif path.is_relative_to(written):
                how = f"holds an input of the same command, {given}"
            elif path.is_dir() and written.is_relative_to(path):
                how = f"lies in the folder of an input of the same command, {given}"
            else:
                continue
            raise DataError(
                f"the output {how}",
                where=out,
                expected="an output apart from all inputs, so that neither is taken for the other later",
                fix="choose another --out, such as a new folder beside that of the input",
            )
