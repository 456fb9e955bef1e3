"""Texts that were made to cost: time and memory of every text reader, up to the largest file that it takes.

    python benchmarks/texts.py                  # up to the limits: minutes on a CPU
    python benchmarks/texts.py --share 0.01     # files of a hundredth: a try

Each kind of text is written in five sizes, each twice the one before, the last as large as the reader's limit. A
process of its own reads each file with the package's own function, which returns or refuses it. The growth is the
exponent e of size^e between the smallest and the largest file: 1 is linear, 2 the square, below 1 a limit on the
number of values that ends the work early. It is judged where the largest file takes more than a tenth of a second,
and more than 50 MB. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import math
import multiprocessing
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from measure import resident_bytes

from uda.config.loading import load_card, load_recipe
from uda.data.hashes import Hashes
from uda.data.nnunet import read_listing, write_card
from uda.data.tags import read_tags
from uda.errors import UdaError
from uda.files.ledger import LEDGER, Ledger
from uda.files.stage_folder import StageFolder
from uda.files.untrusted import MAX_TEXT, MAX_YAML
from uda.prediction.outcome import Places, read_record
from uda.priors import Prior
from uda.priors.size_csv import read_sizes
from uda.report.files import read_cases, read_curve, read_metrics

SIZES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
NOTABLE_SECONDS, NOTABLE_BYTES = 0.1, 5 * 10**7
STEEPEST = 1.3
"""Growth up to which a line counts as linear; collecting garbage and waiting for memory cost some."""

Pieces = Iterator[str]


@dataclass(frozen=True)
class Reader:
    """A file's name, its limit in bytes, and what reads it."""

    file: str
    limit: int
    read: Callable[[Path], object]


def card_from(path: Path) -> object:
    """The card of a ``dataset.json`` with one image and its label."""
    for name in ("imagesTr", "labelsTr"):
        (path.parent / name).mkdir(exist_ok=True)
        nifti = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
        nibabel.save(nifti, path.parent / name / "c.nii")
    return write_card(read_listing(path.parent), path.parents[1] / "card.yaml")


READERS = {
    "card": Reader("card.yaml", MAX_YAML, lambda path: load_card(str(path))),
    "recipe": Reader("recipe.yaml", MAX_YAML, lambda path: load_recipe(str(path))),
    "dataset.json": Reader("set/dataset.json", MAX_YAML, card_from),
    "prior.json": Reader("prior.json", MAX_TEXT, Prior.load),
    "tags": Reader("tags.csv", MAX_TEXT, lambda path: read_tags(path, ["lv", "rv"])),
    "sizes": Reader("sizes.csv", MAX_TEXT, lambda path: read_sizes(path, "size", ["a", "b"])),
    "scores": Reader("evaluate/cases.csv", MAX_TEXT, lambda path: read_cases(path.parents[1])),
    "curves": Reader("metrics.csv", MAX_TEXT, read_curve),
    "metrics": Reader(
        "evaluate/metrics.json", MAX_TEXT, lambda path: read_metrics(path.parents[1])
    ),
    "stage": Reader("stage.json", MAX_TEXT, lambda path: StageFolder(path.parent, "").recorded()),
    "hashes": Reader("hashes.json", MAX_TEXT, Hashes),
    "record": Reader(
        "cases/c.json", MAX_TEXT, lambda path: read_record(Places(path.parents[1], False), "c")
    ),
    "ledger": Reader(LEDGER, MAX_TEXT, lambda path: Ledger(path.parent)),
}


def repeated(text: str, head: str = "") -> Callable[[], Pieces]:
    return lambda: itertools.chain([head], itertools.repeat(text * 100))


def numbered(text: str, head: str = "", start: int = 0) -> Callable[[], Pieces]:
    """``#`` in the text counts."""
    return lambda: itertools.chain(
        [head], (text.replace("#", str(n)) for n in itertools.count(start))
    )


def merged() -> Pieces:
    yield "a0: &a0 {x: 1}\n"
    for number in itertools.count(1):
        yield f"a{number}: &a{number}\n  <<: [*a{number - 1}, *a{number - 1}]\n"


