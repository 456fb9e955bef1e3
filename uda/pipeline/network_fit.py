"""Refuse what a recipe's network cannot do, before anything is trained."""

from __future__ import annotations

from uda.config.card import DatasetCard
from uda.config.networks import AnyNetwork, Network
from uda.config.recipe import Adapt, Pretrain, Recipe
from uda.config.terms import PseudoLabelTerm
from uda.errors import ConfigError


def check_sides(recipe: Recipe, *cards: DatasetCard) -> None:
    """Refuse images that a U-Net cannot halve from level to level.

    Raises:
        ConfigError: names the setting and sizes that fit.
    """
    network = recipe.network
    if not isinstance(network, Network):
        return
    trainings: dict[str, Pretrain | Adapt] = {"pretrain": recipe.pretrain}
    trainings |= {f"sources.{name}": one for name, one in recipe.sources.items()}
    trainings |= {f"adapt.{name}": one for name, one in recipe.adapt.items()}
    sides: dict[str, tuple[int, ...]] = (
        {f"prepare.size of card {card.name!r}": card.prepare.size for card in cards}
        if network.patch is None
        else {"network.patch": network.patch}
    )
    crops = {f"{where}.photo.crop": one.photo.crop for where, one in trainings.items()}
    sides |= {where: crop for where, crop in crops.items() if crop is not None}
    alone = [name for name, training in trainings.items() if training.batch == 1]
    divisor = network.divisor
    for where, size in sides.items():
        fits = [max(divisor, divisor * round(side / divisor)) for side in size]
        if list(size) != fits:
            raise ConfigError(
                f"the U-Net halves its images {len(network.channels) - 1} times, but {list(size)} cannot be",
                where=where,
                expected=f"multiples of {divisor}, such as {fits}",
                fix="change it, or give the network fewer channels (network.size, network.channels)",
            )
        if alone and network.norm == "batch" and set(size) == {divisor}:
            raise ConfigError(
                f"at the deepest level {list(size)} is one pixel, and BatchNorm finds no spread in one value",
                where=f"{alone[0]}.batch",
                expected="2 or more, or larger images",
                fix=f"raise it, or change {where}",
            )


def check_adaptation(settings: Adapt, network: AnyNetwork, where: str | None = None) -> None:
    """Refuse an adaptation that the kind of network rules out.

    Args:
        where: the variant in a recipe.

    Raises:
        ConfigError: a term needs to know where classes lie, or which slices are neighbours, and the network is 3-D; or
            normalisation layers are to be trained, and those of the network have no weights.
    """
    deep = network.spatial_dims == 3
    if deep and {"maps", "landmarks", "seeds"} & settings.needs():
        raise ConfigError(
            "a spatial prior gives the place of a class in a slice, but a 3-D network sees patches anywhere",
            where=where,
            expected="terms without maps, landmarks and seeds",
            fix="leave cbst_sp, spatial_prior_kl, landmarks and seeds out, or use a 2-D network",
        )
    if deep and any(
        isinstance(term, PseudoLabelTerm) and term.smooth for term in settings.objective
    ):
        raise ConfigError(
            "the images have no neighbouring slices, so a teacher cannot smooth across them",
            where=where,
            expected="a 2-D network on slices of volumes",
            fix="set pseudo_labels.smooth to 0",
        )
    if (
        settings.train == "batchnorm"
        and isinstance(network, Network)
        and network.norm == "instance"
    ):
        raise ConfigError(
            "train: batchnorm trains the weights of normalisation layers, and a U-Net with norm: instance has none",
            where=where,
            expected="network.norm: batch",
            fix="set train: all there, or take another method",
        )
