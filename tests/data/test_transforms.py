"""A file's place in the world is read as its header says, in millimetres, or refused; masks lie where images lie."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nifti_bytes import PLACE, SHEARED, STRAIGHT, header_of, nifti, voxels_of

from uda.config.card import Prepare
from uda.data import volumes
from uda.data.geometry import LARGEST, SMALLEST, Geometry, Volume, sheared, unusable
from uda.data.volumes import (
    check_same_grid,
    exact,
    prepare_image,
    read_volume,
    say_remarks,
    write_volume,
)
from uda.errors import DataError
from uda.priors import from_areas_mm2, from_sizes_ml

ARRAY = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
HERE = Path("x.nii.gz")
MATRIX = np.array(STRAIGHT, dtype=float).reshape(3, 4)
NAN, INF = float("nan"), float("inf")
ONLY_QFORM = {"sform_code": 0}
NEITHER = {"sform_code": 0, "qform_code": 0}


def saved(folder: Path, name: str = "x.nii.gz", **fields: Any) -> Path:
    path = folder / name
    content = nifti(ARRAY, **fields)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def geometry_of(path: Path, **prepare: Any) -> Geometry:
    settings = Prepare(**{"size": (6, 6), "normalize": "none", **prepare})
    return prepare_image(read_volume(path), settings, path)[1]


def shifted(millimetres: float) -> list[float]:
    rows = MATRIX.copy()
    rows[:, 3] += millimetres
    return rows.ravel().tolist()


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("which", ["sform", "qform", "neither"])
@pytest.mark.parametrize(
    ("code", "factor", "known"), [(0, 1, False), (1, 1000, True), (2, 1, True), (3, 0.001, True)]
)
def test_lengths_are_millimetres_whatever_their_unit(
    tmp_path: Path, version: int, which: str, code: int, factor: float, known: bool
) -> None:
    """The same image of 1.5×1.5×3 mm in four units; 24 is the unit of time beside it."""
    rows = MATRIX / factor
    fields: dict[str, Any] = {
        "pixdim": (-1, 1.5 / factor, 1.5 / factor, 3 / factor, 0, 0, 0, 0),
        "qoffset": rows[:, 3],
        "srow": rows.ravel(),
        "xyzt_units": code + 24,
    }
    codes = {"sform": {"qform_code": 0}, "qform": ONLY_QFORM, "neither": NEITHER}[which]
    found = read_volume(saved(tmp_path, version=version, **fields, **codes))
    expected = MATRIX.copy()
    if which == "neither":  # nibabel's place: the middle voxel in the origin
        expected[:, 3] = -MATRIX[:, :3] @ (np.array(ARRAY.shape) - 1) / 2
    np.testing.assert_allclose(found.affine[:3], expected, rtol=1e-6)
    assert found.unit_known == known
    assert found.placed == (which != "neither")
    assert not found.remarks


def test_an_undefined_unit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unit of length the code 5"):
        read_volume(saved(tmp_path, xyzt_units=5))


def test_sizes_and_resampling_do_not_depend_on_the_unit(tmp_path: Path) -> None:
    rows = (MATRIX * 1000).ravel()
    pixdim = (-1, 1500, 1500, 3000, 0, 0, 0, 0)
    micron = {"xyzt_units": 3, "srow": rows, "pixdim": pixdim, "qoffset": (2e4, -3e4, 4e4)}
    resampled = {"spacing": 0.75, "slice_spacing": 1.5}
    one = geometry_of(saved(tmp_path, "mm.nii"), **resampled)
    other = geometry_of(saved(tmp_path, "um.nii", **micron), **resampled)
    assert (one.resized, one.depth, one.start) == (other.resized, other.depth, other.start)
    np.testing.assert_allclose(one.prepared_spacing, other.prepared_spacing, rtol=1e-6)
    for make, size in ((from_sizes_ml, 0.05), (from_areas_mm2, 3.0)):
        ratios = [make(("background", "a"), {"a": size}, [g], "none").ratio for g in (one, other)]
        np.testing.assert_allclose(ratios[0], ratios[1], rtol=1e-6)


BROKEN = [0, -1.5, NAN, INF, 1e-30, SMALLEST / 2, LARGEST * 2, 1e30]


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("size", BROKEN)
@pytest.mark.parametrize("codes", [ONLY_QFORM, NEITHER], ids=["qform", "neither"])
def test_an_impossible_pixel_size_alone_is_refused(
    tmp_path: Path, axis: int, size: float, codes: dict[str, int]
) -> None:
    pixdim = [-1, 1.5, 1.5, 3, 0, 0, 0, 0]
    pixdim[axis] = size
    path = saved(tmp_path, pixdim=pixdim, **codes)
    with pytest.raises(DataError, match="says nothing of its pixels' sizes") as caught:
        read_volume(path)
    assert caught.value.where == path
    assert "×" in caught.value.what


@pytest.mark.parametrize("size", BROKEN)
@pytest.mark.parametrize("qform", [0, 1])
def test_beside_an_impossible_pixel_size_the_sform_decides_and_this_is_said(
    tmp_path: Path, size: float, qform: int
) -> None:
    path = saved(tmp_path, pixdim=(-1, 1.5, size, 3, 0, 0, 0, 0), qform_code=qform)
    found = read_volume(path)
    np.testing.assert_allclose(found.affine[:3], MATRIX, rtol=1e-6)
    (remark,) = found.remarks
    assert remark.where == path
    assert remark.what.endswith("The sform decides")


@pytest.mark.parametrize(
    "srow", [[0.0] * 12, [NAN, *STRAIGHT[1:]], [v * 1e6 for v in STRAIGHT], [*STRAIGHT[:8]] * 2]
)
def test_a_broken_sform_leaves_the_word_to_the_qform(tmp_path: Path, srow: list[float]) -> None:
    path = saved(tmp_path, srow=srow[:12])
    found = read_volume(path)
    np.testing.assert_allclose(found.affine[:3], MATRIX, rtol=1e-6)
    assert [r.what for r in found.remarks if "its sform cannot be used" in r.what]
    with pytest.raises(DataError, match="sform: its affine"):
        read_volume(saved(tmp_path, srow=srow[:12], qform_code=0))


def test_a_quaternion_longer_than_one_is_no_qform(tmp_path: Path) -> None:
    assert (
        "its qform cannot be used"
        in read_volume(saved(tmp_path, quatern=(1, 1, 1))).remarks[0].what
    )
    with pytest.raises(DataError, match="qform"):
        read_volume(saved(tmp_path, quatern=(1, 1, 1), **ONLY_QFORM))


def test_transforms_that_disagree_are_both_told_and_the_sform_decides(tmp_path: Path) -> None:
    found = read_volume(saved(tmp_path, srow=shifted(40), sform_code=2))
    np.testing.assert_array_equal(found.affine[:3], MATRIX + np.array([0, 0, 0, 40]))
    (remark,) = found.remarks
    assert f"{40 * 3**0.5:.4g} mm apart" in remark.what
    assert (
        "sform (code 2): axes LAS, pixels 1.5×1.5×3 mm, first voxel at (60, 10, 80)" in remark.what
    )
    assert (
        "qform (code 1): axes LAS, pixels 1.5×1.5×3 mm, first voxel at (20, -30, 40)" in remark.what
    )
    assert remark.what.endswith("The sform decides")
    np.testing.assert_array_equal(found.affine, nibabel.load(tmp_path / "x.nii.gz").affine)


@pytest.mark.parametrize(("apart", "told"), [(0.05, 0), (0.2, 1)])
def test_transforms_agree_up_to_a_tenth_of_a_pixel(tmp_path: Path, apart: float, told: int) -> None:
    rows = shifted(0)
    rows[3] += apart * 1.5
    assert len(read_volume(saved(tmp_path, srow=rows)).remarks) == told


def test_a_pixel_size_that_is_not_the_sforms_is_told(tmp_path: Path) -> None:
    pixdim = (-1, 1, 1, 1, 0, 0, 0, 0)
    (remark,) = read_volume(saved(tmp_path, pixdim=pixdim, qform_code=0)).remarks
    assert "1×1×1 mm by pixdim, 1.5×1.5×3 mm by its sform" in remark.what


def test_a_code_that_is_not_defined_is_told_and_left_aside(tmp_path: Path) -> None:
    found = read_volume(saved(tmp_path, sform_code=9, srow=shifted(40)))
    np.testing.assert_allclose(found.affine[:3], MATRIX, rtol=1e-6)
    assert "its sform has the code 9" in found.remarks[0].what


def test_a_doubt_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    volumes._say.cache_clear()
    for name in ("a.nii", "b.nii", "b.nii"):
        say_remarks(read_volume(saved(tmp_path, name, xyzt_units=0, srow=shifted(40))))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert sum("read as millimetres" in text for text in caplog.messages) == 1
    assert sum("b.nii" in text for text in caplog.messages) == 1


# --- any header, against a reading of its bytes ----------------------------------------------------


def sound(affine: np.ndarray) -> bool:
    sizes = np.sqrt((affine[:, :3] ** 2).sum(0))
    if not (np.isfinite(affine).all() and sizes.min() >= SMALLEST and sizes.max() <= LARGEST):
        return False
    return abs(float(np.linalg.det(affine[:, :3] / sizes))) >= 0.1


def by_quaternion(header: dict[str, Any]) -> np.ndarray:
    """The standard's formula of the qform."""
    b, c, d = header["quatern"]
    a = max(0.0, 1 - b * b - c * c - d * d) ** 0.5
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    hand = -1 if header["pixdim"][0] == -1 else 1
    steps = rotation * (np.array(header["pixdim"][1:4]) * [1, 1, hand])
    return np.column_stack([steps, header["qoffset"]])