def doubled() -> Pieces:
    """Aliases that double what they stand for."""
    yield "a0: &a0 [x]\n"
    for number in itertools.count(1):
        yield f"a{number}: &a{number} [*a{number - 1}, *a{number - 1}]\n"


YAML = {
    "base 60": repeated(":1", "seed: 1"),
    "binary": repeated("1", "x: 0b"),
    "merge keys": merged,
    "keys": numbered("k#: 1\n"),
    "time": repeated("1", "x: 2001-01-01 00:00:00."),
    "integer": repeated("1", "x: "),
    "fraction": repeated("1", "x: 1."),
    "long text": repeated("word ", "x: "),
    "quoted": repeated("\\n", 'x: "'),
    "block": repeated(" x\n", "x: |\n"),
    "blank lines": repeated("\n", "x: |\n"),
    "comments": repeated("# x\n"),
    "nested": repeated("["),
    "nested lines": repeated("- "),
    "empty lists": repeated("[], ", "x: ["),
    "pairs": numbered("k#: 1, ", "x: {"),
    "anchors": numbered("- &a# x\n", "x:\n"),
    "aliases": repeated("- *a\n", "x: &a y\nz:\n"),
    "doubled": doubled,
    "tags": numbered("- !t# x\n", "x:\n"),
    "directives": numbered("%TAG !t#! x\n"),
    "long key": repeated("k", "? "),
    "documents": repeated("---\n"),
    "cases": numbered("case#, ", "splits: {train: ["),
    "wrong cases": repeated("[], ", "splits: {train: ["),
}
CHANNEL = '"file_ending":".nii","channel_names":{"0":"CT"},'
JSON = {
    "key twice": numbered('"k#":0,', '{"k0":0,'),
    "nested": repeated("["),
    "numbers": repeated("1,", "["),
    "long number": repeated("1"),
    "empty lists": repeated("[],", "["),
    "backslashes": repeated("\\\\", '["'),
    "escapes": repeated("\\u00e9", '["'),
    "surrogates": repeated("\\ud83d\\ude00", '["'),
    "ignored labels": numbered('"#":"ignore",', '{"labels":{'),
    "labels": numbered('"label #":#,', f'{{{CHANNEL}"labels":{{"background":0,', start=1),
    "cases": numbered('"c#":{"0":[0.5,0.5]},', '{"format":"uda-prior-1","images":{'),
    "entries": repeated('{"image":"a"},', '{"training":['),
}
CSV = {
    "one cell": repeated("x", "case,slice,lv,rv\n"),
    "columns": repeated("case,"),
    "blank lines": repeated("\n"),
    "rows": numbered("c#,0,1,0\n", "case,slice,lv,rv\n"),
    "short rows": repeated("a\n", "case,slice,lv,rv\n"),
    "quotes": repeated('"a",'),
    "open quote": repeated("a\n", '"'),
    "apostrophes": repeated("'=,"),
}
OWN = {kind: JSON[kind] for kind in ("key twice", "numbers", "backslashes")}
"""of files that uda writes itself; all go through the same parser"""
KINDS = {
    "card": YAML,
    "recipe": YAML,
    "dataset.json": JSON,
    "prior.json": JSON,
    "tags": CSV,
    "sizes": {
        "rows": numbered("c_#;[1, 2]\n", "val_ids;size\n"),
        "short rows": repeated("a\n", "val_ids;size\n"),
        "columns": repeated("a;", "val_ids;size;"),
        "long list": repeated("1,", "val_ids;size\nc_1;["),
    },
    "scores": {"rows": numbered("r,c#,s,1,1,1,ok\n", "row,case,structure,dice,hd95,assd,state\n")},
    "curves": {
        "rows": numbered("#,0.5\n", "step,loss\n"),
        "columns": numbered("c#,", "step,loss,"),
    },
    "metrics": OWN,
    "stage": {**OWN, "files": numbered('"f#":"0",', '{"files":{')},
    "hashes": {**OWN, "entries": numbered('"/f#":[1,2,3,4,"0"],', "{")},
    "record": {**OWN, "measures": numbered('"m#":0.5,', '{"case":"c","measures":{')},
    "ledger": {
        "rows": numbered('{"file": "f#", "sha256": "0"}\n'),
        "one name": repeated('{"file": "f", "sha256": "0"}\n'),
        "one line": repeated("x", '{"file": "'),
        "nested": repeated("["),
    },
}
ENDS = {"{": "}", "[": "]", '"': '"'}


