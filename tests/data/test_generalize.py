"""Changes that make a source model travel: each against its definition, and all of them together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional

from uda.config.augment import GENERALIZE, Augment, Bezier, ClassBezier, Convolve, LowResolution
from uda.config.fields import WHOLE
from uda.data.augment import augment, augment_batch
from uda.data.augment.acquisition import low_resolution
from uda.data.augment.convolutions import convolve
from uda.data.augment.draws import Draws
from uda.data.augment.fields import control_points, smooth_field
from uda.data.augment.geometry import random_affine
from uda.data.augment.intensity_maps import bezier, class_bezier
from uda.types import IGNORE, Batch, SourceBatch, TargetBatch

ALWAYS: dict[str, dict[str, Any]] = {
    "class_bezier": {"p": 1},
    "bezier": {"p": 1, "inverted": 0.5},
    "location_scale": {"p": 1},
    "convolve": {"p": 1, "spacing": 12},
    "bias": {"p": 1, "spacing": 12},
    "low_resolution": {"p": 1},
    "elastic": {"p": 1, "spacing": 12, "displacement": 3},
    "mask": {"block": 8, "ratio": 0.5},
}
APPEARANCE = [name for name in ALWAYS if name != "elastic"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def only(name: str, **changes: Any) -> Augment:
    return Augment.model_validate({name: {**ALWAYS[name], **changes}})


def image(count: int = 4, side: int = 32, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, side, side, generator=generator(1))


def label(count: int = 4, side: int = 32) -> torch.Tensor:
    values = torch.tensor([0, 1, 2, IGNORE])
    blocks = values[torch.randint(4, (count, side // 4, side // 4), generator=generator(2))]
    return blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)


def draws(seed: int = 0, count: int = 4) -> Draws:
    return Draws(seed, "test", count, torch.device("cpu"))


@pytest.mark.parametrize("name", ALWAYS)
def test_each_change_is_a_function_of_its_seed(name: str) -> None:
    x, y = image(), label()
    first, again, other = (augment(x, y, only(name), generator(s))[0] for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, x)
    assert bool(first.isfinite().all())
    assert (first.shape, first.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize("name", APPEARANCE)
def test_a_volume_of_one_slice_changes_as_the_image(name: str) -> None:
    x, y = image(), label()
    flat, _ = augment(x, y, only(name), generator(3))
    deep, _ = augment(x[:, :, None], y[:, None], only(name), generator(3))
    torch.testing.assert_close(deep[:, :, 0], flat)


def test_elastic_moves_every_slice_of_a_volume_alike() -> None:
    x, y = image(), label()
    flat, moved = augment(x, y, only("elastic"), generator(3))
    volume = x[:, :, None].expand(-1, -1, 3, -1, -1)
    settings = only("elastic")
    draw = generator(3)
    deep, deep_label = augment(volume, y[:, None].expand(-1, 3, -1, -1), settings, draw)
    assert moved is not None
    assert deep_label is not None
    for number in range(3):
        torch.testing.assert_close(deep[:, :, number], flat, atol=1e-4, rtol=1e-4)
        assert (deep_label[:, number] == moved).float().mean() > 0.999


@pytest.mark.parametrize("name", APPEARANCE)
def test_a_constant_image_stays_finite(name: str) -> None:
    flat = torch.full((4, 1, 32, 32), 0.7)
    changed, _ = augment(flat, label(), only(name), generator(3))
    assert bool(changed.isfinite().all())


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_a_share_of_the_images_is_chosen_and_the_others_stay(p: float) -> None:
    counts = []
    for seed in range(200):
        x = image()
        changed, _ = augment(x, None, only("bias", p=p), generator(seed))
        counts.append(sum(not torch.equal(a, b) for a, b in zip(x, changed, strict=True)))
    assert np.mean(counts) == pytest.approx(4 * p, abs=0.12)
    assert set(counts) <= {int(4 * p), int(np.ceil(4 * p))}


def test_one_change_does_not_move_the_draws_of_another() -> None:
    x = image(8)
    masks = Augment.model_validate({"bias": {"p": 0.5}, "mask": {"block": 8, "ratio": 0.5}})
    alone, _ = augment(x, None, Augment.model_validate({"bias": {"p": 0.5}}), generator(5))
    both, _ = augment(x, None, masks, generator(5))
    hidden = both == alone.mean((2, 3), keepdim=True)
    assert 0.3 < float(hidden.float().mean()) < 0.7
    assert torch.equal(both[~hidden], alone[~hidden])


@pytest.mark.parametrize("inverted", [0.0, 1.0])
def test_a_bezier_curve_keeps_or_turns_the_order_of_intensities(inverted: float) -> None:
    x = image()
    changed = bezier(x, Bezier(p=1, inverted=inverted), draws())
    for before, after in zip(x.flatten(1), changed.flatten(1), strict=True):
        steps = after[before.argsort()].diff()
        assert bool((steps <= 1e-5).all() if inverted else (steps >= -1e-5).all())
        assert float(after.mean()) == pytest.approx(float(before.mean()), abs=1e-4)
        assert float(after.std()) == pytest.approx(float(before.std()), rel=1e-4)
    assert len({round(float(v), 3) for v in changed[:, 0, 0, 0]}) > 1


def test_class_maps_never_leak_between_structures() -> None:
    """A pixel's new value is one monotone function of its own value for each class, whatever stands beside it."""
    x, y = image(2, 64), label(2, 64)
    settings = ClassBezier(p=1, inverted=0.5)
    changed = class_bezier(x, y, settings, draws(0, 2))
    span = x.amax((1, 2, 3)) - x.amin((1, 2, 3))
    seen = []
    for row in range(2):
        for value in (0, 1, 2, IGNORE):
            bright = (x[row, 0] - x[row].min()) / span[row] > 0.02
            here = (y[row] == value) & bright
            order = x[row, 0][here].argsort()
            steps = changed[row, 0][here][order].diff()
            assert bool((steps >= -1e-5).all()) or bool((steps <= 1e-5).all())
            seen.append(float(steps.sum()))
    assert len({round(one, 3) for one in seen}) > 4  # each its own
    # Moving pixels together with their labels moves the result alike.
    settings = ClassBezier(p=1, shift=0)
    order = torch.randperm(64 * 64, generator=generator(9))
    there = class_bezier(x, y, settings, draws(0, 2))
    back = class_bezier(
        x.flatten(2)[..., order].view_as(x),
        y.flatten(1)[:, order].view_as(y),
        settings,
        draws(0, 2),
    )
    torch.testing.assert_close(back.flatten(2), there.flatten(2)[..., order], atol=1e-4, rtol=1e-4)