def truth(header: dict[str, Any]) -> np.ndarray | None:
    """The affine ``[3, 4]`` in mm, or None where a header must be refused."""
    unit = header["xyzt_units"][0] % 8
    if unit > 3:
        return None
    scale = [1, 1000, 1, 0.001][unit]
    found = []
    if 0 < header["sform_code"][0] <= 5:
        found.append(np.reshape(header["srow"], (3, 4)))
    sizes = np.array(header["pixdim"][1:4])
    measured = bool(np.isfinite(sizes).all() and (sizes > 0).all())
    if 0 < header["qform_code"][0] <= 5:
        long = np.square(header["quatern"]).sum() > 1.001
        found.append(by_quaternion(header) if measured and not long else np.full((3, 4), NAN))
    if not found and measured:
        steps = np.diag(sizes * [-1, 1, 1])
        found.append(np.column_stack([steps, -steps @ (np.array(header["dim"][1:4]) - 1) / 2]))
    return next((affine * scale for affine in found if sound(affine * scale)), None)


ODD = [0, -1, NAN, INF, 1e-6, 1e-3, 0.7, 1, 3, 250, 1e9]


def random_fields(rng: np.random.Generator) -> dict[str, Any]:
    """A header of which a few fields are odd."""
    scale = 10.0 ** rng.integers(-3, 4)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0] * rng.uniform(0.3, 5, 3)
    rotation[:, 2] += rng.choice([0, 0.4]) * rotation[:, 1]
    quatern = rng.normal(size=3)
    fields: dict[str, Any] = {
        "srow": np.column_stack([rotation, rng.normal(size=3) * 50]).ravel() * scale,
        "pixdim": np.array([rng.choice([-1, 0, 1]), *rng.uniform(0.3, 5, 3) * scale, 0, 0, 0, 0]),
        "quatern": quatern / np.linalg.norm(quatern) * rng.choice([0.9, 0.99, 1.1]),
        "qoffset": rng.normal(size=3) * 50 * scale,
        "xyzt_units": int(rng.choice([0, 1, 2, 2, 3, 5, 10])),
        "sform_code": int(rng.choice([-1, 0, 0, 1, 2, 4, 9])),
        "qform_code": int(rng.choice([-1, 0, 1, 1, 3, 9])),
    }
    for name in ("srow", "pixdim", "qoffset"):
        if rng.random() < 0.3:
            at = rng.integers(1 if name == "pixdim" else 0, 4 if name == "pixdim" else 3)
            fields[name][at] = rng.choice(ODD)
    return fields


