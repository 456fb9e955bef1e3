"""Reading TFRecords, both checksums verified, against one plain read of the same bytes, in turns in one run.

    python benchmarks/records.py                   # 400 MB of records of the released size, made for it
    python benchmarks/records.py FILE.tfrecords …  # files at hand

Prints Markdown. GB/s of 10⁹ file bytes, from the disk cache; medians (least–most), the ratio round by round.
Memory is the high-water mark of a process of its own over what it had before it read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from measure import resident_bytes, spread, times_in_turn

from uda.data.records import count_records, read_records, write_records

SHAPE = (256, 256, 3)
BUFFER = 4 << 20

Work = Callable[[Sequence[Path]], float]


def plain(paths: Sequence[Path]) -> float:
    """The alternative: each file into memory, whole; nothing verified."""
    return sum(len(path.read_bytes()) for path in paths)


def blocks(paths: Sequence[Path]) -> float:
    """Each file through one buffer; nothing verified, nothing kept."""
    buffer, total = memoryview(bytearray(BUFFER)), 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def views(paths: Sequence[Path]) -> float:
    """Every record; the reader itself touches every byte for its checksum, and every image value."""
    return sum(float(record.image[0, 0, 1]) for path in paths for record in read_records(path))


def copies(paths: Sequence[Path]) -> float:
    """Every record, image and label copied into arrays of one slice."""
    image, label, total = np.empty(SHAPE, np.float32), np.empty(SHAPE, np.uint8), 0.0
    for path in paths:
        for record in read_records(path):
            if record.image.shape != image.shape:
                image, label = np.empty_like(record.image), np.empty_like(record.label, np.uint8)
            image[...] = record.image
            np.copyto(label, record.label, casting="unsafe")
            total += float(image[0, 0, 1])
    return total


PLAIN = "one plain read (`Path.read_bytes`)"
WORKS: dict[str, Work] = {
    PLAIN: plain,
    "plain read through one 4 MiB buffer": blocks,
    "`read_records`, views": views,
    "`read_records`, image and label copied": copies,
}


def write_sample(path: Path, count: int) -> Path:
    """A file of that many records of the released size, no two alike."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=SHAPE).astype(np.float32)
    label = rng.integers(0, 6, SHAPE).astype(np.float32)
    write_records(path, ((image + np.float32(number), label) for number in range(count)))
    return path


def made(folder: Path, megabytes: float) -> dict[str, list[Path]]:
    """A quarter of the size, the size, and the size as it is released: a file for each record."""
    count = max(1, round(megabytes * 1e6 / (2 * 4 * np.prod(SHAPE))))
    return {
        "one small file": [write_sample(folder / "small.tfrecords", max(1, count // 4))],
        "one file": [write_sample(folder / "large.tfrecords", count)],
        "one file a record": [
            write_sample(folder / f"{number}.tfrecords", 1) for number in range(count)
        ],
    }


def size_of(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def speed_lines(paths: Sequence[Path], rounds: int) -> list[str]:
    works = {name: lambda work=work: work(paths) for name, work in WORKS.items()}
    times = times_in_turn(works, rounds, time.perf_counter)
    gigabytes = size_of(paths) / 1e9
    lines = []
    for name, spent in times.items():
        ratios = [a / b for a, b in zip(times[PLAIN], spent, strict=True)]
        rate = spread([gigabytes / seconds for seconds in spent], ".2f")
        lines.append(f"| {name} | {rate} | {spread(ratios, '.2f')} |")
    return lines


def _peak(name: str, paths: Sequence[Path]) -> int:
    start = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    WORKS[name](paths)
    return resident_bytes("VmHWM") - start


def memory_lines(groups: dict[str, list[Path]]) -> list[str]:
    """Peak of each work on each group of files."""
    context = multiprocessing.get_context("spawn")
    lines = []
    for name in WORKS:
        cells = []
        for paths in groups.values():
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                cells.append(f"{pool.submit(_peak, name, paths).result() / 1e6:.1f} MB")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def report(groups: dict[str, list[Path]], rounds: int) -> None:
    from uda.config.recipe import Compute  # not at the head: the processes measured need none of it
    from uda.pipeline.environment import environment

    told = environment(Compute())
    print(", ".join(f"{key} {value}" for key, value in told.items()))
    for title, paths in groups.items():
        print(f"\n| {described(title, paths)} | GB/s | of the plain read |\n|---|---|---|")
        for line in speed_lines(paths, rounds):
            print(line)
    heads = " | ".join(described(title, paths) for title, paths in groups.items())
    print(f"\n| peak memory | {heads} |\n|---|{'---|' * len(groups)}")
    for line in memory_lines(groups):
        print(line)


def described(title: str, paths: Sequence[Path]) -> str:
    count = sum(map(count_records, paths))
    return f"{title}: {count} record{'s'[: count > 1]}, {size_of(paths) / 1e6:.0f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="TFRecord files instead of made ones")
    parser.add_argument("--megabytes", type=float, default=400)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args(arguments)
    if given.files:
        report({"files given": given.files}, given.rounds)
        return
    with tempfile.TemporaryDirectory() as folder:
        report(made(Path(folder), given.megabytes), given.rounds)


if __name__ == "__main__":
    main()
