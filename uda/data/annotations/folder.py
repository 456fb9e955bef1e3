"""A folder of annotations: which of its files say what, and all that they say in one go.

========================================  ===========================================================================
``points.csv``                            clicks
``boxes.csv``, ``boxes.json``             boxes
``tags.csv``                              which structures an image shows
label files, or in ``scribbles/``         scribbles, called like their case
``partial_<class>_<class>/``              label files that are complete for these classes; or ``partial/`` with the
                                          names in its ``classes.txt``, a line each
``labels/``, ``few/``                     complete labels of a few cases
``*.json``                                shapes on photographs, of COCO or LabelMe; also in ``scribbles/``, and
                                          polygons in ``partial_…/``
========================================  ===========================================================================

Names that begin with ``README`` and what systems leave behind are passed over. All else is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uda.config.annotations import LEDGER, Kind
from uda.config.card import DatasetCard
from uda.data.annotations.boxes import Boxes, boxes_of_list, read_boxes
from uda.data.annotations.faults import Faults, Names
from uda.data.annotations.grids import Grid
from uda.data.annotations.inside import inside
from uda.data.annotations.label_files import read_complete, read_partial, read_scribbles
from uda.data.annotations.marks import Box, Partial, Point
from uda.data.annotations.packed import PackedMaps
from uda.data.annotations.photo_json import Shapes, read_json, read_shapes
from uda.data.annotations.points import Clicks, read_points
from uda.data.annotations.target import Target, class_index
from uda.data.file_names import stem
from uda.data.formats import READERS
from uda.data.image_folder import entries
from uda.data.tags import read_tags
from uda.errors import DataError, UdaError
from uda.files.digests import fingerprint, sha256_of
from uda.files.untrusted import read_text
from uda.types import IGNORE, OTHER

SCRIBBLES, PARTIAL, COMPLETE = "scribbles", "partial", ("labels", "few")
CLASSES = "classes.txt"
LOOKED_FOR = (
    "points.csv, boxes.csv, boxes.json, tags.csv; label files here or in scribbles/; label files in "
    "partial_<class>/, labels/ or few/"
)
PHOTO_LABELS = (".png",)
MOST_WORDS = 50
"""Words of a folder's name."""


@dataclass(frozen=True)
class PartialFiles:
    """Label files that are complete for some classes."""

    folder: Path
    files: tuple[Path, ...]
    shapes: tuple[Path, ...] = ()
    listed: Path | None = None
    """the file that names the classes, where the folder's name does not"""


