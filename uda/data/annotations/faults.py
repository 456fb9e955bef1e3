"""Faults of annotations, gathered from all files into one report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uda.data.annotations.target import Target
from uda.errors import MOST, DataError, UdaError, combine, nearest

SHOWN = 5
"""Lines that a fault of several names."""


class Faults:
    """The first faults, and the number of all.

    Example:
        >>> faults = Faults()
        >>> faults.add("line 2 has no class", where="points.csv")
        >>> faults.add("line 9 has no class", where="points.csv")
        >>> faults.count
        2
        >>> faults.raise_all("the annotations")
        Traceback (most recent call last):
            ...
        uda.errors.DataError: 2 faults in the annotations:
        1. line 2 has no class
          where:    points.csv
        2. line 9 has no class
          where:    points.csv
    """

    def __init__(self) -> None:
        self.first: list[UdaError] = []
        self.count = 0

    def add(
        self,
        what: str,
        *,
        where: str | Path,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        """Note a fault; those beyond :data:`uda.errors.MOST` are counted and dropped."""
        self.count += 1
        if len(self.first) < MOST:
            self.first.append(DataError(what, where=where, expected=expected, fix=fix))

    def take(self, fault: UdaError) -> None:
        """Note a fault that was raised."""
        self.count += 1
        if len(self.first) < MOST:
            self.first.append(fault)

    def raise_all(self, subject: str) -> None:
        """Raise all as one error; return if there is none.

        Raises:
            DataError: of :func:`uda.errors.combine`.
        """
        if self.count:
            raise combine(self.first, subject, self.count)


class Names:
    """Looks up the cases and classes that a file names, and gathers those that are unknown: one fault for each name,
    however many lines have it."""

    def __init__(self, path: Path, target: Target, faults: Faults) -> None:
        self.path, self.target, self.faults = path, target, faults
        self._cases: dict[str, list[str]] = {}
        self._classes: dict[str, list[str]] = {}

    def case(self, name: str, place: str = "") -> bool:
        """Whether the case's annotations may be read.

        Args:
            place: where it is named, such as ``line 3``.
        """
        if name in self.target.grids and name not in self.target.refused:
            return True
        if name in self.target.refused or name not in self.target.others:
            self._cases.setdefault(name, []).append(place)
        return False

    def class_index(self, name: str, place: str = "") -> int | None:
        """The index of a class; None where there is none."""
        index = self.target.class_index(name)
        if index is None:
            self._classes.setdefault(name, []).append(place)
        return index

    def report(self) -> None:
        """Hand over what was gathered."""
        for name, places in self._cases.items():
            if (reason := self.target.refused.get(name)) is not None:
                self.faults.add(
                    f"case {name!r} may not be annotated: {reason}{_among(places)}",
                    where=self.path,
                    fix="take its annotations out",
                )
            else:
                self.faults.add(
                    f"case {name!r} is not among the target's cases{_among(places)}",
                    where=self.path,
                    expected=nearest(name, self.target.grids),
                    fix="name the case as its image is named, without the ending",
                )
        for name, places in self._classes.items():
            self.faults.add(
                f"card {self.target.card.name!r} has no class {name!r}{_among(places)}",
                where=self.path,
                expected=nearest(name, self.target.card.classes),
            )


def _among(places: Iterable[str]) -> str:
    """`` (line 3, line 4 and 10 more)``"""
    named = [place for place in places if place]
    if not named:
        return ""
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f" ({', '.join(named[:SHOWN])}{more})"
