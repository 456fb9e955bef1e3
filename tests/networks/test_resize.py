"""Enlargement: two matrix products are torch's bilinear interpolation, and stand in where its bits would not repeat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from uda.networks import resize
from uda.networks.resize import by_matrices, upsample


@pytest.fixture
def deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_two_matrix_products_interpolate_and_so_do_their_gradients(
    shape: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    torch.manual_seed(seed)
    size = (max(size[0], shape[0]), max(size[1], shape[1]))
    image = torch.randn(2, 3, *shape, requires_grad=True)
    change = torch.randn(2, 3, *size)
    expected = functional.interpolate(image, size, mode="bilinear", align_corners=False)
    found = by_matrices(image, size)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for one, other in zip(
        torch.autograd.grad(found, image, change),
        torch.autograd.grad(expected, image, change),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.usefixtures("deterministic")
def test_matrices_stand_in_beside_the_cpu_where_bits_must_repeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    monkeypatch.setattr(resize, "by_matrices", lambda image, size: sizes.append(size) or image)
    elsewhere = torch.empty(1, 2, 3, 4, device="meta")
    upsample(elsewhere, (6, 8))
    assert sizes == [(6, 8)]
    upsample(torch.zeros(1, 2, 3, 4), (6, 8))
    torch.use_deterministic_algorithms(False)
    assert upsample(elsewhere, (12, 16)).shape == (1, 2, 12, 16)
    assert sizes == [(6, 8)]


@pytest.mark.parametrize("enlarge", [upsample, by_matrices])
def test_a_step_becomes_a_ramp(enlarge: Any) -> None:
    image = torch.tensor([[0.0, 1.0]])[None, None]
    expected = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(2, 4)
    torch.testing.assert_close(enlarge(image, (2, 4))[0, 0], expected)
