"""Colours of classes in pictures: the card's, or distinct ones."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

from uda.config.card import DatasetCard


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of each class: hues a golden angle apart.

    Example:
        >>> distinct_colors(2)
        [(255, 64, 64), (41, 78, 166)]
    """
    hues = [(index * 0.618034) % 1 for index in range(count)]
    shades = [colorsys.hsv_to_rgb(hue, 0.75, 1 - 0.35 * (i % 2)) for i, hue in enumerate(hues)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]


def class_colors(
    classes: Sequence[str], named: Mapping[str, Sequence[int]]
) -> list[tuple[int, int, int]]:
    """Red, green and blue of each class: as ``named``, else one of :func:`distinct_colors`."""
    found = []
    for name, other in zip(classes, distinct_colors(len(classes)), strict=True):
        red, green, blue = named.get(name, other)
        found.append((red, green, blue))
    return found


def palette(card: DatasetCard) -> list[tuple[int, int, int]]:
    """Red, green and blue of each class of a card: its own colour, else one of :func:`distinct_colors`."""
    return class_colors(card.classes, card.colors)
