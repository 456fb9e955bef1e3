"""Checking a data set: every case read as training would, every fault in one report, nothing changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, SLICES, Tiny, write_nifti

from uda.check import CaseReport, check_card
from uda.config import DatasetCard
from uda.errors import DataError
from uda.recipes import load_card, override


def target(tiny: Tiny) -> DatasetCard:
    return load_card(str(tiny.home / "target.yaml"))


def check(tiny: Tiny, card: DatasetCard | None = None) -> dict[str, CaseReport]:
    return {report.case: report for report in check_card(card or target(tiny), tiny.root)}


def texts(report: CaseReport) -> str:
    return "\n".join(map(str, report.faults))


def test_a_sound_data_set_has_no_fault_and_is_described(tiny: Tiny) -> None:
    reports = check(tiny)
    assert list(reports) == ["c0", "c1", "c2", "tags.csv"]
    assert not any(report.faults for report in reports.values())
    first = reports["c0"]
    assert (first.split, first.shape, first.spacing, first.axes) == (
        "adapt",
        f"{SIZE}×{SIZE}×{SLICES}",
        "1.5×1.5×4",
        "RAS",
    )
    assert first.labels == "disk, ring"
    assert reports["tags.csv"].labels == f"{2 * SLICES} images"


def test_intensities_are_percentiles_of_the_file(tiny: Tiny) -> None:
    values = np.arange(SIZE * SIZE * SLICES, dtype=np.int16).reshape(SIZE, SIZE, SLICES)
    write_nifti(tiny.root / "t/images/c0.nii.gz", values)
    low, middle, high = np.percentile(values, (1, 50, 99))
    assert check(tiny)["c0"].intensity == f"{low:.4g} / {middle:.4g} / {high:.4g}"


def test_every_fault_of_every_case_is_reported_at_once(tiny: Tiny) -> None:
    images, labels = tiny.root / "t/images", tiny.root / "t/labels"
    content = (images / "c0.nii.gz").read_bytes()
    (images / "c0.nii.gz").write_bytes(content[: len(content) // 2])
    write_nifti(labels / "c1.nii.gz", np.full((SIZE, SIZE, SLICES), 33, np.uint8))
    (images / "c2.nii.gz").unlink()
    (tiny.root / "t/tags.csv").write_text("case,slice,disk,ring\nc1,0,1,1\nc9,0,1,1\n")
    reports = check(tiny)
    assert "cannot be read as NIfTI" in texts(reports["c0"])
    assert str(images / "c0.nii.gz") in texts(reports["c0"])
    assert f"33 ({SIZE * SIZE * SLICES} voxels)" in texts(reports["c1"])
    assert str(labels / "c1.nii.gz") in texts(reports["c1"])
    assert "there is no such file" in texts(reports["c2"])
    assert "name images that are not there: 1, e.g. c9 slice 0" in texts(reports["tags.csv"])
    assert "miss images: 3, e.g. c1 slice 1, c1 slice 2" in texts(reports["tags.csv"])


def test_a_label_that_is_not_there_is_no_fault(tiny: Tiny) -> None:
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    report = check(tiny)["c0"]
    assert report.faults == []
    assert report.labels == ""


def test_a_label_on_another_grid_is_a_fault(tiny: Tiny) -> None:
    shifted = np.diag([1.5, 1.5, 4.0, 1.0])
    shifted[0, 3] = 0.1
    path = tiny.root / "t/labels/c1.nii.gz"
    write_nifti(path, np.zeros((SIZE, SIZE, SLICES), np.uint8), shifted)
    text = texts(check(tiny)["c1"])
    assert "differs from the image's by up to 0.1 mm" in text
    assert str(path) in text


def test_tags_count_slices_along_the_files_own_axis(tiny: Tiny) -> None:
    """Slices of a file that is stored from head to foot have the same numbers as any other's."""
    image = np.random.default_rng(0).integers(0, 100, (SIZE, SIZE, SLICES)).astype(np.int16)
    flipped = np.diag([1.5, 1.5, -4.0, 1.0])
    write_nifti(tiny.root / "t/images/c0.nii.gz", image, flipped)
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    assert check(tiny)["tags.csv"].faults == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("case,slice,disk\nc0,0,1\n", "tags have columns"),
        ("case,slice,disk,ring\nc0,0,1,2\n", "line 2"),
    ],
)
def test_tags_that_cannot_be_read_are_a_fault(tiny: Tiny, content: str, expected: str) -> None:
    (tiny.root / "t/tags.csv").write_text(content)
    assert expected in texts(check(tiny)["tags.csv"])


def test_tags_that_are_not_there_are_a_fault(tiny: Tiny) -> None:
    (tiny.root / "t/tags.csv").unlink()
    assert "tags cannot be read" in texts(check(tiny)["tags.csv"])


def test_a_missing_root_is_refused(tiny: Tiny) -> None:
    with pytest.raises(DataError, match="there is no such folder of data"):
        list(check_card(target(tiny), tiny.root / "elsewhere"))


def test_a_card_without_cases_is_refused(tiny: Tiny) -> None:
    empty = override(target(tiny), ["splits={adapt: []}"])
    with pytest.raises(DataError, match="names no case"):
        list(check_card(empty, tiny.root))


def test_checking_writes_nothing(tiny: Tiny) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tiny.root.rglob("*") if path.is_file()}

    before = files()
    check(tiny)
    assert files() == before
