"""Networks that are not ours, and their programs, for the tests of foreign networks."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Plain(nn.Module):
    """BatchNorm, dropout, a change of size and a view: what foreign networks are made of."""

    def __init__(
        self, classes: int = 3, channels: int = 1, dropout: float = 0.0, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, momentum=momentum)
        self.inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, eps=1e-3))
        self.drop = nn.Dropout2d(dropout)
        self.last = nn.Conv2d(6, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.enter(image)))
        y = self.inner(functional.avg_pool2d(x, 2))
        y = functional.interpolate(y, size=[x.shape[2], x.shape[3]], mode="nearest")
        mean = x.flatten(2).mean(2)
        return self.last(self.drop(x + y)) + mean[:, :1, None, None]


class Solid(nn.Module):
    """A network of volumes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.enter = nn.Conv3d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.last = nn.Conv3d(4, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.enter(image))))


class Shared(nn.Module):
    """One BatchNorm layer that runs twice in a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(torch.relu(self.norm(self.enter(image))) + 1)))


class Answers(nn.Module):
    """A network whose answer is wrapped by a function of its logits."""

    def __init__(self, wrap: Callable[[Tensor], Any], classes: int = 3) -> None:
        super().__init__()
        self.last, self.wrap = nn.Conv2d(1, classes, 3, padding=1), wrap

    def forward(self, image: Tensor) -> Any:
        return self.wrap(self.last(image))


def used(network: nn.Module, size: tuple[int, ...] = (1, 16, 16)) -> nn.Module:
    """The network after a few passes, so that its statistics are not those of a new one."""
    torch.manual_seed(3)
    network.train()
    for _ in range(3):
        network(1 + 2 * torch.randn(4, *size))
    return network.eval()


def scripted(network: nn.Module) -> bytes:
    return _saved(lambda: torch.jit.script(network))


def traced(network: nn.Module, size: tuple[int, ...] = (1, 16, 16)) -> bytes:
    return _saved(lambda: torch.jit.trace(network, torch.zeros(2, *size), check_trace=False))


def frozen(network: nn.Module) -> bytes:
    return _saved(lambda: torch.jit.freeze(torch.jit.script(network.eval())))


def _saved(make: Callable[[], Any]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(make(), buffer)
    return buffer.getvalue()


def exported(
    network: nn.Module,
    size: tuple[int, ...] = (1, 16, 16),
    dynamic: Mapping[int, Any] | None = None,
    decomposed: bool = False,
) -> bytes:
    """The file of a ``torch.export`` program, by default for any number of images of the size."""
    axes = {0: torch.export.Dim("batch")} if dynamic is None else dict(dynamic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (torch.zeros(2, *size),), dynamic_shapes=(axes,) if axes else None
        )
        if decomposed:
            program = program.run_decompositions()
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def repacked(data: bytes, change: Callable[[str, bytes], bytes], extra: str = "") -> bytes:
    """The archive with its members changed, and with one more of this name."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        if extra:
            new.writestr(extra, b"anything")
    return buffer.getvalue()
