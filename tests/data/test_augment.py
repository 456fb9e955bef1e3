"""Augmentation: one generator is the only randomness, labels follow the image and stay labels, no shear."""

from __future__ import annotations

import math

import pytest
import torch

from uda.config.augment import Augment
from uda.data.augment import augment, geometry, intensity

EVERYTHING = Augment(
    rotate=30, scale=0.2, shift=0.1, flip=True, gamma=0.3, contrast=0.2, brightness=0.2, noise=0.1
)
RECORDED = ([25.804914, 55.187164], [[3, 2, 1, 0], [6, 5, 5, 5]])
GEOMETRY = Augment(rotate=40, scale=0.3, shift=0.1, flip=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(height: int = 24, width: int = 24, images: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images and blocky labels of the values 0, 1, 2 and 255."""
    image = torch.randn(images, 1, height, width, generator=generator(1))
    values = torch.tensor([0, 1, 2, 255])
    blocks = values[torch.randint(4, (images, height // 4, width // 4), generator=generator(2))]
    return image, blocks.repeat_interleave(4, 1).repeat_interleave(4, 2)


@pytest.fixture
def extreme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every uniform draw is its upper bound."""
    for module in (geometry, intensity):
        monkeypatch.setattr(
            module, "uniform", lambda image, bound, _: torch.full((image.shape[0],), float(bound))
        )


def test_same_seed_same_bits_and_another_seed_others() -> None:
    image, label = draw()
    first = augment(image, label, EVERYTHING, generator(7))
    second = augment(image, label, EVERYTHING, generator(7))
    other = augment(image, label, EVERYTHING, generator(8))
    assert first[1] is not None
    assert second[1] is not None
    assert other[1] is not None
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])


def test_the_global_random_state_plays_no_part() -> None:
    image, _ = draw()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, _ = augment(image, None, EVERYTHING, generator(7))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(augment(image, None, EVERYTHING, generator(7))[0], first)


def test_an_image_changes_alike_with_and_without_a_label() -> None:
    image, label = draw()
    with_label, _ = augment(image, label, EVERYTHING, generator(7))
    assert torch.equal(augment(image, None, EVERYTHING, generator(7))[0], with_label)


def test_each_image_of_a_batch_changes_in_its_own_way() -> None:
    image, _ = draw()
    same = image[:1].expand(6, -1, -1, -1).contiguous()
    changed, _ = augment(same, None, GEOMETRY, generator())
    assert len({row.numpy().tobytes() for row in changed}) == 6


