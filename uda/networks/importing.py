"""Import a user's network: program or factory, weights and description become one model file."""

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
from uda.errors import LONGEST, ConfigError, ModelError, PriorError, one_line
from uda.files.output import output_folder
from uda.files.untrusted import head_of
from uda.networks.build import build
from uda.networks.foreign import ForeignModel, kind_of, match_state, read_state, register_network
from uda.networks.foreign.adapter import program_bytes
from uda.networks.foreign.matching import oddity
from uda.networks.model_file import MODEL_FILE, ModelInfo, own_network, save_model

_COPIES = 3
"""of a program in memory while it is read: the file, its parts, and the archive that torch gets"""

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
    trust_code: bool = False,
) -> Path:
    """Turn a trained PyTorch network into a model file for adapt, predict, evaluate and prior.

    Args:
        network: file of a TorchScript or ``torch.export`` program; or a network; or a function that returns
            one. The last two are registered in this process; another process that opens the model has to register
            them first (:func:`uda.register_network`).
        out: folder of the model file.
        card: card of the training images, for ``classes`` and ``prepare``; or give both of these.
        weights: state dict, or a file of one (``.safetensors``, ``.pt``), where the network lacks its weights.
        name: name of the factory. Default: the name of the function, the class or the file.
        one_logit: the network returns one logit map, that of class 1 of two.
        output: key or position of the logits among several outputs.
        class_ratio: share of each structure (the background is the rest), or of every class, in the labelled
            training images; priors of kind ``source_labels`` need it.
        spatial_dims, patch: 3 and ``(slices, rows, columns)`` for a network of volumes.
        trust_code: run the code of a TorchScript file, which can do whatever you can. A network in memory is your
            own code; but everybody who opens the model file of a TorchScript network has to trust it again.

    Returns:
        ``out/model.safetensors``, whose ``origin`` reports which weights were found.

    Raises:
        UdaError: the program or the weights cannot be used, a TorchScript file is not trusted, the weights are of
            another network, or the output is not one logit map per class.
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
        torch.manual_seed(0)  # tensors without given weights are the same in every import
        trusted = trust_code or given.file is None
        model = build(settings, len(names), prepared.channels, given.program, trusted)
    report = _fill(model, given, weights)
    info = ModelInfo(
        network=settings,
        classes=names,
        prepare=prepared,
        supervision=("source_labels",),
        class_ratio=_ratio(class_ratio, names),
        origin={
            "network": one_line(given.where)[:LONGEST],
            "weights": one_line(report)[:LONGEST],
            "card": trained_on,
        },
    )
    with _named(given):
        dry_run(model, info)
    _check_description(info, given)
    inputs = [Path(one) for one in (network, weights) if isinstance(one, str | Path)]
    with output_folder(Path(out), inputs) as ledger:
        path = ledger.folder / MODEL_FILE
        save_model(path, model, info)
    return path


@dataclass(frozen=True)
class _Given:
    """The ``network`` argument: a stored program, or a registered factory with its state dict."""

    kind: str
    name: str
    where: str
    program: bytes | None = None
    state: Mapping[str, Tensor] | None = None
    file: Path | None = None


def _given(network: Foreign, name: str) -> _Given:
    if isinstance(network, str | Path):
        path = Path(network)
        head = head_of(
            path,
            "give the file of a program, saved by torch.export.save or torch.jit.save",
            copies=_COPIES,
        )
        data = path.read_bytes() if head.startswith(b"PK") else head
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
    """Add the program's file to the model errors of the block."""
    try:
        yield
    except ModelError as error:
        if given.file is None:
            raise
        raise ModelError(
            error.what, where=given.file, expected=error.expected, fix=error.fix
        ) from error


