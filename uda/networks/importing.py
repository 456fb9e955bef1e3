"""Importing a network of one's own: program or factory, weights and description become one model file."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uda.config.card import AnyPrepare, DatasetCard
from uda.config.loading import load_card, parse
from uda.config.networks import ForeignNetwork
from uda.errors import ConfigError, ModelError, PriorError
from uda.files.links import check_output
from uda.networks.build import build
from uda.networks.foreign import ForeignModel, kind_of, match_state, read_state, register_network
from uda.networks.foreign.adapter import program_bytes
from uda.networks.model_file import MODEL_FILE, ModelInfo, own_network, save_model

Foreign = str | Path | nn.Module | Callable[[], nn.Module]


def import_model(
    network: Foreign,
    out: str | Path,
    *,
    card: str | DatasetCard | None = None,
    classes: Sequence[str] | None = None,
    prepare: AnyPrepare | None = None,
    weights: str | Path | Mapping[str, Any] | None = None,
    name: str = "",
    one_logit: bool = False,
    output: str | int | None = None,
    class_ratio: Mapping[str, float] | Sequence[float] | None = None,
    spatial_dims: int = 2,
    patch: Sequence[int] | None = None,
) -> Path:
    """Turn a trained PyTorch network into a model file that adapt, predict, evaluate and prior take.

    Args:
        network: file of a TorchScript or ``torch.export`` program; or a network; or a function that returns
            one. The last two are registered in this process; who opens the model elsewhere registers them
            again (:func:`uda.register_network`).
        out: folder of the model.
        card: the card of the images it was trained on, for ``classes`` and ``prepare``; or give both.
        weights: state dict, or a file of one (``.safetensors``, ``.pt``), where the network does not hold its weights.
        name: of the factory. Default: its own, or that of the class or file.
        one_logit: it answers with the logit of class 1 of two.
        output: which of several outputs holds the logits: a key or a position.
        class_ratio: share of each structure (the background is the rest), or of every class, in labelled training
            images; what priors of kind ``source_labels`` are made of.
        spatial_dims, patch: 3 and ``(slices, rows, columns)`` for a network of volumes.

    Returns:
        ``out/model.safetensors``, whose ``origin`` reports which weights were found.

    Raises:
        UdaError: a program or weights that cannot be used, weights of another network, or answers that
            are not one logit map a class.
    """
    names, prepared, trained_on = _domain(card, classes, prepare)
    given = _given(network, name)
    settings = parse(
        ForeignNetwork,
        {
            "kind": given.kind,
            "name": given.name,
            "spatial_dims": spatial_dims,
            "patch": None if patch is None else tuple(patch),
            "one_logit": one_logit,
            "output": output,
        },
        given.where,
    )
    _check(settings, names)
    with _named(given), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what no weight fills is the same every time
        model = build(settings, len(names), prepared.channels, given.program)
    report = _fill(model, given, weights)
    info = ModelInfo(
        network=settings,
        classes=names,
        prepare=prepared,
        supervision=("source_labels",),
        class_ratio=_ratio(class_ratio, names),
        origin={"network": given.where, "weights": report, "card": trained_on},
    )
    with _named(given):
        dry_run(model, info)
    path = check_output(Path(out)) / MODEL_FILE
    save_model(path, model, info)
    return path


@dataclass(frozen=True)
class _Given:
    """What was given as the network."""

    kind: str
    name: str
    where: str
    program: bytes | None = None
    state: Mapping[str, Tensor] | None = None
    file: Path | None = None


def _given(network: Foreign, name: str) -> _Given:
    if isinstance(network, str | Path):
        path = Path(network)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(
                f"cannot be read: {error.strerror or error}",
                where=path,
                fix="give the file of a program, saved by torch.export.save or torch.jit.save",
            ) from error
        return _Given(
            kind_of(data, str(path)), name or _file_name(path.stem), path.name, data, file=path
        )
    if isinstance(network, torch.jit.ScriptModule):
        name = name or _file_name(str(getattr(network, "original_name", "network")))
        return _Given("torchscript", name, name, program_bytes(network))
    if isinstance(network, nn.Module):
        own, name = copy.deepcopy(network), name or _file_name(type(network).__name__)
        register_network(name, lambda: copy.deepcopy(own))
        return _Given("registered", name, name, state=network.state_dict())
    name = name or str(getattr(network, "__name__", ""))
    register_network(name, network)
    return _Given("registered", name, name)


@contextlib.contextmanager
def _named(given: _Given) -> Iterator[None]:
    """Faults of a program name its file."""
    try:
        yield
    except ModelError as error:
        if given.file is None:
            raise
        raise ModelError(
            error.what, where=given.file, expected=error.expected, fix=error.fix
        ) from error


def _file_name(text: str) -> str:
    """A name for a program whose file may be called anything."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-") or "network"