@dataclass(frozen=True)
class AnnotationFiles:
    """What was found in a folder of annotations; nothing is opened yet."""

    folder: Path
    points: Path | None = None
    boxes: tuple[Path, ...] = ()
    tags: Path | None = None
    scribbles: tuple[Path, ...] = ()
    partial: tuple[PartialFiles, ...] = ()
    labels: tuple[Path, ...] = ()
    shapes: tuple[Path, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file, in order."""
        single = [path for path in (self.points, self.tags) if path is not None]
        inner = [
            path
            for part in self.partial
            for path in (*part.files, *part.shapes, *((part.listed,) if part.listed else ()))
        ]
        found = (*single, *self.boxes, *self.scribbles, *self.labels, *self.shapes, *inner)
        return tuple(sorted(found))


def find_annotations(folder: Path, photos: bool) -> AnnotationFiles:
    """Recognise the files of a folder by their names.

    Args:
        photos: whether the target's images are photographs.

    Raises:
        DataError: there is no such folder, nothing in it is an annotation, or lists every file and folder whose
            name says nothing.
    """
    files, faults = recognised(folder, photos)
    faults.raise_all(f"the folder of annotations {folder}")
    return files


def recognised(folder: Path, photos: bool) -> tuple[AnnotationFiles, Faults]:
    """What :func:`find_annotations` recognises, and its faults, which it would raise."""
    search = _Search(photos)
    if not isdir(folder):
        search.faults.add(
            "there is no such folder of annotations",
            where=folder,
            expected=LOOKED_FOR,
            fix="give the folder in which they lie",
        )
        return AnnotationFiles(folder), search.faults
    for path in _named(folder):
        search.take(path)
    if not (search.found or search.partial or search.faults.count):
        search.faults.add(
            "nothing in the folder is an annotation",
            where=folder,
            expected=LOOKED_FOR + (", *.json of COCO or LabelMe" if photos else ""),
            fix="save what you drew there, under one of these names",
        )
    single = {key: paths[0] for key, paths in search.found.items() if key in ("points", "tags")}
    several = {key: tuple(paths) for key, paths in search.found.items() if key not in single}
    files = AnnotationFiles(
        folder,
        points=single.get("points"),
        tags=single.get("tags"),
        boxes=several.get("boxes", ()),
        scribbles=several.get("scribbles", ()),
        labels=several.get("labels", ()),
        shapes=several.get("shapes", ()),
        partial=tuple(search.partial),
    )
    return files, search.faults


def _named(folder: Path) -> Iterator[Path]:
    for path in entries(folder):
        if not path.name.lower().startswith("readme"):
            yield path


class _Search:
    """Sorts paths by what their names say."""

    def __init__(self, photos: bool) -> None:
        self.photos = photos
        self.endings = PHOTO_LABELS if photos else tuple(READERS)
        self.found: dict[str, list[Path]] = {}
        self.partial: list[PartialFiles] = []
        self.faults = Faults()

    def take(self, path: Path) -> None:
        name = path.name.lower()
        if isdir(path):
            self._folder(path, name)
        elif kind := self._kind(path, name):
            self.found.setdefault(kind, []).append(path)

    def _folder(self, path: Path, name: str) -> None:
        inside = list(_named(path))
        if name == SCRIBBLES or name in COMPLETE:
            kind = "labels" if name in COMPLETE else name
            files, shapes = self._inner(inside, name == SCRIBBLES, path)
            self.found.setdefault(kind, []).extend(files)
            self.found.setdefault("shapes", []).extend(shapes)
        elif name == PARTIAL or name.startswith(f"{PARTIAL}_"):
            listed = next((file for file in inside if file.name.lower() == CLASSES), None)
            files, shapes = self._inner([file for file in inside if file != listed], True, path)
            self.partial.append(PartialFiles(path, tuple(files), tuple(shapes), listed))
        else:
            self.faults.add(
                f"the folder {path.name!r} is none of annotations",
                where=path,
                expected="scribbles, partial_<class>, labels or few",
                fix="rename it, or move it out of this folder",
            )

    def _inner(
        self, inside: Sequence[Path], drawn: bool, folder: Path
    ) -> tuple[list[Path], list[Path]]:
        """The label files of a folder, and its files of shapes."""
        files: list[Path] = []
        shapes: list[Path] = []
        for path in inside:
            name = path.name.lower()
            if isfile(path) and name.endswith(self.endings):
                files.append(path)
            elif isfile(path) and self.photos and drawn and name.endswith(".json"):
                shapes.append(path)
            else:
                self._strange(path, f"label files ending in {' or '.join(self.endings)}")
        if not inside:
            self.faults.add("the folder is empty", where=folder, fix="take it out")
        return files, shapes

    def _kind(self, path: Path, name: str) -> str | None:
        kind = {"points.csv": "points", "boxes.csv": "boxes", "tags.csv": "tags"}.get(name)
        if name == "boxes.json" or (self.photos and name.endswith(".json")):
            kind = "boxes" if name == "boxes.json" else "shapes"
        elif name.endswith(self.endings):
            kind = SCRIBBLES
        if kind is None or not isfile(path):
            self._strange(path, LOOKED_FOR)
            return None
        return kind

    def _strange(self, path: Path, expected: str) -> None:
        what = "is not understood" if isfile(path) or isdir(path) else "is no file"
        self.faults.add(
            f"{path.name!r} {what}",
            where=path,
            expected=expected,
            fix="rename it, or move it out of the annotations",
        )


class PartialMaps(Mapping[str, Partial]):
    """Case → its label map of some classes, and these classes."""

    def __init__(self) -> None:
        self.maps = PackedMaps()
        self.named: dict[str, tuple[str, ...]] = {}

    def __getitem__(self, case: str) -> Partial:
        return Partial(self.maps[case], self.named[case])

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)


@dataclass(frozen=True, eq=False)
class Annotations:
    """What a folder of annotations says, by case; label maps are class indices on the file's own grid."""

    points: Mapping[str, tuple[Point, ...]] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Box, ...]] = field(default_factory=dict)
    scribbles: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """classes, ``IGNORE`` where nothing is said"""
    partial: Mapping[str, Partial] = field(default_factory=dict)
    labels: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    """complete"""
    tags: Mapping[tuple[str, int], tuple[bool, ...]] = field(default_factory=dict)
    """(case, slice of the file) → which of the card's structures it shows"""
    digest: str = ""
    """SHA-256 over names and content of all files"""
    folder: Path = Path()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What there is besides tags, which a prior reads."""
        return tuple(kind for kind in LEDGER if getattr(self, kind))


def read_annotations(
    files: AnnotationFiles,
    card: DatasetCard,
    grids: Mapping[str, Grid],
    refused: Mapping[str, str] | None = None,
    others: Collection[str] = (),
    unmarked: Collection[int] | None = None,
) -> Annotations:
    """Read all files and compare them with the images.

    Args:
        card: of the target.
        grids: case → grid of its image, for every case that may be annotated.
        refused: case → why it may not, such as the cases that scores are computed on.
        others: further cases of the domain, whose annotations are passed over.
        unmarked: values of scribbles that say nothing (:func:`uda.data.annotations.label_files.read_scribbles`).

    Raises:
        DataError: lists the faults of all files.
    """
    digest = digest_of(files)
    found, faults = read_sound(files, Target(card, grids, refused or {}, others), unmarked)
    faults.raise_all(f"the annotations in {files.folder}")
    return replace(found, digest=digest)


def read_sound(
    files: AnnotationFiles, target: Target, unmarked: Collection[int] | None = None
) -> tuple[Annotations, Faults]:
    """What :func:`read_annotations` reads, without what is faulty and without a digest, and the faults, which it
    would raise."""
    reading = _Reading(target, Faults())
    if files.points:
        read_points(files.points, reading.target, reading.clicks)
    for path in files.boxes:
        reading.read_boxes(path)
    for path in files.shapes:
        reading.read_shapes(path, reading.keeper(reading.scribbles, SCRIBBLES))
    reading.read_maps(
        files.scribbles,
        partial(read_scribbles, unmarked=unmarked),
        reading.keeper(reading.scribbles, SCRIBBLES),
    )
    for part in files.partial:
        reading.read_partial(part)
    reading.read_maps(files.labels, read_complete, reading.keeper(reading.labels, "labels"))
    tags = reading.read_tags(files.tags) if files.tags else {}
    found = Annotations(
        reading.clicks.points(),
        reading.boxes.boxes(),
        reading.scribbles,
        reading.partial,
        reading.labels,
        tags,
        folder=files.folder,
    )
    return found, reading.faults


def digest_of(files: AnnotationFiles) -> str:
    """SHA-256 over the names below the folder and the content of all files.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        return fingerprint(
            {path.relative_to(files.folder).as_posix(): sha256_of(path) for path in files.all}
        )
    except OSError as error:
        raise DataError(
            f"an annotation cannot be read: {error.strerror}",
            where=files.folder,
            fix="correct its permissions",
        ) from error