def _file_name(text: str) -> str:
    """A valid program name from any text."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).lstrip("_.-")[:100] or "network"


def _domain(
    card: str | DatasetCard | None, classes: Sequence[str] | None, prepare: AnyPrepare | None
) -> tuple[tuple[str, ...], AnyPrepare, str]:
    if card is not None:
        if classes is not None or prepare is not None:
            raise ConfigError(
                "both the card and the caller give classes and preparation",
                expected="card, or classes and prepare",
            )
        found = load_card(card) if isinstance(card, str) else card
        return found.classes, found.prepare, found.name
    if classes is None or prepare is None:
        raise ConfigError(
            "the network's classes and the preparation of its images are unknown",
            expected="a card, or classes and prepare",
            fix="give card=NAME (--card NAME); `uda list` shows all cards, and you can write one in YAML",
        )
    return tuple(classes), prepare, "none"


def _check(settings: ForeignNetwork, classes: Sequence[str]) -> None:
    if settings.one_logit and len(classes) != 2:
        raise ConfigError(
            f"a network of one logit has two classes, but {len(classes)} are given: {list(classes)}",
            fix="use a card with background and one structure, or remove one_logit (--one-logit)",
        )


def _ratio(
    given: Mapping[str, float] | Sequence[float] | None, classes: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Validated shares of all classes; the background's share is the rest where only structures are given."""
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
    """Load the weights into the model; returns the report."""
    network = own_network(model)
    _check_own(network, given)
    state = given.state if weights is None else weights
    if state is None:
        return "of the program" if given.program else "of the factory"
    where = str(state) if isinstance(state, str | Path) else "the given state dict"
    tensors = read_state(Path(state)) if isinstance(state, str | Path) else state
    found = match_state(network, tensors)
    found.require(where)
    network.load_state_dict(found.matched, strict=False)
    return found.report()


def _check_own(network: nn.Module, given: _Given) -> None:
    """Refuse a network with a state that a model file cannot hold, or that has no values."""
    for name, tensor in network.state_dict().items():
        plain = isinstance(tensor, Tensor)
        if told := oddity(name, tensor, tensor) if plain else f"is a {type(tensor).__name__}":
            raise ModelError(
                f"the network's own tensor {name!r} {told}",
                where=given.file or given.where,
                expected="dense tensors of real or whole numbers, with values",
                fix="convert the network before it is saved or given, for example by .to_empty(device='cpu') "
                "and its weights, or leave the quantization out",
            )


def _check_description(info: ModelInfo, given: _Given) -> None:
    """Refuse, before anything is written, what a reader of the model file would refuse."""
    try:
        ModelInfo.from_json(info.to_json(), Path(MODEL_FILE))
    except ModelError as error:
        raise ModelError(
            f"a model file cannot describe this network: {error.what}",
            where=given.file or given.where,
            expected="classes of letters, digits, '_', '.' and '-'; names without control characters",
            fix="give other names",
        ) from error


@torch.no_grad()
def dry_run(model: nn.Module, info: ModelInfo) -> None:
    """Run the network on zeros and on noise of the prepared size.

    Raises:
        ModelError: the network fails, or its output has another shape, is not finite, or holds probabilities.
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
                f"for images {list(zeros.shape)} the output has the shape {list(answer.shape)}",
                where=info.network.name if isinstance(info.network, ForeignNetwork) else None,
                expected=f"a logit map of the images' size for each class: "
                f"{[batch, len(info.classes), *size[1:]]}",
                fix="use a card with the network's classes and a size that it can downsample; a "
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
            fix="use the card (size, slab) of its training",
        ) from error
    return answer


def _check_logits(answer: Tensor, model: nn.Module) -> None:
    """Refuse outputs that are not finite logits: losses apply the softmax, which is nearly flat on probabilities."""
    if not answer.is_floating_point() or not bool(answer.isfinite().all()):
        raise ModelError(
            f"for noise the output is {answer.dtype} with values that are not finite"
            if answer.is_floating_point()
            else f"for noise the output is {answer.dtype}",
            expected="finite logits, float32",
        )
    single = isinstance(model, ForeignModel) and model.settings.one_logit
    maps = answer[:, 1:] if single else answer
    unit = bool((maps >= 0).all() and (maps <= 1).all() and maps.max() > maps.min())
    sums_to_one = bool(torch.allclose(answer.sum(1), torch.ones_like(answer[:, 0]), atol=1e-4))
    if unit and (single or sums_to_one):
        raise ModelError(
            "the network returns probabilities",
            expected="logits, before softmax or sigmoid",
            fix="remove its last activation",
        )
