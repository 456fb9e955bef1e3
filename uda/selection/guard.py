"""Guarded adaptation: judge every snapshot during the training and keep the best safe one.

The first process alone judges, and it reads the snapshots' files. So a resumed run judges the same snapshots as
an uninterrupted one. The guard does not depend on how the model is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from uda.config.fields import WHOLE
from uda.config.guard import Guard
from uda.devices.distributed import on_first
from uda.errors import NotFiniteError
from uda.networks.model_file import MODEL_FILE, ModelInfo, load_model, save_model
from uda.selection import BEFORE, Candidate, Choice, Judge, smoothed, stale
from uda.selection.scores import BETTER

JUDGEMENTS = 8
"""About how many snapshots to judge in a training whose ``snapshot_every`` is 0."""


def snapshot_file(folder: Path, step: int) -> Path:
    """Model file of a step's snapshot."""
    return folder / "snapshots" / f"{step:06d}" / MODEL_FILE


@dataclass
class Watch:
    """Judges the snapshots of one stage and writes the model to keep.

    Args:
        make: builds the judge, and the source model and AdaBN for a fallback; called once, on the first process.
        folder: of the stage.
        every: steps between snapshots.
        guard: settings.
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
        """Judge the snapshot of a step; returns whether the training should end."""
        return on_first(lambda: self._seen(step))

    def failed(self, error: NotFiniteError) -> None:
        """Note that the training ended with NaN or infinite values; :meth:`keep` selects from the earlier snapshots."""
        self.ended = error.what

    def keep(self, info: ModelInfo) -> dict[str, Any]:
        """Write the model to keep and return the selection record for ``stage.json``."""
        return on_first(lambda: self._keep(info))

    @property
    def judge(self) -> Judge:
        """The judge, built on first use."""
        if self._judge is None:
            self._judge, self._before = self.make()
        return self._judge

    def _seen(self, step: int) -> bool:
        judged = {one.step for one in self._checkpoints()}
        earlier = range(self.every, step, self.every)  # a resumed run judges these again
        for number in (*earlier, step):
            if number not in judged:
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
        if self.judge.rule.latest:
            return self._settled(judged)
        scores = self.judge.scores()
        trend = smoothed([scores[one.name] for one in judged if one.safe])
        if trend and stale(trend, self.judge.rule.ranked) >= self.guard.patience:
            return f"none of the last {self.guard.patience} checkpoints was better"
        return self._settled(judged)

    def _settled(self, judged: list[Candidate]) -> str:
        """Why the training may end because the model hardly changes any more; empty if it may not."""
        if self.guard.settled is None or len(judged) < 2:
            return ""
        agreed = self.judge.agreement(*judged[-2:])
        if agreed < self.guard.settled:
            return ""
        return f"the labels of the last two checkpoints agree by Dice {agreed:.3f}"

    def _keep(self, info: ModelInfo) -> dict[str, Any]:
        choice = self.judge.choose()
        if choice.fallback:
            model = self._before[BEFORE.index(choice.name)]
            save_model(self.folder / MODEL_FILE, model, replace(info, step=0))
        else:
            kept, described = load_model(
                snapshot_file(self.folder, int(choice.name)), known=self._before[0]
            )
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
            "criteria": self.judge.rule.model_dump(mode="json", context=WHOLE),
            "better": BETTER,
            "candidates": self._listed(choice),
        }

    def _why(self, choice: Choice) -> str:
        checkpoints = self._checkpoints()
        safe = sum(one.safe for one in checkpoints)
        if not safe:
            reason = checkpoints[-1].faults[0] if checkpoints else "none was judged"
            return f"no checkpoint was safe: {reason}"
        if self.judge.rule.latest:
            return f"the last of {safe} safe checkpoints, because annotations say what is right"
        first = max(choice.ranks, key=lambda name: choice.ranks[name])
        refused = choice.refused.get(first)
        beside = (
            f"; the best by rank, {_called(first)}, may not replace AdaBN: {refused}"
            if refused
            else ""
        )
        if choice.fallback:
            better = (
                "ranks above AdaBN and may replace it"
                if refused
                else "was better by the same scores"
            )
            return f"none of {safe} safe checkpoints {better}{beside}"
        able = sum(one.name not in choice.refused for one in checkpoints if one.safe)
        return (
            f"best combined rank among AdaBN and {able} of {len(checkpoints)} checkpoints, those that are safe and may "
            f"replace AdaBN{beside}"
        )

    def _listed(self, choice: Choice) -> list[dict[str, Any]]:
        scores = self.judge.scores()
        return [
            {
                "name": one.name,
                "step": one.step,
                "safe": one.safe,
                "faults": list(one.faults),
                "rank": choice.ranks.get(one.name),
                "refused": choice.refused.get(one.name, ""),
                "scores": {
                    name: value
                    for name, value in _finite(asdict(scores.get(one.name, one.alone))).items()
                    if name in self.judge.names
                },
            }
            for one in self.judge.candidates
        ]


def _called(name: str) -> str:
    """A candidate in a sentence."""
    return {"source": "the source model", "adabn": "AdaBN"}.get(name) or f"step {int(name)}"


def _finite(scores: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN and infinite values by None, since JSON has neither."""
    return {name: value if abs(value) < float("inf") else None for name, value in scores.items()}