def _domain(
    card: str | DatasetCard | None, classes: Sequence[str] | None, prepare: AnyPrepare | None
) -> tuple[tuple[str, ...], AnyPrepare, str]:
    if card is not None:
        if classes is not None or prepare is not None:
            raise ConfigError(
                "classes and preparation come from the card and from the caller",
                expected="card, or classes and prepare",
            )
        found = load_card(card) if isinstance(card, str) else card
        return found.classes, found.prepare, found.name
    if classes is None or prepare is None:
        raise ConfigError(
            "it is not known what the network's classes are and how its images are read",
            expected="a card, or classes and prepare",
            fix="give card=NAME (--card NAME); `uda list` shows all, and a card of one's own is a short YAML",
        )
    return tuple(classes), prepare, "none"


def _check(settings: ForeignNetwork, classes: Sequence[str]) -> None:
    if settings.one_logit and len(classes) != 2:
        raise ConfigError(
            f"a network of one logit has two classes, and {len(classes)} are named: {list(classes)}",
            fix="use a card with background and one structure, or leave one_logit (--one-logit) out",
        )


def _ratio(
    given: Mapping[str, float] | Sequence[float] | None, classes: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Shares of all classes from those of the structures, or as they are."""
    if given is None:
        return None
    if isinstance(given, Mapping) and set(given) == set(classes):
        shares = [float(given[name]) for name in classes]
    elif isinstance(given, Mapping):
        if set(given) != set(classes[1:]):
            raise PriorError(
                f"the class ratio names {', '.join(given) or 'nothing'}",
                expected=f"a share for each of {', '.join(classes[1:])}; the rest is {classes[0]}",
            )
        shares = [float(given[name]) for name in classes[1:]]
        shares = [1 - math.fsum(shares), *shares]
    else:
        shares = [float(share) for share in given]
    sound = len(shares) == len(classes) and all(0 <= s <= 1 for s in shares)  # NaN compares false
    if not sound or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise PriorError(
            f"the class ratio is {[round(share, 6) for share in shares]}",
            expected=f"{len(classes)} shares from 0 to 1 with sum 1, of {', '.join(classes)}",
        )
    return tuple(shares)


def _fill(model: nn.Module, given: _Given, weights: str | Path | Mapping[str, Any] | None) -> str:
    """Put the weights in; returns the report."""
    state = given.state if weights is None else weights
    if state is None:
        return "of the program" if given.program else "of the factory"
    where = str(state) if isinstance(state, str | Path) else "the given state dict"
    tensors = read_state(Path(state)) if isinstance(state, str | Path) else state
    network = own_network(model)
    found = match_state(network, tensors)
    found.require(where)
    network.load_state_dict(found.matched, strict=False)
    return found.report()


@torch.no_grad()
def dry_run(model: nn.Module, info: ModelInfo) -> None:
    """Run the network on zeros and on noise of the prepared size.

    Raises:
        ModelError: it cannot be run, answers with another shape, with probabilities, or not with finite
            numbers.
    """
    size: tuple[int, ...] = (info.prepare.channels, *info.prepare.size)
    if info.network.patch is not None:
        size = (1, *info.network.patch)
    generator = torch.Generator().manual_seed(0)
    model.eval()
    for batch in (1, 2):
        zeros = torch.zeros(batch, *size)
        answer = _run(model, zeros, info)
        if answer.shape != (batch, len(info.classes), *size[1:]):
            raise ModelError(
                f"images {list(zeros.shape)} come out as {list(answer.shape)}",
                where=info.network.name if isinstance(info.network, ForeignNetwork) else None,
                expected=f"a logit map of the images' size for each class: "
                f"{[batch, len(info.classes), *size[1:]]}",
                fix="use a card with the network's classes and a size it can halve often enough; a "
                "network with one map for two classes needs one_logit (--one-logit)",
            )
    noise = 3 * torch.randn(2, *size, generator=generator)
    _check_logits(_run(model, noise, info), model)


def _run(model: nn.Module, image: Tensor, info: ModelInfo) -> Tensor:
    try:
        answer: Tensor = model(image)
    except ModelError:
        raise
    except Exception as error:  # a foreign network may raise anything
        reason = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"cannot be run on images {list(image.shape)}: {type(error).__name__}: {reason[-1][:300]}",
            where=info.origin.get("network"),
            expected=f"a network of float32 images with {image.shape[1]} channels",
            fix="use the card (size, slab) it was trained with",
        ) from error
    return answer


def _check_logits(answer: Tensor, model: nn.Module) -> None:
    """Losses take the softmax themselves; of probabilities it would be nearly flat."""
    if not answer.is_floating_point() or not bool(answer.isfinite().all()):
        raise ModelError(
            f"noise comes out as {answer.dtype} with values that are not finite"
            if answer.is_floating_point()
            else f"noise comes out as {answer.dtype}",
            expected="finite logits, float32",
        )
    single = isinstance(model, ForeignModel) and model.settings.one_logit
    told = answer[:, 1:] if single else answer
    unit = bool((told >= 0).all() and (told <= 1).all() and told.max() > told.min())
    sums_to_one = bool(torch.allclose(answer.sum(1), torch.ones_like(answer[:, 0]), atol=1e-4))
    if unit and (single or sums_to_one):
        raise ModelError(
            "the network answers with probabilities",
            expected="logits, as they are before softmax or sigmoid",
            fix="leave its last activation out",
        )
