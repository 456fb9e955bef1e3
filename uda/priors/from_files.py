"""A prior for your model, from the paths of images, tags and cards that its kind needs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from uda.config.loading import load_card
from uda.config.priors import NEEDS_SOURCE, NEEDS_TAGS, NEEDS_TARGET, PriorSpec, SizeCsvPrior
from uda.config.recipe import Compute
from uda.data.cases import cases_in, cases_of
from uda.data.store import Store, open_store
from uda.data.tags import read_tags
from uda.errors import PriorError
from uda.networks.model_file import ModelInfo, Trained, card_of, check_classes
from uda.priors.estimate import Evidence, make_prior
from uda.priors.makers import select_tags
from uda.priors.prior import Prior


def prior_of(
    model: str | Path,
    spec: PriorSpec,
    *,
    tags: str | Path | None = None,
    target: str | Path | None = None,
    source: str | None = None,
    root: str | Path | None = None,
    compute: Compute,
    trust_code: bool = False,
) -> Prior:
    """A prior for a model's classes, of the kind and with the settings of ``spec``.

    Args:
        tags, target, source, root: as in :func:`uda.estimate_prior`; each kind reads those it needs.
        trust_code: run the code of a TorchScript program.

    Raises:
        UdaError: something that the kind needs is missing, or numbers that cannot be true.
    """
    parent = Trained.load(Path(model), trust_code=trust_code)
    info = parent.info
    with tempfile.TemporaryDirectory(prefix="uda-") as folder:
        evidence = Evidence(
            target=_target_store(info, target, Path(folder), spec),
            source=_source_store(info, source, root, Path(folder), spec),
            tags=_tags_of(info, tags, target, spec),
            sizes=Path(spec.file) if isinstance(spec, SizeCsvPrior) else None,
        )
        return make_prior(spec, parent, evidence, compute, seed=0)


def _target_store(
    info: ModelInfo, target: str | Path | None, folder: Path, spec: PriorSpec
) -> Store | None:
    if not isinstance(spec, NEEDS_TARGET):
        return None
    if target is None:
        raise PriorError(
            f"a prior of kind {spec.kind!r} needs the target images",
            fix="give their folder: target=FOLDER (--target FOLDER)",
        )
    card = card_of(info)
    return open_store(card, cases_in(Path(target), card.photos), folder, workers=0)


def _source_store(
    info: ModelInfo, source: str | None, root: str | Path | None, folder: Path, spec: PriorSpec
) -> Store | None:
    if not isinstance(spec, NEEDS_SOURCE):
        return None
    if source is None:
        raise PriorError(
            f"a prior of kind {spec.kind!r} needs the labelled source images",
            fix="give their card: source=CARD (--source CARD --root FOLDER)",
        )
    card = load_card(source)
    check_classes(info, card, source)
    if card.prepare.size != info.prepare.size:
        raise PriorError(
            f"slices of card {card.name!r} are {list(card.prepare.size)}",
            where=source,
            expected=f"prepare.size {list(info.prepare.size)}, as the model's images have",
        )
    return open_store(card, cases_of(card, root, "train", labels=True), folder)


def _tags_of(
    info: ModelInfo, path: str | Path | None, target: str | Path | None, spec: PriorSpec
) -> Mapping[tuple[str, int], Sequence[bool]] | None:
    """The tags of a file; with ``target`` they may name its images alone."""
    if not isinstance(spec, NEEDS_TAGS):
        return None
    card = card_of(info)
    if path is None:
        raise PriorError(
            f"a prior of kind {spec.kind!r} needs the tags of the target images",
            expected=f"a CSV case,slice,{','.join(card.structures)}",
            fix="give the CSV: tags=FILE (--tags FILE)",
        )
    tags = read_tags(Path(path), card.structures)
    if target is None:
        return tags
    names = {case.name for case in cases_in(Path(target), card.photos)}
    return select_tags(tags, names, names, path)
