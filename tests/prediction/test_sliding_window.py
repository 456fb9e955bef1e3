"""Sliding windows: the same numbers as MONAI's, a few slices at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from uda.prediction.sliding_window import LEAST, gaussian, window_planes


def volume_of(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(classes: int = 3) -> nn.Module:
    """One that sees its neighbours, so that a window's border matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv3d(1, classes, 5, padding=2).eval().requires_grad_(False)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((9, 20, 17), (4, 8, 8)),
        ((13, 16, 16), (5, 16, 7)),
        ((4, 11, 12), (4, 8, 8)),
        ((16, 16, 16), (8, 8, 8)),
        ((30, 7, 9), (2, 7, 9)),
    ],
)
def test_the_logits_are_those_of_monai(
    shape: tuple[int, int, int], patch: tuple[int, int, int], overlap: float
) -> None:
    model, volume = network(), volume_of(shape)
    expected = sliding_window_inference(
        torch.from_numpy(volume)[None, None], patch, 2, model, overlap=overlap, mode="gaussian"
    )
    found = torch.cat(list(window_planes(model, volume, patch, overlap)))
    assert found.shape == (shape[0], 3, *shape[1:])
    torch.testing.assert_close(found.movedim(0, 1)[None], expected, atol=1e-4, rtol=0)


def dense(
    model: nn.Module, volume: np.ndarray, patch: tuple[int, int, int], step: list[int]
) -> Tensor:
    """All windows added up in whole arrays, the padding written out by hand."""
    shape = [max(n, p) for n, p in zip(volume.shape, patch, strict=True)]
    padded = np.full(shape, volume.min(), np.float32)
    padded[tuple(slice(n) for n in volume.shape)] = volume
    sums, weights = torch.zeros(3, *shape), torch.zeros(*shape)
    starts = [
        sorted({min(s, n - p) for s in range(0, n, k)})
        for n, p, k in zip(shape, patch, step, strict=True)
    ]
    for z in starts[0]:
        for y in starts[1]:
            for x in starts[2]:
                at = slice(z, z + patch[0]), slice(y, y + patch[1]), slice(x, x + patch[2])
                sums[(..., *at)] += model(torch.from_numpy(padded[at])[None, None])[0] * gaussian(
                    patch
                )
                weights[at] += gaussian(patch)
    return (sums / weights)[(..., *(slice(n) for n in volume.shape))].movedim(1, 0)


@settings(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    patch=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
)
def test_any_shape_is_as_if_everything_stood_in_memory(
    shape: tuple[int, int, int], patch: tuple[int, int, int]
) -> None:
    model, volume = network(), volume_of(shape)
    found = torch.cat(list(window_planes(model, volume, patch)))
    expected = dense(model, volume, patch, [max(1, p // 2) for p in patch])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(11, 13, 9), (3, 4, 20), (2, 2, 2)])
def test_a_network_of_single_voxels_answers_as_without_windows(
    shape: tuple[int, int, int],
) -> None:
    volume = volume_of(shape)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Conv3d(1, 4, 1).requires_grad_(False)
    found = torch.cat(list(window_planes(model, volume, (4, 6, 6))))
    expected = model(torch.from_numpy(volume)[None, None])[0].movedim(1, 0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def test_slices_are_handed_out_as_soon_as_no_later_window_reaches_them() -> None:
    seen: list[int] = []
    model = network()

    def forward(image: Tensor) -> Tensor:
        seen.append(len(image))
        return model(image)

    parts = window_planes(forward, volume_of((40, 8, 8)), (8, 8, 8))
    assert len(next(parts)) == 4
    assert sum(seen) == 1  # the window of slices 0…7 alone has been looked at
    assert [len(part) for part in parts] == [4] * 7 + [8]
    assert sum(seen) == 9


def test_what_is_held_does_not_grow_with_the_volume() -> None:
    model = network()
    largest = []
    for slices in (16, 64):
        parts = list(window_planes(model, volume_of((slices, 8, 8)), (8, 8, 8)))
        storage = {part.untyped_storage().data_ptr(): part.untyped_storage() for part in parts}
        largest.append(max(held.nbytes() for held in storage.values()))
    assert largest[0] == largest[1] == 4 * 3 * 8 * 8 * 8


def test_a_volume_smaller_than_the_patch_is_continued_by_its_minimum() -> None:
    volume = volume_of((3, 4, 5)) + 10
    seen: list[Tensor] = []

    def forward(image: Tensor) -> Tensor:
        seen.append(image)
        return image

    (found,) = window_planes(forward, volume, (4, 6, 6))
    torch.testing.assert_close(found[:, 0], torch.from_numpy(volume))
    (window,) = seen
    assert window.shape == (1, 1, 4, 6, 6)
    outside = torch.ones(4, 6, 6, dtype=torch.bool)
    outside[:3, :4, :5] = False
    assert (window[0, 0][outside] == float(volume.min())).all()


def test_the_middle_of_a_window_weighs_most_and_its_corner_a_little() -> None:
    weight = gaussian((9, 16, 8))
    assert weight.shape == (9, 16, 8)
    assert float(weight.max()) == float(weight[4, 8, 4])
    assert float(weight[0, 0, 0]) == pytest.approx(LEAST)
    torch.testing.assert_close(weight, weight.flip((0, 1, 2)))
    one_sd = gaussian((17, 1, 1))[:, 0, 0]  # sd 17 / 8 voxels
    assert float(one_sd[8 - 2]) == pytest.approx(np.exp(-0.5 * (2 * 8 / 17) ** 2), rel=1e-5)