Keeper = Callable[[str, NDArray[np.uint8], Path], None]
MapReader = Callable[[Path, Grid, DatasetCard], NDArray[np.uint8]]


class _Reading:
    """What was read so far, and its faults."""

    def __init__(self, target: Target, faults: Faults) -> None:
        self.target, self.faults = target, faults
        self.clicks = Clicks(target.card.classes, faults)
        self.boxes = Boxes(target.card.classes, faults)
        self.scribbles, self.labels, self.partial = PackedMaps(), PackedMaps(), PartialMaps()
        self._from: dict[tuple[str, str], Path] = {}

    def keeper(self, maps: PackedMaps, kind: str) -> Keeper:
        """Keeps a case's map; a second one is a fault."""

        def keep(case: str, labels: NDArray[np.uint8], path: Path) -> None:
            if self._first(case, kind, path):
                maps.add(case, labels)

        return keep

    def _first(self, case: str, kind: str, path: Path) -> bool:
        before = self._from.setdefault((kind, case), path)
        if before != path:
            self.faults.add(
                f"two files of case {case!r}",
                where=f"{before} and {path}",
                expected=f"one file a case among its {kind}",
                fix="keep one of them",
            )
        return before == path

    def read_boxes(self, path: Path) -> None:
        if path.suffix.lower() != ".json":
            read_boxes(path, self.target, self.boxes)
            return
        raw = read_json(path, self.faults)
        if isinstance(raw, list):
            boxes_of_list(raw, path, self.target, self.boxes)
        elif raw is not None and self.target.card.photos:
            keep = self.keeper(self.scribbles, SCRIBBLES)
            read_shapes(raw, path, self._shapes(keep, IGNORE))
        elif raw is not None:
            self.faults.add(
                "is no list of boxes",
                where=path,
                expected='[{"case": …, "slice": …, "class": …, "row0": …, "column0": …, "row1": …, "column1": …}]',
            )

    def _shapes(self, keep: Keeper, outside: int) -> Shapes:
        return Shapes(
            self.target, self.clicks, self.boxes, self.faults, keep, outside, outside == OTHER
        )

    def read_shapes(self, path: Path, keep: Keeper, outside: int = IGNORE) -> None:
        raw = read_json(path, self.faults)
        if raw is not None:
            read_shapes(raw, path, self._shapes(keep, outside))

    def read_maps(self, paths: Sequence[Path], read: MapReader, keep: Keeper) -> None:
        """Label files, each called like its case."""
        if not paths:
            return
        names = Names(paths[0].parent, self.target, self.faults)
        for path in paths:
            case = self.target.case_of(stem(path.name))
            if names.case(case, path.name):
                labels = self._read_map(path, read, self.target.grids[case])
                if labels is not None:
                    keep(case, labels, path)
        names.report()

    def _read_map(self, path: Path, read: MapReader, grid: Grid) -> NDArray[np.uint8] | None:
        try:
            return read(path, grid, self.target.card)
        except UdaError as fault:
            self.faults.take(fault)
            return None

    def read_partial(self, part: PartialFiles) -> None:
        named = self._named(part)
        if not named:
            return
        kept = np.full(256, OTHER, dtype=np.uint8)
        indices = [self.target.card.classes.index(name) for name in named]
        kept[indices], kept[IGNORE] = indices, IGNORE

        def keep(case: str, labels: NDArray[np.uint8], path: Path) -> None:
            if self._first(case, PARTIAL, path):
                self.partial.maps.add(case, kept[labels])
                self.partial.named[case] = named

        self.read_maps(part.files, partial(read_partial, named=named), keep)
        for path in part.shapes:
            self.read_shapes(path, keep, OTHER)

    def _named(self, part: PartialFiles) -> tuple[str, ...]:
        """The classes of a folder of partial labels; none, and a fault, where they are not said."""
        card, before = self.target.card, self.faults.count
        if part.listed is not None:
            found = self._listed(part.listed)
        else:
            found = classes_in(part.folder.name[len(PARTIAL) :].lstrip("_"), card)
        if len(found) == 1 and len(set(found[0])) == len(found[0]):
            return found[0]
        if self.faults.count == before:
            readings = " or ".join(", ".join(names) for names in found)
            self.faults.add(
                f"the folder may mean {readings}"
                if found
                else "the folder does not say for which classes its labels are complete",
                where=part.listed or part.folder,
                expected=f"partial_<class>_<class>, each once, of {', '.join(card.classes[:MOST_WORDS])}",
                fix=f"rename it, or name the classes in its {CLASSES}, a line each",
            )
        return ()

    def _listed(self, path: Path) -> list[tuple[str, ...]]:
        """The classes that a file names, as one reading; none where there is none, or one is unknown."""
        try:
            lines = read_text(path).split("\n")
        except (OSError, ValueError) as error:
            self.faults.add(f"cannot be read: {error}", where=path, fix="save it as text in UTF-8")
            return []
        names = Names(path, self.target, self.faults)
        indices = [names.class_index(line.strip()) for line in lines if line.strip()]
        names.report()
        known = tuple(self.target.card.classes[index] for index in indices if index is not None)
        return [known] if known and len(known) == len(indices) else []

    def read_tags(self, path: Path) -> dict[tuple[str, int], tuple[bool, ...]]:
        try:
            tags = read_tags(path, self.target.card.structures)
        except UdaError as fault:
            self.faults.take(fault)
            return {}
        if not tags:
            self.faults.add("the table has no line below its first", where=path, fix="take it out")
        names = Names(path, self.target, self.faults)
        sound = {}
        for (case, slice_), shown in tags.items():
            if names.case(case, f"slice {slice_}"):
                at = ((slice_, 0, 0),)
                if inside("a tag", case, self.target.grids[case], at, self.faults, str(path)):
                    sound[case, slice_] = shown
        names.report()
        return sound


