"""Colours for classes that have none of their own."""

from __future__ import annotations

import colorsys


def distinct_colors(count: int) -> list[tuple[int, int, int]]:
    """Red, green and blue of each class: hues a golden angle apart.

    Example:
        >>> distinct_colors(2)
        [(255, 64, 64), (41, 78, 166)]
    """
    hues = [(index * 0.618034) % 1 for index in range(count)]
    shades = [colorsys.hsv_to_rgb(hue, 0.75, 1 - 0.35 * (i % 2)) for i, hue in enumerate(hues)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in shades]