def test_random_headers_are_read_as_their_bytes_say_or_refused(tmp_path: Path) -> None:
    rng, refusals, count = np.random.default_rng(16), 0, 300
    for number in range(count):
        path = saved(
            tmp_path,
            "x.nii",
            version=1 + number % 2,
            order="<>"[number // 2 % 2],
            **random_fields(rng),
        )
        expected = truth(header_of(path))
        try:
            found = read_volume(path)
        except DataError:
            assert expected is None, header_of(path)
            refusals += 1
            continue
        assert expected is not None, header_of(path)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found.affine[:3], expected, rtol=1e-5, atol=1e-6 * scale)
    assert 0.2 < refusals / count < 0.8  # both ends of the rule were met


# --- sheared files -----------------------------------------------------------------------------

TURNS = list(itertools.permutations(range(3)))


def oblique(seed: int) -> np.ndarray:
    """A random sheared affine, with axes in any order and of either hand."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = rng.uniform(-0.5, 0.5, 3)
    affine = np.eye(4)
    affine[:3, :3] = (rotation @ shear @ np.diag(rng.uniform(0.5, 4, 3)))[:, TURNS[seed % 6]]
    affine[:3, 3] = rng.normal(size=3) * 50
    return affine


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("orientation", ["stored", "RAS"])
def test_volumes_and_areas_of_a_sheared_file_go_through_the_affine(
    seed: int, orientation: str
) -> None:
    affine = oblique(seed)
    prepare = Prepare(
        size=(6, 6), normalize="none", orientation=orientation, spacing=0.9, slice_spacing=1.3
    )
    geometry = prepare_image(Volume(ARRAY, affine), prepare, HERE)[1]
    rows, columns = geometry.resized
    whole = ARRAY.size * abs(np.linalg.det(affine[:3, :3]))  # mm³, of the file
    own = {to: affine[:3, axis] for axis, (to, _) in enumerate(geometry.turn)}
    plane = [own[to] for to in range(3) if to != geometry.slice_axis]
    area = np.linalg.norm(np.cross(*plane)) * np.prod(geometry.turned_shape[1:])  # mm², of a slice
    voxel, pixel = whole / (geometry.depth * rows * columns), area / (rows * columns)
    cut, classes = 36, ("background", "a")
    ml, mm2 = 1e-4 * geometry.depth * cut * voxel, 1e-1 * cut * pixel
    assert from_sizes_ml(classes, {"a": ml / 1000}, [geometry], "none").ratio[1] == pytest.approx(
        1e-4, rel=1e-9
    )
    assert from_areas_mm2(classes, {"a": mm2}, [geometry], "none").ratio[1] == pytest.approx(
        1e-1, rel=1e-9
    )
    through, row, column = geometry.turned_spacing
    assert [row, column] == pytest.approx([np.linalg.norm(step) for step in plane], rel=1e-12)
    assert through == pytest.approx(whole / area / geometry.turned_shape[0], rel=1e-9)


def test_axes_that_nearly_lie_in_one_plane_are_refused(tmp_path: Path) -> None:
    flat = [1.0, 0.0, 0.999, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.0]
    with pytest.raises(DataError, match="nearly lie in one plane"):
        read_volume(saved(tmp_path, srow=flat, qform_code=0))


def test_an_affine_of_another_reader_that_is_too_large_is_refused() -> None:
    for size in (1e9, 1e200):
        assert "beyond 0.0001 to 100 mm" in str(unusable(np.diag([1.0, 1.0, size, 1.0])))


def test_rounding_to_float32_is_no_shear() -> None:
    for seed in range(200):
        rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3] = (rotation * [0.3, 0.7, 9]).astype(np.float32)
        assert not sheared(affine)
        assert sheared(oblique(seed))


# --- masks ---------------------------------------------------------------------------------------

PLACES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sheared": {"srow": SHEARED},
    "disagree": {"srow": shifted(40), "sform_code": 2, "qform_code": 3},
    "qform alone": {**ONLY_QFORM, "srow": [0.0] * 12},
    "neither": NEITHER,
    "micron": {
        "xyzt_units": 3 + 8,
        "srow": [v * 100 for v in STRAIGHT],
        "pixdim": (-1, 150, 150, 300, 2, 0, 0, 0),
        "qoffset": (2000, -3000, 4000),
    },
    "unknown unit": {"xyzt_units": 0},
    "broken pixdim": {"pixdim": (-1, 1.5, 0, NAN, 0, 0, 0, 0)},
    "qfac 0": {"pixdim": (0, 1.5, 1.5, 3, 0, 0, 0, 0), "qform_code": 0},
    "five axes": {"dim": (5, *ARRAY.shape, 1, 1, 1, 1)},
    "tail of 0": {"dim": (3, *ARRAY.shape, 0, 0, 0, 0)},
    "scaled": {"scl_slope": 2.5, "scl_inter": -7},
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", PLACES)
def test_a_mask_says_of_its_place_what_its_image_says(
    tmp_path: Path, version: int, order: str, name: str
) -> None:
    path = saved(tmp_path, version=version, order=order, **PLACES[name])
    image = read_volume(path)
    labels = (ARRAY % 7).astype(np.uint8)
    mask = tmp_path / "mask.nii.gz"
    write_volume(mask, labels, image.affine, header=image.header)
    one, other = header_of(path), header_of(mask)
    for field in PLACE:
        np.testing.assert_array_equal(one[field], other[field], field)
    assert other["sizeof_hdr"] == one["sizeof_hdr"]
    assert (other["datatype"], other["bitpix"]) == ((2,), (8,))
    assert (other["scl_slope"], other["scl_inter"]) == ((1,), (0,))
    assert other["dim"][:4] == (3, *ARRAY.shape)
    np.testing.assert_array_equal(voxels_of(mask), labels.ravel(order="F"))
    by_nibabel = [nibabel.load(p).affine for p in (path, mask)]
    np.testing.assert_array_equal(*by_nibabel)
    np.testing.assert_array_equal(read_volume(mask).affine, image.affine)


def test_an_entropy_map_lies_there_too_and_keeps_its_scale(tmp_path: Path) -> None:
    image = read_volume(saved(tmp_path, **PLACES["disagree"]))
    path = tmp_path / "entropy.nii.gz"
    write_volume(
        path, np.full(ARRAY.shape, 255, np.uint8), None, slope=1 / 255, header=image.header
    )
    assert header_of(path)["srow"] == header_of(tmp_path / "x.nii.gz")["srow"]
    assert nibabel.load(path).get_fdata().max() == pytest.approx(1)


# --- axes, scales, label and image -----------------------------------------------------------------


@pytest.mark.parametrize("axes", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("packed", [".nii", ".nii.gz"])
def test_trailing_axes_of_one_are_no_axes(tmp_path: Path, axes: int, packed: str) -> None:
    path = saved(tmp_path, f"x{packed}", dim=(axes, *ARRAY.shape, 1, 1, 1, 1))
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)


@pytest.mark.parametrize(
    "dim", [(4, 6, 5, 2, 2), (5, 6, 5, 2, 1, 2), (5, 6, 5, 1, 2, 2), (2, 6, 20)]
)
def test_times_vectors_and_planes_are_refused(tmp_path: Path, dim: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"has shape \("):
        read_volume(saved(tmp_path, dim=(*dim, 1, 1, 1, 1, 1)[:8]))


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [(0, 3, ARRAY), (NAN, 3, ARRAY), (0, NAN, ARRAY), (2, -5, 2.0 * ARRAY - 5)],
)
def test_a_slope_of_zero_or_nan_scales_nothing(
    tmp_path: Path, slope: float, intercept: float, expected: np.ndarray
) -> None:
    path = saved(tmp_path, scl_slope=slope, scl_inter=intercept)
    np.testing.assert_array_equal(read_volume(path).array, expected)


def test_an_analyze_file_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is an Analyze 7\.5 file"):
        read_volume(saved(tmp_path, magic=b"\0\0\0\0"))


@pytest.mark.parametrize("fields", [{"vox_offset": 0}, {"magic": b"ni1\0", "vox_offset": 0}])
def test_voxels_inside_the_header_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"within the header|header of a pair"):
        read_volume(saved(tmp_path, **fields))


def test_a_label_on_a_micron_grid_is_compared_in_pixels(tmp_path: Path) -> None:
    fine = {"xyzt_units": 3, "qform_code": 0}
    image = saved(tmp_path, "image.nii", **fine)
    geometry = geometry_of(image)
    moved = MATRIX.copy()
    moved[0, 3] += 0.15  # a tenth of a pixel of 1.5 µm
    label = read_volume(saved(tmp_path, "label.nii", srow=moved.ravel(), **fine))
    check_same_grid(read_volume(image), geometry, HERE)
    with pytest.raises(DataError, match="differs from the image's"):
        check_same_grid(label, geometry, HERE)


def test_a_label_in_another_unit_lies_on_its_image(tmp_path: Path) -> None:
    geometry = geometry_of(saved(tmp_path, "image.nii"))
    rows = MATRIX * 1000
    label = saved(tmp_path, "label.nii", srow=rows.ravel(), xyzt_units=3, qform_code=0)
    check_same_grid(read_volume(label), geometry, HERE)


def test_a_small_difference_of_pixels_adds_up_to_the_far_corner() -> None:
    affine = np.eye(4)
    array = np.zeros((700, 8, 8), np.int16)
    array[350:] = 1
    geometry = prepare_image(Volume(array, affine), Prepare(size=(8, 8)), HERE)[1]
    longer = affine.copy()
    longer[0, 0] += 9e-4
    with pytest.raises(DataError, match=r"voxels lie up to 0\.6291 mm apart"):
        check_same_grid(Volume(array, longer), geometry, HERE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.float32(204.9999), "204.9999"),
        (np.float64(204.9999), "204.9999"),
        (np.float64(205.0), "205"),
        (np.float64(204.99999999), "204.99999999"),
        (np.int32(1234567), "1234567"),
        (np.uint32(2**32 - 1), str(2**32 - 1)),
        (np.float64(1e300), "1e+300"),
        (np.uint64(2**64 - 1), str(2**64 - 1)),
        (np.float32(-0.1), "-0.1"),
        (np.uint8(7), "7"),
    ],
)
def test_values_are_shown_as_they_are(value: Any, shown: str) -> None:
    assert exact(value) == shown


# --- endings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.NII", "x.NII.GZ", "x.Nii.Gz", "x.img"])
def test_a_file_is_read_by_its_content_whatever_its_name(tmp_path: Path, name: str) -> None:
    content = nifti(ARRAY)
    half = len(content) // 2
    members = gzip.compress(content[:half]) + gzip.compress(content[half:])
    for data in (content, gzip.compress(content), members):
        (tmp_path / name).write_bytes(data)
        found = read_volume(tmp_path / name)
        np.testing.assert_array_equal(found.array, ARRAY)
        np.testing.assert_array_equal(found.affine[:3], MATRIX)
