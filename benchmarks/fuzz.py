"""Damaged files at every reader: how many are read, refused by name, or end otherwise.

    python benchmarks/fuzz.py --files 50000 --seed 1
    python benchmarks/fuzz.py --files 1000 --texts 0.01   # a try: texts of a hundredth of their limits

The files are made by ``tests/fuzz`` (sound ones of a few kilobytes, damaged in their bytes or in what they say, and
odd ones made by hand). Each reader works in a process of its own with 3 GiB of address space beyond its start. A
file fails when it ends in another error than ours, in an error that does not name it, in a warning or other noise,
after more than 30 s, with more than 200 MiB more memory, or with the process. Where a NIfTI image lies is held
against a reading by the standard alone (``tests/fuzz/nifti_standard.py``): a wrong millimetre fails too. Then come
long texts, up to the limit of every text reader (``benchmarks/texts.py``). Exit code 1 when any file failed, or time
or memory grew faster than the text.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS)]


def feed_into(pipe: Any, name: str, count: int, seed: int, folder: Path, keep: Path | None) -> None:
    """What a reader's process does."""
    from feeding import feed
    from readers import READERS

    reader = next(one for one in READERS if one.name == name)
    pipe.send(feed(reader, count, seed, folder, keep))


def result_of(name: str, count: int, seed: int, keep: Path | None) -> Any:
    """The result of one reader; of a process that died, one failure."""
    from feeding import ReaderResult

    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        process = multiprocessing.get_context("fork").Process(
            target=feed_into, args=(there, name, count, seed, Path(folder), keep)
        )
        process.start()
        there.close()
        try:
            return here.recv()
        except EOFError:
            process.join()
            return ReaderResult(failures=[f"{name}: its process ended with {process.exitcode}"])
        finally:
            process.join()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=50_000, help="damaged files over all readers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    parser.add_argument("--texts", type=float, default=1.0, help="share of the limits; 0: no texts")
    chosen = parser.parse_args()
    from readers import READERS

    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    readers = [reader for reader in READERS if chosen.only in reader.name]
    shares = sum(reader.share for reader in readers)
    print("| reader | files | read | refused | failures | peak MiB | ms a file |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    results = []
    for reader in readers:
        count = math.ceil(chosen.files * reader.share / shares)
        result = result_of(reader.name, count, chosen.seed, chosen.keep)
        results.append(result)
        print(line(reader.name, [result]), flush=True)
    print(line("all", results))
    failures = [failure for result in results for failure in result.failures]
    for failure in failures[:50]:
        print(failure)
    steep = 0
    if chosen.texts and not chosen.only:
        import texts

        print()
        steep = texts.main(["--share", str(chosen.texts)])
    return 1 if failures or steep else 0


def line(name: str, results: list[Any]) -> str:
    files, read, refused = (
        sum(getattr(t, k) for t in results) for k in ("files", "read", "refused")
    )
    failures = sum(len(t.failures) for t in results)
    peak = max(t.peak for t in results) / 2**20
    each = 1000 * sum(t.seconds for t in results) / max(files, 1)
    return f"| {name} | {files} | {read} | {refused} | {failures} | {peak:.0f} | {each:.1f} |"


if __name__ == "__main__":
    sys.exit(main())