def test_class_maps_of_pixels_of_one_value_differ_by_class_alone() -> None:
    x = torch.full((1, 1, 32, 32), 0.5)
    x[..., :2, :], x[..., -2:, :] = 0.0, 1.0
    y = torch.zeros(1, 32, 32, dtype=torch.long)
    y[:, 2:-2, :10], y[:, 2:-2, 10:20] = 1, 2
    changed = class_bezier(x, y, ClassBezier(p=1), draws(0, 1))[0, 0, 2:-2]
    for part in (changed[:, :10], changed[:, 10:20], changed[:, 20:]):
        assert float(part.max() - part.min()) < 1e-6
    assert len({round(float(v), 4) for v in changed[0, [0, 10, 20]]}) == 3


def test_an_unlabelled_image_has_no_class_maps() -> None:
    x = image()
    changed, _ = augment(x, None, only("class_bezier"), generator(3))
    assert torch.equal(changed, x)


def test_a_curve_is_for_images_that_the_class_maps_left_alone() -> None:
    x, y = image(8), label(8)
    half = {"class_bezier": {"p": 0.5}}
    mapped, _ = augment(x, y, Augment.model_validate(half), generator(3))
    both, _ = augment(x, y, Augment.model_validate({**half, "bezier": {"p": 1}}), generator(3))
    by_class = [not torch.equal(a, b) for a, b in zip(x, mapped, strict=True)]
    assert sum(by_class) == 4
    for number, classes in enumerate(by_class):
        assert torch.equal(both[number], mapped[number]) == classes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_random_network_against_one_convolution_after_another(channels: int, mixed: bool) -> None:
    x = image(3, 20, channels)
    settings = Convolve(p=1, blend=False, mix_channels=mixed)
    found = convolve(x, settings, draws(0, 3))
    again, width = draws(0, 3), channels if mixed else 1
    layers, inputs = [], width
    for layer in range(4):
        outputs = width if layer == 3 else 2
        kernel = again.normal(3, outputs, inputs, 3, 3)
        wide = again.uniform(3, 1, 1, 1, 1) < 0.5
        layers.append((kernel, wide, again.normal(3, outputs)))
        inputs = outputs
    alpha = again.uniform(3)
    for row in range(3):
        groups = x[row][None] if mixed else x[row][:, None]
        y = groups
        for number, (kernel, wide, shift) in enumerate(layers):
            own = kernel[row] if bool(wide[row]) else kernel[row][..., 1:2, 1:2]
            y = functional.conv2d(y, own, shift[row], padding=own.shape[-1] // 2)
            y = functional.leaky_relu(y) if number < 3 else y
        y = alpha[row] * y + (1 - alpha[row]) * groups
        y = y * groups.norm() / y.norm()
        torch.testing.assert_close(found[row].reshape(y.shape), y, atol=1e-4, rtol=1e-4)


def test_blending_lies_between_two_networks_and_moves_smoothly() -> None:
    x = image(2, 48)
    settings = Convolve(p=1, spacing=24)
    blended = convolve(x, settings, draws(0, 2))
    own = draws(0, 2)
    first = convolve(x, settings.model_copy(update={"blend": False}), own)
    points = control_points(48, 24.0)
    field = smooth_field(own.uniform(2, points, points), 48, 48, 24.0)
    second = convolve(x, settings.model_copy(update={"blend": False}), own)
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    assert bool(((blended >= low - 1e-5) & (blended <= high + 1e-5)).all())
    share = (blended - second) / (first - second)
    sure = ((first - second).abs() > 0.2)[:, 0]
    ends = field.amin((1, 2), keepdim=True), field.amax((1, 2), keepdim=True)
    expected = (field - ends[0]) / (ends[1] - ends[0])
    torch.testing.assert_close(share[:, 0][sure], expected[sure], atol=1e-3, rtol=0)


@pytest.mark.parametrize(("pixels", "spacing"), [(32, 12.0), (31, 4.0), (7, 30.0), (1, 8.0)])
def test_a_field_is_the_quadratic_spline_of_its_control_points(pixels: int, spacing: float) -> None:
    count = control_points(pixels, spacing)
    control = torch.randn(1, count, count, generator=generator(4))
    field = smooth_field(control, pixels, pixels, spacing)[0]
    at = np.arange(pixels) / spacing
    knots = np.arange(count + 3) - 2.5
    basis = np.stack(
        [BSpline(knots, np.eye(count)[i], 2, extrapolate=False)(at) for i in range(count)], 1
    )
    np.testing.assert_allclose(field, basis @ control[0].numpy() @ basis.T, atol=1e-5)
    np.testing.assert_allclose(basis.sum(1), 1)


def test_low_resolution_is_means_of_blocks_and_lines_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Draws, "uniform", lambda self, *size: torch.ones(size))
    x = image(1, 12)
    found = low_resolution(x, LowResolution(p=1, factor=3.0), draws(0, 1))[0, 0].numpy()
    small = x[0, 0].numpy().reshape(4, 3, 4, 3).mean((1, 3))
    centres, at = np.arange(4) * 3 + 1, np.arange(12)
    rows = np.stack([np.interp(at, centres, column) for column in small.T], 1)
    expected = np.stack([np.interp(at, centres, row) for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_low_resolution_of_a_ramp_stays_inside_it_and_a_constant_stays() -> None:
    ramp = torch.arange(30.0).expand(4, 1, 30, 30).contiguous()
    changed = low_resolution(ramp, LowResolution(p=1, factor=4.0), draws())
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 29
    inner = changed[..., 8:-8]
    torch.testing.assert_close(inner, ramp[..., 8:-8], atol=0.2, rtol=0)


def test_a_bias_field_multiplies_what_is_above_the_least_value() -> None:
    x = image()
    changed, _ = augment(x, None, only("bias", strength=0.5), generator(3))
    low = x.amin((1, 2, 3), keepdim=True)
    field = ((changed - low) / (x - low).clamp_min(1e-6))[(x - low) > 0.1]
    assert float(field.min()) >= np.exp(-0.5) - 1e-4
    assert float(field.max()) <= np.exp(0.5) + 1e-4


def test_a_mask_hides_whole_blocks() -> None:
    x = image(8, 64)
    changed, _ = augment(x, None, only("mask", block=16, ratio=0.7), generator(3))
    blocks = (changed != x).view(8, 4, 16, 4, 16).movedim(2, 3).flatten(3).float().mean(3)
    assert set(blocks.round(decimals=1).flatten().tolist()) == {0.0, 1.0}
    assert float(blocks.round().mean()) == pytest.approx(0.7, abs=0.15)
    means = x.mean((2, 3), keepdim=True).expand_as(x)
    assert torch.equal(changed[changed != x], means[changed != x])


def test_a_block_larger_than_the_image_hides_all_of_it_or_nothing() -> None:
    x = image(8, 64)
    changed, _ = augment(x, None, only("mask", block=10**9, ratio=0.5), generator(3))
    hidden = (changed != x).flatten(1).float().mean(1)
    assert set(hidden.tolist()) == {0.0, 1.0}


def test_shear_moves_rows_along_x_alone() -> None:
    x = torch.zeros(200, 1, 20, 40)
    affine = random_affine(x, Augment(shear=30), generator())
    assert torch.allclose(affine[:, 0, 0], torch.ones(200))
    assert torch.allclose(affine[:, 1], torch.tensor([0.0, 1.0, 0.0]).expand(200, 3))
    slope = affine[:, 0, 1] * 40 / 20  # of x on y in pixels
    degrees = torch.rad2deg(torch.atan(slope))
    assert float(degrees.abs().max()) == pytest.approx(30, abs=0.5)


@pytest.mark.parametrize("name", GENERALIZE)
def test_a_named_set_moves_labels_with_images(name: str) -> None:
    settings = Augment.model_validate({"generalize": name})
    y = (label(4, 48) == 1).long()
    geometry = settings.model_dump(
        include={"rotate", "scale", "shift", "mirror", "shear", "elastic"}
    )
    x = y[:, None].float()
    x = x if "photo" not in name else x.repeat(1, 3, 1, 1)
    changed, moved = augment(x, y, Augment.model_validate(geometry), generator(3))
    _, alone = augment(x, y, settings, generator(3))
    assert moved is not None
    assert alone is not None
    assert torch.equal(moved, alone)  # appearance does not move a label
    for value in (0, 1):
        sure = changed[:, 0] == value
        assert int(sure.sum()) > 300
        assert bool((moved[sure] == value).all())


def test_settings_beside_a_named_set_replace_its_own() -> None:
    strong = Augment.model_validate({"generalize": "strong"})
    assert strong.convolve is not None
    changed = Augment.model_validate({"generalize": "strong", "convolve": None, "rotate": 0})
    assert (changed.convolve, changed.rotate, changed.bias) == (None, 0, strong.bias)
    assert Augment.model_validate(changed.model_dump(mode="json")) == changed
    assert Augment.model_validate(changed.model_dump(mode="json", context=WHOLE)) == changed


def test_settings_from_before_have_the_dump_from_before() -> None:
    assert set(Augment(rotate=3).model_dump()) == {
        *("rotate", "scale", "shift", "flip", "mirror", "gamma", "contrast"),
        *("brightness", "noise", "color", "blur"),
    }


def test_two_views_have_one_geometry_and_two_appearances() -> None:
    x, y = image(), label()
    settings = Augment.model_validate({"generalize": "strong", "views": 2})
    batch, _ = augment_batch(Batch(source=SourceBatch(x, y)), [], settings, generator(3))
    source = batch.source
    assert source is not None
    assert len(source.image) == len(source.label) == 8
    assert torch.equal(source.label[:4], source.label[4:])
    assert not any(torch.equal(a, b) for a, b in source.image.view(2, 4, -1).unbind(1))


def test_source_and_target_of_a_step_have_their_own_draws() -> None:
    x = image()
    both = Batch(SourceBatch(x, label()), TargetBatch(x, torch.arange(4)))
    batch, _ = augment_batch(both, [None], only("bias"), generator(3))
    assert batch.source is not None
    assert batch.target is not None
    assert not torch.equal(batch.source.image, batch.target.image)
