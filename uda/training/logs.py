"""What a training run leaves to read: ``metrics.csv``, TensorBoard events, a progress bar."""

from __future__ import annotations

import csv
import io
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

from uda.devices.distributed import world
from uda.errors import RunError
from uda.files.atomic import disk, write_text


class RunLog:
    """``metrics.csv`` holds nothing that depends on the clock, so equal runs have equal files.

    Args:
        rows: :meth:`text` of an interrupted run at ``first_step``.

    Raises:
        RunError: the disk refuses.
    """

    def __init__(
        self, folder: Path, title: str, steps: int, first_step: int, quiet: bool, rows: str = ""
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.csv"
        self._header, *self._rows = list(csv.reader(io.StringIO(rows))) or [[]]
        with disk(folder):
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
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
        self._hook, threading.excepthook = threading.excepthook, self._heard
        self._bar.start()
        return self

    def _heard(self, told: threading.ExceptHookArgs) -> None:
        """What TensorBoard's thread could not write is told once, at the end."""
        ours = type(told.thread).__module__.startswith("tensorboard")
        if not (ours and isinstance(told.exc_value, OSError)):
            self._hook(told)

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
                expected="room and permission to write",
                fix="free some space (`df -h`) or choose another --out; the same command goes on",
            ) from error

    def advance(self, step: int) -> None:
        """Move the bar; no tensor is read."""
        self._bar.update(self._task, completed=step)

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """One line of values, averaged by the caller since the last line."""
        header = ["step", *values]
        self._header = self._header or header
        self._rows.append([str(step), *(repr(v) for v in values.values())])
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        speed = self._bar.tasks[0].speed
        rate = f"{speed:.1f} steps/s" if speed else ""
        self._bar.update(self._task, loss=f"loss {values['loss']:.4f}", rate=rate)

    def text(self) -> str:
        """All lines so far; nothing before the first."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self._header, *self._rows])
        return text.getvalue() if self._rows else ""

    def save(self) -> None:
        """Bring ``metrics.csv`` on disk up to date."""
        write_text(self.path, self.text())

    def images(self, step: int, image: Tensor, logits: Tensor, photos: bool = False) -> None:
        """A grid of up to four columns: image, entropy map, prediction; of volumes the middle slice.

        Slices are turned by a quarter, ``photos`` are in colour and as they lie.
        """
        from torchvision.utils import make_grid

        if image.dim() == 5:
            image, logits = (x[:, :, x.shape[2] // 2] for x in (image, logits))
        middle = image.shape[1] // 2  # of a slab
        image = (image if photos else image[:, middle : middle + 1])[:4].float().cpu()
        logits = logits[:4].float().cpu()
        classes = logits.shape[1]
        log_p = logits.log_softmax(1)
        uncertainty = -(log_p.exp() * log_p).sum(1, keepdim=True) / math.log(classes)
        prediction = logits.argmax(1, keepdim=True).float() / max(1, classes - 1)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        shown = (image - low) / (high - low).clamp_min(1e-6)
        below = [one.expand(-1, shown.shape[1], -1, -1) for one in (uncertainty, prediction)]
        drawn = torch.cat([shown, *below])
        grid = make_grid(drawn if photos else drawn.rot90(1, (2, 3)), nrow=len(image))
        self._board.add_image("image, entropy, prediction", grid, step)


class NoLog(RunLog):
    """The log of every process but the first: nothing."""

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
        """Nothing is open."""

    def advance(self, step: int) -> None:
        """Nothing moves."""

    def row(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing is noted."""

    def text(self) -> str:
        """Nothing is known."""
        return ""

    def save(self) -> None:
        """Nothing is written."""

    def images(self, step: int, image: Tensor, logits: Tensor, photos: bool = False) -> None:
        """Nothing is shown."""


def open_log(
    folder: Path, title: str, steps: int, first_step: int, quiet: bool, rows: str = ""
) -> RunLog:
    """The log of a run on its first process; on the others :class:`NoLog`."""
    return RunLog(folder, title, steps, first_step, quiet, rows) if world().first else NoLog(folder)


def say(text: str) -> None:
    """A line on the screen, where no error ends the run but its user should know."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)