def test_settings_of_0_change_nothing() -> None:
    image, label = draw()
    found = augment(image, label, Augment(), generator())
    assert torch.equal(found[0], image)
    assert found[1] is label


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("shape", [(24, 24), (20, 36)])
def test_shape_and_type_stay(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    image, label = draw(*shape)
    label = label.to(dtype)
    changed, moved = augment(image, label, EVERYTHING, generator())
    assert moved is not None
    assert (changed.shape, changed.dtype) == (image.shape, image.dtype)
    assert (moved.shape, moved.dtype) == (label.shape, dtype)


def test_labels_get_no_new_values() -> None:
    _, label = draw()
    for seed in range(5):
        _, moved = augment(label[:, None].float(), label, GEOMETRY, generator(seed))
        assert moved is not None
        assert set(moved.unique().tolist()) <= {0, 1, 2, 255}


@pytest.mark.parametrize("shape", [(24, 24), (20, 36)])
def test_a_label_moves_with_its_image(shape: tuple[int, int]) -> None:
    """Where the interpolated image of a label is one of its values, the moved label is that value."""
    _, label = draw(*shape)
    label = (label == 1).long()
    changed, moved = augment(label[:, None].float(), label, GEOMETRY, generator(3))
    assert moved is not None
    for value in (0, 1):
        sure = changed[:, 0] == value
        assert sure.sum() > 300
        assert bool((moved[sure] == value).all())


def test_mirroring_moves_image_and_label_exactly() -> None:
    image, label = draw()
    changed, moved = augment(image, label, Augment(flip=True), generator(1))
    assert moved is not None
    seen = set()
    for row in range(len(image)):
        for axes in ((), (0,), (1,), (0, 1)):
            if torch.allclose(changed[row, 0], image[row, 0].flip(axes), atol=1e-5):
                assert torch.equal(moved[row], label[row].flip(axes))
                seen.add(axes)
                break
        else:
            pytest.fail(f"image {row} is no mirror image of itself")
    assert len(seen) > 1


@pytest.mark.usefixtures("extreme")
def test_90_degrees_of_a_square_is_rot90() -> None:
    image, label = draw()
    changed, moved = augment(image, label, Augment(rotate=90), generator())
    assert moved is not None
    torch.testing.assert_close(changed, torch.rot90(image, 1, (2, 3)), atol=1e-4, rtol=0)
    assert torch.equal(moved, torch.rot90(label, 1, (1, 2)))


def moments(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centroid (row, column) and 2 × 2 covariance of a bright shape, in pixels."""
    rows, columns = torch.meshgrid(*map(torch.arange, picture.shape), indexing="ij")
    points = torch.stack([rows, columns]).reshape(2, -1).double()
    weight = picture.double().flatten() / picture.double().sum()
    centre = (points * weight).sum(1)
    offset = points - centre[:, None]
    return centre, (offset * weight) @ offset.T


def disk(height: int, width: int, row: float, column: float, radius: float = 7) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = torch.hypot(rows - row, columns - column)
    return (radius + 0.5 - distance).clamp(0, 1)[None, None]


@pytest.mark.usefixtures("extreme")
@pytest.mark.parametrize("degrees", [20, 45, 90])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (80, 48)])
def test_rotation_turns_about_the_middle_without_shear(
    degrees: float, shape: tuple[int, int]
) -> None:
    middle = torch.tensor([(shape[0] - 1) / 2, (shape[1] - 1) / 2], dtype=torch.float64)
    offset = torch.tensor([4.0, 9.0], dtype=torch.float64)
    image = disk(*shape, *(middle + offset).tolist())
    turned, _ = augment(image, None, Augment(rotate=degrees), generator())
    before, after = moments(image[0, 0]), moments(turned[0, 0])
    torch.testing.assert_close(after[1], before[1], atol=0.3, rtol=0)  # still a disk of that size
    angle = math.radians(degrees)
    row = math.cos(angle) * offset[0] - math.sin(angle) * offset[1]
    column = math.sin(angle) * offset[0] + math.cos(angle) * offset[1]
    torch.testing.assert_close(after[0] - middle, torch.stack([row, column]), atol=0.05, rtol=0)


@pytest.mark.usefixtures("extreme")
def test_scale_and_shift_are_fractions_of_the_image() -> None:
    image = disk(60, 100, 29.5, 49.5, radius=10)
    centre, spread = moments(augment(image, None, Augment(shift=0.1), generator())[0][0, 0])
    torch.testing.assert_close(
        centre, torch.tensor([29.5 - 6, 49.5 - 10], dtype=torch.float64), atol=0.05, rtol=0
    )
    _, smaller = moments(augment(image, None, Augment(scale=0.25), generator())[0][0, 0])
    torch.testing.assert_close(smaller, spread / 1.25**2, atol=0.4, rtol=0)


def test_gamma_keeps_the_range_and_the_order_of_intensities() -> None:
    image, _ = draw()
    changed, _ = augment(image, None, Augment(gamma=0.5), generator())
    assert not torch.allclose(changed, image, atol=1e-2)
    for old, new in zip(image.flatten(1), changed.flatten(1), strict=True):
        assert float(new.min()) == pytest.approx(float(old.min()), abs=1e-4)
        assert float(new.max()) == pytest.approx(float(old.max()), abs=1e-4)
        assert bool((new[old.argsort()].diff() >= -1e-6).all())


@pytest.mark.usefixtures("extreme")
def test_brightness_contrast_and_noise_are_in_units_of_the_images_own_sd() -> None:
    image = 50 + 20 * draw(64, 64)[0]
    brighter, _ = augment(image, None, Augment(brightness=0.5), generator())
    torch.testing.assert_close(
        (brighter - image).mean((1, 2, 3)), 0.5 * image.std((1, 2, 3)), atol=1e-2, rtol=0
    )
    stronger, _ = augment(image, None, Augment(contrast=0.3), generator())
    torch.testing.assert_close(
        stronger.std((1, 2, 3)), 1.3 * image.std((1, 2, 3)), atol=1e-2, rtol=0
    )
    noisy, _ = augment(image, None, Augment(noise=0.2), generator())
    torch.testing.assert_close(
        (noisy - image).std((1, 2, 3)), 0.2 * image.std((1, 2, 3)), atol=0, rtol=0.05
    )


def test_a_constant_image_stays_finite() -> None:
    constant = torch.full((2, 1, 8, 8), 3.0)
    changed, _ = augment(constant, None, EVERYTHING, generator())
    torch.testing.assert_close(changed, constant)


def test_in_the_plane_the_draws_and_their_order_are_as_they_were() -> None:
    """Values recorded before volumes were augmented too: old runs repeat themselves."""
    image = torch.arange(2 * 6 * 7, dtype=torch.float32).reshape(2, 1, 6, 7)
    label = torch.arange(2 * 6 * 7).reshape(2, 6, 7) // 9
    changed, moved = augment(image, label, EVERYTHING, generator(5))
    assert moved is not None
    torch.testing.assert_close(changed[:, 0, 2, 3], torch.tensor(RECORDED[0]), atol=1e-4, rtol=0)
    assert moved[:, 1, ::2].tolist() == RECORDED[1]


# volumes


def draw_volume(shape: tuple[int, int, int] = (6, 12, 16)) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.randn(8, 1, *shape, generator=generator(1))
    blocks = torch.randint(4, (8, *(n // 2 for n in shape)), generator=generator(2))
    for axis in (1, 2, 3):
        blocks = blocks.repeat_interleave(2, axis)
    return image, blocks


def test_a_volume_keeps_its_shape_its_type_and_its_labels_values() -> None:
    image, label = draw_volume()
    changed, moved = augment(image, label, EVERYTHING, generator())
    assert moved is not None
    assert changed.shape == image.shape
    assert changed.dtype == torch.float32
    assert (moved.shape, moved.dtype) == (label.shape, label.dtype)
    assert set(moved.unique().tolist()) <= {0, 1, 2, 3}
    assert not torch.allclose(changed, image, atol=0.1)
    again = augment(image, label, EVERYTHING, generator())
    assert torch.equal(again[0], changed)


def test_a_volumes_label_moves_with_it_and_so_do_maps() -> None:
    _, label = draw_volume((8, 16, 16))
    label = (label == 1).long()
    changed, moved = augment(label[:, None].float(), label, GEOMETRY, generator(3))
    assert moved is not None
    for value in (0, 1):
        sure = changed[:, 0] == value
        assert sure.sum() > 100
        assert bool((moved[sure] == value).all())
    maps = torch.stack([label.float(), 1 - label.float()], 1)
    _, both = augment(label[:, None].float(), maps, GEOMETRY, generator(3))
    assert both is not None
    torch.testing.assert_close(both[:, 0], moved.float())
    torch.testing.assert_close(both[:, 1], 1 - moved.float())


def test_a_volume_is_mirrored_along_all_three_axes() -> None:
    image, label = draw_volume()
    changed, moved = augment(image, label, Augment(flip=True), generator(1))
    assert moved is not None
    seen = set()
    for row in range(len(image)):
        for axes in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
            if torch.allclose(changed[row, 0], image[row, 0].flip(axes), atol=1e-4):
                assert torch.equal(moved[row], label[row].flip(axes))
                seen |= set(axes)
                break
        else:
            pytest.fail(f"volume {row} is no mirror image of itself")
    assert seen == {0, 1, 2}


@pytest.mark.usefixtures("extreme")
def test_a_volume_turns_about_its_slice_axis_alone_as_its_slices_would() -> None:
    image, _ = draw_volume()
    turned, _ = augment(image, None, Augment(rotate=30), generator())
    for index in range(image.shape[2]):
        alone, _ = augment(image[:, :, index], None, Augment(rotate=30), generator())
        torch.testing.assert_close(turned[:, :, index], alone, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("extreme")
def test_a_volume_is_scaled_and_shifted_along_all_three_axes() -> None:
    depth, height, width = 21, 31, 41
    axes = torch.meshgrid(*map(torch.arange, (depth, height, width)), indexing="ij")
    centre = ((depth - 1) / 2, (height - 1) / 2, (width - 1) / 2)
    ball = torch.stack([(a - c) ** 2 for a, c in zip(axes, centre, strict=True)]).sum(0).sqrt()
    image = (6.5 - ball).clamp(0, 1)[None, None]

    def measured(picture: torch.Tensor) -> tuple[list[float], float]:
        weight = picture[0, 0] / picture.sum()
        return [float((a * weight).sum()) for a in axes], float(picture.sum())

    where, _ = measured(augment(image, None, Augment(shift=0.1), generator())[0])
    expected = [c - 0.1 * n for c, n in zip(centre, (depth, height, width), strict=True)]
    assert where == pytest.approx(expected, abs=0.1)
    _, mass = measured(augment(image, None, Augment(scale=0.25), generator())[0])
    assert mass == pytest.approx(float(image.sum()) / 1.25**3, rel=0.05)


@pytest.mark.usefixtures("extreme")
def test_a_volumes_intensities_change_in_units_of_the_whole_volume() -> None:
    image = 50 + 20 * draw_volume()[0]
    image[:, :, 0] += 40  # a bright slice is no image of its own
    brighter, _ = augment(image, None, Augment(brightness=0.5), generator())
    sd = image.std((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(brighter - image, (0.5 * sd).expand_as(image), atol=1e-3, rtol=0)
    gamma, _ = augment(image, None, Augment(gamma=0.5), generator())
    for old, new in zip(image, gamma, strict=True):
        assert float(new.max()) == pytest.approx(float(old.max()), abs=1e-3)
        assert float(new.min()) == pytest.approx(float(old.min()), abs=1e-3)