def write(path: Path, pieces: Callable[[], Pieces], size: int) -> None:
    """A file of about this size; what is open at its end is closed, where that is simple."""
    path.parent.mkdir(exist_ok=True)
    length = 0
    kept = []
    for piece in pieces():
        if length + len(piece) > size - 100 and kept:
            break
        kept.append(piece)
        length += len(piece)
    text, head = "".join(kept), kept[0]
    if path.suffix == ".json":
        open_ = re.sub(r"\{[^{}]*\}", "", head)
        signs = open_ if open_ == '["' else [sign for sign in open_ if sign in "{["]
        text = text.rstrip(",") + "".join(ENDS[sign] for sign in reversed(signs))
    path.write_text(text)


def measured(name: str, folder: Path) -> tuple[float, int, str]:
    """Seconds of the processor, bytes at the peak, and the message of a refusal."""
    reader, told = READERS[name], "read"
    ctypes.CDLL(None).malloc_trim(
        0
    )  # free memory of the process would hide what a small file takes
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    start, now = resident_bytes("VmRSS"), time.process_time()
    try:
        reader.read(folder / reader.file)
    except UdaError as error:
        told = str(error).splitlines()[0]
        if str(folder) not in str(error):
            raise ValueError(f"{name} is refused without its name: {told}") from error
    return time.process_time() - now, resident_bytes("VmHWM") - start, told


def growth(values: Sequence[float]) -> float:
    return math.log(max(values[-1], 1e-9) / max(values[0], 1e-9)) / math.log(SIZES[-1] / SIZES[0])


def line(name: str, kind: str, pieces: Callable[[], Pieces], share: float) -> tuple[str, float]:
    """A row of the table, and its steepest growth that is judged."""
    context = multiprocessing.get_context("fork")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            write(
                Path(folder) / READERS[name].file, pieces, int(size * share * READERS[name].limit)
            )
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                found.append(pool.submit(measured, name, Path(folder)).result())
    times, peaks, told = [f[0] for f in found], [float(f[1]) for f in found], found[-1][2]
    steep = [growth(times)] if times[-1] > NOTABLE_SECONDS else []
    steep += [growth(peaks)] if peaks[-1] > NOTABLE_BYTES else []
    cells = [f"{growth(values):.2f}" for values in (times, peaks)]
    cells[0] = cells[0] if times[-1] > NOTABLE_SECONDS else "–"
    cells[1] = cells[1] if peaks[-1] > NOTABLE_BYTES else "–"
    seconds = " | ".join(f"{value:.3f}" for value in times)
    verdict = "read" if told == "read" else "refused"
    row = f"| {name} | {kind} | {verdict} | {seconds} | {cells[0]} | {peaks[-1] / 1e6:.0f} | {cells[1]} |"
    return row, max(steep, default=0.0)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the limits")
    parser.add_argument("--readers", nargs="*", default=list(READERS), choices=READERS)
    given = parser.parse_args(arguments)
    heads = " | ".join(f"s at {int(size * 100)} %" for size in SIZES)
    print(f"| reader | kind | result | {heads} | growth | MB | growth |")
    print(f"|---|---|---|{'---:|' * (len(SIZES) + 3)}")
    gc.freeze()  # the libraries' own objects take no part in what is measured
    steepest, count = 0.0, 0
    for name in given.readers:
        for kind, pieces in KINDS[name].items():
            row, steep = line(name, kind, pieces, given.share)
            print(row, flush=True)
            steepest, count = max(steepest, steep), count + 1
    verdict = "≤" if steepest <= STEEPEST else "over"
    print(f"\n{count} texts; steepest growth {steepest:.2f} ({verdict} {STEEPEST})")
    return 1 if steepest > STEEPEST else 0


if __name__ == "__main__":
    sys.exit(main())
