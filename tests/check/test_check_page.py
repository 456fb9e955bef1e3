"""The page of a check: one file, every finding, cases upright with their structures."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import SIZE, Tiny, write_nifti
from matplotlib.image import imread
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from uda.check import page as check_page
from uda.check.page import Album
from uda.check.volumes import check_card
from uda.config.card import DatasetCard
from uda.config.loading import load_card, override


def album_of(card: DatasetCard, root: Path, out: Path) -> tuple[Album, str]:
    album = Album(out, card)
    for report in check_card(card, root, pictures=True):
        album.add(report)
    return album, album.write().read_text(encoding="utf-8")


def test_the_page_is_one_file_with_every_case_and_finding(tiny: Tiny, tmp_path: Path) -> None:
    write_nifti(tiny.root / "t/labels/c1.nii.gz", np.full((SIZE, SIZE, 4), 421, np.int16))
    out = tmp_path / "page"
    _, html = album_of(load_card(str(tiny.home / "target.yaml")), tiny.root, out)
    sources = re.findall(r"src='([^']*)'", html)
    assert len(sources) == 3
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "://" not in html
    assert "421 (4096 voxels)" in html
    assert "1 fault(s)" in html
    assert sorted(p.name for p in out.iterdir()) == ["c0.png", "c1.png", "c2.png", "index.html"]
    assert html.index("<b>c1</b>") < html.index("<b>c0</b>")  # what is wrong comes first


def test_what_names_hold_is_text_and_not_html(tiny: Tiny, tmp_path: Path) -> None:
    card = override(
        load_card(str(tiny.home / "target.yaml")),
        ["title=<script>a</script>", "splits={test: ['<b>']}", "tags=null"],
    )
    _, html = album_of(card, tiny.root, tmp_path / "page")
    assert "<script>" not in html
    assert "case '<b>'" not in html
    assert "case &#39;&lt;b&gt;&#39;" in html


def test_of_many_cases_a_choice_is_shown_and_the_rest_counted(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("images", "labels"):
        content = (tiny.root / f"t/{kind}/c0.nii.gz").read_bytes()
        for number in range(7):
            (tiny.root / f"t/{kind}/n{number}.nii.gz").write_bytes(content)
    write_nifti(tiny.root / "t/labels/n6.nii.gz", np.full((SIZE, SIZE, 4), 421, np.int16))
    monkeypatch.setattr(check_page, "DRAWN", 4)
    monkeypatch.setattr(check_page, "SHOWN", 3)
    card = override(load_card(str(tiny.home / "target.yaml")), ["splits={test: ['n*']}", "tags="])
    _, html = album_of(card, tiny.root, tmp_path / "page")
    pictures = sorted(p.name for p in (tmp_path / "page").glob("*.png"))
    assert pictures == ["n0.png", "n1.png", "n2.png", "n3.png", "n6.png"]
    assert re.findall(r"<b>(n\d)</b>", html) == ["n6", "n0", "n2"]
    assert "4 of 7 cases are left out here; 5 pictures lie beside this page" in html


CODES = ["".join(c) for c in product("RL", "AP", "SI")] + ["SRA", "PIL", "IAR"]


@pytest.mark.parametrize(
    ("orientation", "codes", "up"),
    [("RAS", code, "front") for code in CODES] + [("RSP", code, "head") for code in CODES],
)
def test_slices_are_drawn_upright_whatever_the_file(
    tiny: Tiny, tmp_path: Path, orientation: str, codes: str, up: str
) -> None:
    """A bright block at the patient's right, front and head is in the upper left corner."""
    image = np.random.default_rng(0).integers(0, 10, (16, 12, 8)).astype(np.int16)
    image[9:, 7:, 5:] = 1000
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    affine = np.diag([2.0, 2.0, 2.0, 1.0]) @ inv_ornt_aff(turn, image.shape)
    write_nifti(tiny.root / "t/images/c0.nii.gz", apply_orientation(image, turn), affine)
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    size = {"RAS": [16, 12], "RSP": [16, 8]}[orientation]
    changes = [f"prepare.orientation={orientation}", f"prepare.size={size}", "tags="]
    changes += ["splits={adapt: [c0]}"]
    card = override(load_card(str(tiny.home / "target.yaml")), changes)
    album, _ = album_of(card, tiny.root, tmp_path / "page")
    assert album.reports[0].axes == codes
    pixels = imread(tmp_path / "page/c0.png")[..., 0]
    height, width = pixels.shape
    panes = np.array_split(pixels, 3, axis=1)
    bright = max(panes, key=lambda pane: float(pane.mean()))
    quarters = {
        "upper left": bright[: height // 2, : width // 6].mean(),
        "upper right": bright[: height // 2, width // 6 :].mean(),
        "lower left": bright[height // 2 :, : width // 6].mean(),
    }
    assert max(quarters, key=lambda k: quarters[k]) == "upper left"
    # 16 voxels across; 12 or 8 up
    assert height / (width / 3) == pytest.approx({"front": 12, "head": 8}[up] / 16, rel=0.05)


def test_outlines_follow_the_labels(tiny: Tiny, tmp_path: Path) -> None:
    """The picture with labels differs from the one without where the structures are, not at the border."""
    card = override(
        load_card(str(tiny.home / "target.yaml")), ["splits={test: [c0]}", "prepare.size=[32, 32]"]
    )
    album_of(card, tiny.root, tmp_path / "with")
    (tiny.root / "t/labels/c0.nii.gz").unlink()
    album_of(card, tiny.root, tmp_path / "without")
    drawn, bare = (imread(tmp_path / f"{kind}/c0.png") for kind in ("with", "without"))
    assert np.ptp(bare[..., :3], axis=-1).max() == 0  # grey alone
    coloured = np.ptp(drawn[..., :3], axis=-1) > 0.1
    assert 0.05 < coloured.mean() < 0.9
    assert not coloured[:10].any()
