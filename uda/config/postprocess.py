"""Steps of post-processing between a network's probabilities and its label map; each is off by default."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from uda.config.fields import Frozen
from uda.errors import ConfigError, nearest

POST = " + post"
"""what the name of a row ends with that has these steps; no variant's name can"""


def _all_or_names(raw: Any) -> Any:
    if isinstance(raw, bool):
        return raw
    if not isinstance(raw, list | tuple) or not raw or not all(isinstance(n, str) for n in raw):
        raise ValueError(f"expected true, false or a list of structures, got {raw!r}")
    return tuple(raw)


Structures = Annotated[bool | tuple[str, ...], BeforeValidator(_all_or_names)]
"""all structures, none, or those of these names"""


class Postprocess(Frozen):
    """Steps of prediction, in this order. Each is recorded with what it made.

    None of them sees a label. Where a step may do harm, leave it out or name the structures that it is for.
    """

    views: Literal[1, 2, 5] = 1
    """Images of which the mean probabilities are taken. 5 (volumes): the slices, and the same turned in their plane by
    ±10° and scaled by 1.1 and 1/1.1 about their centre. Patients lie and differ in size by as much, so these views are
    plausible for any organ. None mirrors, because left and right differ, and none changes intensities, because in CT
    they have a meaning. Interpolation costs structures of one or two pixels. 2 (photographs): the image and its mirror
    image. Takes as many times as long."""
    smooth: Annotated[float, Field(ge=0, le=5)] = 0.0
    """Standard deviation, in prepared slices, of a Gaussian over the probabilities across slices; 0 = off. Harms
    structures of one or two slices, and slices that lie far apart."""
    largest: Structures = False
    """Keep the largest connected component of a structure in 3-D; the rest becomes background. Not for structures of
    several parts (kidneys, lungs, lesions): give a list of the others."""
    holes: Structures = False
    """Fill holes of a structure: background that it encloses on all sides in 3-D. What a ring surrounds in the plane
    alone is no hole. Not for structures with real cavities outside all classes (a cyst, a bowel)."""

    @model_validator(mode="before")
    @classmethod
    def _named(cls, raw: Any) -> Any:
        if not isinstance(raw, str):
            return raw
        if raw not in SETS:
            raise ValueError(f"no set of steps {raw!r}; {nearest(raw, SETS)}")
        return SETS[raw]

    @property
    def on(self) -> bool:
        """Whether there is any step."""
        return self != Postprocess()

    def record(self) -> dict[str, Any]:
        """The steps, ready for JSON, without those that are off."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def averaging(cls, photos: bool) -> Postprocess:
        """The mean over all views of a volume or a photograph, and nothing else."""
        return cls(views=2 if photos else 5)

    @property
    def rule(self) -> str:
        """What a row with these steps is, for readers of the table."""
        return (
            f"Rows{POST}: the same network with post-processing ({self}). Views and smoothing average its "
            "probabilities before the largest one is taken; components are kept and holes filled afterwards, in 3-D on "
            "the file's grid."
        )

    def __str__(self) -> str:
        """``views: 5, smooth: 0.8, largest: true``."""
        return ", ".join(f"{name}: {json.dumps(value)}" for name, value in self.record().items())

    def check(self, structures: Sequence[str], photos: bool) -> None:
        """Refuse steps that do not fit the images or their classes.

        Args:
            structures: names of the classes without background.

        Raises:
            ConfigError: a step for the other kind of images, or a structure that there is none of.
        """
        other = {"views": self.views == (5 if photos else 2)}
        other |= {name: photos and bool(getattr(self, name)) for name in CLEANING}
        if unfit := [name for name, does in other.items() if does]:
            raise ConfigError(
                f"{', '.join(unfit)}: not for {'photographs' if photos else 'volumes'} (steps {self})",
                where="postprocess",
                expected="views: 2 at most" if photos else "views: 1 or 5",
                fix="leave these steps out",
            )
        for name in ("largest", "holes"):
            chosen = getattr(self, name)
            for structure in () if isinstance(chosen, bool) else chosen:
                if structure not in structures:
                    raise ConfigError(
                        f"there is no structure {structure!r}",
                        where=f"postprocess.{name}",
                        expected=nearest(structure, structures),
                    )


CLEANING = ("smooth", "largest", "holes")
"""steps for volumes alone"""
SETS = {"recommended": {"views": 5, "smooth": 0.8, "largest": True, "holes": True}}
"""Named sets. ``recommended`` is for volumes whose structures are in one piece each. It was fixed before any test
label was looked at. The Gaussian weighs a slice 0.50, its neighbours 0.23 and the next ones 0.02."""


NO_STEPS = Postprocess()


def steps_named(word: str) -> Postprocess:
    """A named set.

    Raises:
        ConfigError: there is none of this name.
    """
    if word not in SETS:
        raise ConfigError(f"there is no set of steps {word!r}", expected=nearest(word, SETS))
    return Postprocess.model_validate(word)
