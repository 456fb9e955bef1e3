"""The stage that renders a recipe's data: the thorax phantom or street scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from uda.config.card import DatasetCard
from uda.config.recipe import Data, Phantom, Streets
from uda.errors import ConfigError
from uda.pipeline.domains import Domains
from uda.pipeline.stage_protocol import Stage

RECORD = {"supervision": ["none"]}
PARTIAL = ("lv",)
"""structures that the phantom's partial labels name"""


def render_data(data: Data, domains: Domains, annotated: bool) -> Stage | None:
    """The stage that renders a recipe's data; None if the recipe uses the user's files.

    Args:
        annotated: whether the phantom needs annotations and tags of its target.
    """
    if data.phantom is not None:
        return _phantom(data.phantom, domains, annotated)
    return None if data.streets is None else _streets(data.streets)


def _phantom(phantom: Phantom, domains: Domains, annotated: bool) -> Stage:
    """Render one subject for each case in the cards' splits, and simulate what somebody could mark in the target."""
    subjects = {"mr": _subjects(domains.source), "ct": _subjects(domains.target)}

    def body(folder: Path) -> dict[str, Any]:
        from uda.data.synthetic.phantom.dataset import write_phantom

        write_phantom(folder, mr=subjects["mr"], ct=subjects["ct"], seed=phantom.seed)
        card = domains.target
        if annotated and card.annotations is not None:
            from uda.data.annotations.simulate import write_simulated
            from uda.data.convert import write_tags

            place = folder / card.root / card.annotations
            write_simulated(card, folder, "adapt", place, partial=PARTIAL, seed=phantom.seed)
            write_tags(card, folder, "adapt", place / "tags.csv")
        return RECORD

    settings = {"seed": phantom.seed, **subjects} | ({"annotations": True} if annotated else {})
    return Stage("phantom", settings, (), dict, body)


def _subjects(card: DatasetCard) -> list[int]:
    """The numbers of the subjects that a card's splits name.

    Raises:
        ConfigError: a case is no number.
    """
    names = {case for cases in card.splits.values() for case in cases}
    if strange := sorted(name for name in names if not name.isdecimal()):
        raise ConfigError(
            f"the phantom cannot render case {strange[0]!r}",
            where=f"splits of card {card.name!r}, or data.splits",
            expected="the numbers of subjects, such as 1001",
        )
    return sorted(int(name) for name in names)


def _streets(streets: Streets) -> Stage:
    def body(folder: Path) -> dict[str, Any]:
        from uda.data.synthetic.streets.dataset import write_streets

        write_streets(
            folder,
            game=streets.source,
            camera_train=streets.target,
            camera_val=streets.test,
            size=streets.size,
            camera_size=streets.size,
            seed=streets.seed,
        )
        return RECORD

    return Stage("streets", streets.model_dump(mode="json"), (), dict, body)