def classes_in(text: str, card: DatasetCard) -> list[tuple[str, ...]]:
    """What classes ``<class>_<class>`` may mean, whose names may hold ``_`` themselves; two readings at most.

    Example:
        >>> from uda.config.loading import load_card
        >>> card = load_card("cmrseg_lge")
        >>> classes_in("lv_rv", card), classes_in("LV", card), classes_in("heart", card)
        ([('lv', 'rv')], [('lv',)], [])
    """
    words = text.split("_")[:MOST_WORDS]
    readings: list[list[tuple[str, ...]]] = [[()]]
    for end in range(1, len(words) + 1):
        here: list[tuple[str, ...]] = []
        for start in range(end):
            index = class_index("_".join(words[start:end]), card)
            if index is not None:
                here += [(*before, card.classes[index]) for before in readings[start]]
        readings.append(here[:2])
    return readings[-1] if words != [""] else []


def describe(annotations: Annotations) -> dict[str, Any]:
    """How much of each kind was read: ``{"points": 278, "scribbles": 25}``; points and boxes one by one, the rest by
    case (tags: by image)."""
    counts = {
        "points": sum(map(len, annotations.points.values())),
        "boxes": sum(map(len, annotations.boxes.values())),
        **{
            kind: len(getattr(annotations, kind))
            for kind in ("scribbles", "partial", "labels", "tags")
        },
    }
    return {kind: number for kind, number in counts.items() if number}
