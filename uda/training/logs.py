"""Logs of a training run: ``metrics.csv``, TensorBoard events and a progress bar."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from uda.devices.distributed import this_process
from uda.errors import RunError
from uda.files.atomic import disk, write_text
from uda.files.csv_files import csv_text, rows_of
from uda.losses.prediction import most_likely


class RunLog:
    """Log of one run. ``metrics.csv`` grows with every row and holds no times, so equal runs write equal files.

    A new file replaces the one of an interrupted run, whose rows may go beyond its last checkpoint. Later rows are
    added at its end, without waiting for the disk; a checkpoint writes it whole.

    Args:
        steps: length of the run, for the progress bar.
        rows: :meth:`text` of the interrupted run at ``first_step``.

    Raises:
        RunError: writing fails, from entering the log on.
    """

    def __init__(
        self, folder: Path, title: str, steps: int, first_step: int, quiet: bool, rows: str = ""
    ) -> None:
        self.path = folder / "metrics.csv"
        self._header, *self._rows = [row for _, row in rows_of(rows)] or [[]]
        self._first_step, self._written = first_step, False
        self._bar = Progress(
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._task = self._bar.add_task(title, total=steps, completed=first_step, loss="", rate="")

    def __enter__(self) -> RunLog:
        from torch.utils.tensorboard import SummaryWriter

        if self._rows:
            self.save()
        self._hook, threading.excepthook = threading.excepthook, self._thread_failed
        before = threading.enumerate()
        try:
            with disk(self.path.parent):
                self._board = SummaryWriter(
                    str(self.path.parent / "tensorboard"), purge_step=self._first_step
                )
        except BaseException:
            for thread in set(threading.enumerate()).difference(before):
                thread.join(timeout=1)  # it ends with the same error, which the hook must see
            threading.excepthook = self._hook
            raise
        self._bar.start()
        return self

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Skip write errors of TensorBoard's thread; the process's own thread reports them once."""
        ours = type(args.thread).__module__.startswith("tensorboard")
        if not (ours and isinstance(args.exc_value, OSError)):
            self._hook(args)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
        try:
            self._board.close()
        except OSError as refused:
            error = error or refused
        finally:
            threading.excepthook = self._hook
        if isinstance(error, OSError):  # TensorBoard's thread could not write
            raise RunError(
                f"the log cannot be written: {error}",
                where=self.path.parent,
                expected="free space and permission to write",
                fix="free some space (`df -h`) or choose another --out; the same command resumes",
            ) from error

    def advance(self, step: int) -> None:
        """Move the progress bar; this reads no tensor."""
        self._bar.update(self._task, completed=step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row of values, which the caller averaged since the last row."""
        header = ["step", *values]
        self._header = self._header or header
        self._rows.append([str(step), *(repr(v) for v in values.values())])
        self._grow()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed else ""
        self._bar.update(self._task, loss=f"loss {values['loss']:.4f}", rate=rate)

    def _grow(self) -> None:
        """Add the last row to ``metrics.csv``; the first time, write the file anew."""
        if not self._written:
            self.save()
            return
        with disk(self.path), self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(csv_text(self._rows[-1:]))

    def text(self) -> str:
        """All rows so far as CSV; empty before the first row."""
        return csv_text([self._header, *self._rows]) if self._rows else ""

    def save(self) -> None:
        """Write all rows to ``metrics.csv``."""
        write_text(self.path, self.text())
        self._written = True

    def images(self, step: int, image: Tensor, logits: Tensor, photos: bool = False) -> None:
        """Log image, entropy map and prediction of up to four images; of a volume the middle slice.

        Entropy is a share of its maximum. Slices are rotated by 90°; ``photos`` are in colour and not rotated.

        Args:
            image: ``[b, c, *s]``.
            logits: ``[b, k, *s]``.
        """
        from torchvision.utils import make_grid

        if image.dim() == 5:
            image, logits = (x[:, :, x.shape[2] // 2] for x in (image, logits))
        middle = image.shape[1] // 2  # channel of a slab
        image = (image if photos else image[:, middle : middle + 1])[:4].float().cpu()
        logits = logits[:4].float().cpu()
        classes = logits.shape[1]
        log_p = logits.log_softmax(1)
        uncertainty = -(log_p.exp() * log_p).sum(1, keepdim=True) / math.log(classes)
        prediction = most_likely(logits).unsqueeze(1).float() / max(1, classes - 1)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        shown = (image - low) / (high - low).clamp_min(1e-6)
        below = [one.expand(-1, shown.shape[1], -1, -1) for one in (uncertainty, prediction)]
        drawn = torch.cat([shown, *below])
        grid = make_grid(drawn if photos else drawn.rot90(1, (2, 3)), nrow=len(image))
        self._board.add_image("image, entropy, prediction", grid, step)


class NoLog(RunLog):
    """Log of every process but the first; it writes nothing."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"

    def __enter__(self) -> NoLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Do nothing."""

    def advance(self, step: int) -> None:
        """Do nothing."""

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def text(self) -> str:
        """Return an empty text."""
        return ""

    def save(self) -> None:
        """Do nothing."""

    def images(self, step: int, image: Tensor, logits: Tensor, photos: bool = False) -> None:
        """Do nothing."""


def open_log(
    folder: Path, title: str, steps: int, first_step: int, quiet: bool, rows: str = ""
) -> RunLog:
    """:class:`RunLog` on the first process, :class:`NoLog` on the others."""
    return (
        RunLog(folder, title, steps, first_step, quiet, rows)
        if this_process().first
        else NoLog(folder)
    )


def say(text: str) -> None:
    """Print a line for the user to stderr."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
