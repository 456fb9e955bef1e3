"""Keeping an adaptation safe while it trains: every snapshot is judged, and the best safe one is what is kept.

The judge works on the first process alone and on the snapshots' files, so a resumed run judges what the uninterrupted
one judged. Nothing here knows how the model is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from uda.config.guard import Guard
from uda.devices.distributed import on_first
from uda.errors import NotFiniteError
from uda.networks.model_file import MODEL_FILE, ModelInfo, load_model, save_model
from uda.selection import BEFORE, Candidate, Choice, Judge, smoothed, stale

JUDGEMENTS = 8
"""of a training whose ``snapshot_every`` is 0"""


def snapshot_file(folder: Path, step: int) -> Path:
    """Where the snapshot of a step lies."""
    return folder / "snapshots" / f"{step:06d}" / MODEL_FILE


@dataclass
class Watch:
    """Judges the snapshots of one stage.

    Args:
        make: builds the judge, and the source model and AdaBN for a fallback; called once, on the first process.
        folder: the stage's.
        every: steps between snapshots.
    """

    make: Callable[[], tuple[Judge, tuple[nn.Module, nn.Module]]]
    folder: Path
    every: int
    guard: Guard
    ended: str = ""
    """why the training ended before its last step"""
    _judge: Judge | None = None
    _before: tuple[nn.Module, ...] = field(default=())

    def seen(self, step: int) -> bool:
        """Judge the snapshot of a step; whether the training should end."""
        return on_first(lambda: self._seen(step))

    def failed(self, error: NotFiniteError) -> None:
        """The training ended in numbers that are none; what came before them is judged all the same."""
        self.ended = error.what

    def keep(self, info: ModelInfo) -> dict[str, Any]:
        """Write the model to keep and return what ``stage.json`` says of it."""
        return on_first(lambda: self._keep(info))

    @property
    def judge(self) -> Judge:
        """The judge, made when it is first needed."""
        if self._judge is None:
            self._judge, self._before = self.make()
        return self._judge

    def _seen(self, step: int) -> bool:
        known = {one.step for one in self._checkpoints()}
        earlier = range(self.every, step, self.every)  # of a run that was killed and goes on
        for number in (*earlier, step):
            if number not in known:
                self.judge.judge(snapshot_file(self.folder, number), number)
        self.ended = self._verdict()
        return bool(self.ended)

    def _checkpoints(self) -> list[Candidate]:
        return [one for one in self.judge.candidates if one.name not in BEFORE]

    def _verdict(self) -> str:
        judged = self._checkpoints()
        limit = self.guard.unsafe
        if len(judged) >= limit and not any(one.safe for one in judged[-limit:]):
            return f"{limit} checkpoints in a row were unsafe: {judged[-1].faults[0]}"
        scores = self.judge.scores()
        trend = smoothed([scores[one.name] for one in judged if one.safe])
        if trend and stale(trend) >= self.guard.patience:
            return f"none of the last {self.guard.patience} checkpoints was better"
        return ""

    def _keep(self, info: ModelInfo) -> dict[str, Any]:
        choice = self.judge.choose()
        if choice.fallback:
            model = self._before[BEFORE.index(choice.name)]
            save_model(self.folder / MODEL_FILE, model, replace(info, step=0))
        else:
            kept, described = load_model(snapshot_file(self.folder, int(choice.name)))
            save_model(self.folder / MODEL_FILE, kept, described)
        return self._record(choice)

    def _record(self, choice: Choice) -> dict[str, Any]:
        chosen = next(one for one in self.judge.candidates if one.name == choice.name)
        return {
            "select": "guarded",
            "kept": choice.name if choice.fallback else f"step {chosen.step}",
            "step": chosen.step,
            "fallback": choice.fallback,
            "why": self._why(choice),
            "ended": self.ended or "at its last step",
            "rule": list(choice.rule),
            "candidates": self._listed(choice),
        }

    def _why(self, choice: Choice) -> str:
        checkpoints = self._checkpoints()
        safe = sum(one.safe for one in checkpoints)
        if not choice.fallback:
            return (
                f"best combined rank among {safe} safe checkpoints of {len(checkpoints)} "
                "and the models before adaptation"
            )
        if not safe:
            reason = checkpoints[-1].faults[0] if checkpoints else "there is none"
            return f"no checkpoint was safe: {reason}"
        return f"none of {safe} safe checkpoints was better by the same scores"

    def _listed(self, choice: Choice) -> list[dict[str, Any]]:
        scores = self.judge.scores()
        return [
            {
                "name": one.name,
                "step": one.step,
                "safe": one.safe,
                "faults": list(one.faults),
                "rank": choice.ranks.get(one.name),
                "scores": _finite(asdict(scores.get(one.name, one.alone))),
            }
            for one in self.judge.candidates
        ]


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if abs(value) < float("inf") else None for name, value in scores.items()}
