"""What holds for every loss, over the table in ``cases.py``."""

from __future__ import annotations

import inspect
import math
import zlib
from functools import partial
from typing import Any

import pytest
import torch
from cases import CASES, Case, Shape
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import uda.losses
from uda.losses.prediction import Prediction

EACH = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def shape_of(case: Case, classes: int = 3, images: int = 2) -> Shape:
    return (images, classes, *case.side)


def draw(shape: Shape, seed: int = 0) -> Tensor:
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def value_and_gradient(case: Case, logits: Tensor, *maps: Tensor) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = case.loss(leaf, *maps)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-3)


def test_the_table_holds_every_public_loss() -> None:
    def is_loss(name: str) -> bool:
        public = getattr(uda.losses, name)
        if not inspect.isfunction(public):
            return False
        signature = inspect.signature(public)
        return "logits" in signature.parameters and signature.return_annotation == "Scalar"

    losses = {name for name in vars(uda.losses) if is_loss(name)}
    assert {"entropy", "dice"} <= losses
    assert losses - {name.partition(" ")[0] for name in CASES} == set()


@EACH
def test_a_constant_added_to_all_logits_of_a_pixel_changes_nothing(case: Case) -> None:
    shape = shape_of(case)
    logits, maps = draw(shape), case.maps(shape)
    constant = 2 * draw((shape[0], 1, *shape[2:]), seed=1)
    value, gradient = value_and_gradient(case, logits, *maps)
    other, other_gradient = value_and_gradient(case, logits + constant, *maps)
    same(other, value)
    same(other_gradient, gradient)
    same(gradient.sum(1), torch.zeros_like(gradient.sum(1)))  # its other face


@EACH
def test_the_gradient_is_not_0(case: Case) -> None:
    shape = shape_of(case)
    _, gradient = value_and_gradient(case, draw(shape), *case.maps(shape))
    assert float(gradient.abs().amax()) > 1e-6


@EACH
def test_the_order_of_the_pixels_matters_where_the_table_says_so(case: Case) -> None:
    shape = shape_of(case)
    space = shape[2:]
    order = torch.randperm(math.prod(space), generator=torch.Generator().manual_seed(2))
    logits, maps = draw(shape), case.maps(shape)
    value, gradient = value_and_gradient(case, logits, *maps)
    moved = [move(tensor, space, order) for tensor in (logits, *maps)]
    other, other_gradient = value_and_gradient(case, *moved)
    if case.permutation_invariant:
        same(other, value)
        same(other_gradient, move(gradient, space, order))
    else:
        assert abs(float(other - value)) > 1e-5


def move(tensor: Tensor, space: tuple[int, ...], order: Tensor) -> Tensor:
    """The same pixels in another order; the last axes are the image's."""
    flat = tensor.reshape(*tensor.shape[: tensor.dim() - len(space)], -1)
    return flat[..., order].reshape(tensor.shape)


@EACH
def test_2d_and_3d_agree_on_the_same_pixels(case: Case) -> None:
    if not case.volumes:
        pytest.skip("judges a volume slice by slice; has a test of its own")
    shape = shape_of(case)
    rows, columns = shape[2:]
    flat = [draw(shape), *case.maps(shape)]
    solid = [tensor.reshape(*tensor.shape[:-2], 2, rows // 2, columns) for tensor in flat]
    value, gradient = value_and_gradient(case, *flat)
    other, other_gradient = value_and_gradient(case, *solid)
    if case.dimension_free:
        same(other, value)
        same(other_gradient.reshape(shape), gradient)
    else:  # a volume has other neighbours than an image
        assert abs(float(other - value)) > 1e-5


@EACH
def test_a_batch_is_the_mean_of_its_images_where_the_table_says_so(case: Case) -> None:
    shape = shape_of(case, images=3)
    each_its_own_class = 4 * torch.eye(3).view(3, 3, *[1] * len(case.side))
    logits, maps = draw(shape, seed=3) + each_its_own_class, case.maps(shape)
    whole = float(case.loss(logits, *maps))
    parts = [float(case.loss(*(t[i : i + 1] for t in (logits, *maps)))) for i in range(3)]
    mean = sum(parts) / 3
    if case.mean_of_images:
        assert whole == pytest.approx(mean, abs=1e-5)
    else:
        assert abs(whole - mean) > 1e-6


@EACH
@pytest.mark.parametrize("classes", [2, 19])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_value_and_gradient_are_finite_for_logits_of_1e4(
    case: Case, dtype: torch.dtype, classes: int
) -> None:
    shape = shape_of(case, classes)
    signs = torch.sign(draw(shape, seed=4))
    signs[:, -1] = -1  # a class that is nowhere likely
    value, gradient = value_and_gradient(case, (1e4 * signs).to(dtype), *case.maps(shape))
    assert value.dtype == torch.float32
    assert value.shape == ()
    assert gradient.dtype == dtype
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


@EACH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_reckoned_in_float32(case: Case, dtype: torch.dtype) -> None:
    shape = shape_of(case)
    logits, maps = draw(shape).to(dtype), case.maps(shape)
    value, gradient = value_and_gradient(case, logits, *maps)
    wide, wide_gradient = value_and_gradient(case, logits.float(), *maps)
    assert float(value) == float(wide)
    torch.testing.assert_close(gradient, wide_gradient.to(dtype))


@EACH
@pytest.mark.parametrize("classes", [2, 3])
def test_gradient_equals_finite_differences_in_float64(case: Case, classes: int) -> None:
    shape = shape_of(case, classes)
    logits, maps = draw(shape, seed=5).double().requires_grad_(), case.maps(shape)
    assert case.loss(logits, *maps).dtype == torch.float64
    loss = partial(held_loss, case.held(logits.detach())) if case.held else case.loss
    (gradient,) = torch.autograd.grad(case.loss(logits, *maps), logits)
    (expected,) = torch.autograd.grad(loss(logits, *maps), logits)
    torch.testing.assert_close(gradient, expected)
    assert torch.autograd.gradcheck(
        lambda z: loss(z, *maps), logits, fast_mode=math.prod(shape) > 200
    )


def held_loss(labels: Tensor, logits: Tensor) -> Tensor:
    return uda.losses.soft_cross_entropy(logits, labels)


@EACH
def test_logits_and_a_prediction_of_them_give_the_same(case: Case) -> None:
    shape = shape_of(case)
    maps = case.maps(shape)
    leaf = draw(shape).requires_grad_()
    value = case.loss(Prediction(leaf), *maps)
    (gradient,) = torch.autograd.grad(value, leaf)
    expected, expected_gradient = value_and_gradient(case, leaf, *maps)
    assert float(value.detach()) == float(expected)
    assert torch.equal(gradient, expected_gradient)


@EACH
def test_the_logits_are_left_as_they_were(case: Case) -> None:
    shape = shape_of(case)
    given = [draw(shape), *case.maps(shape)]
    before = [checksum(tensor) for tensor in given]
    prediction = Prediction(given[0])
    p = prediction.p.clone()
    case.loss(prediction, *given[1:])
    assert [checksum(tensor) for tensor in given] == before
    assert torch.equal(prediction.p, p)  # other losses read them after this one


def checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.numpy().tobytes())


def recorded(case: Case, prediction: Prediction | Tensor, *maps: Tensor) -> list[Any]:
    """What the profiler saw of forward and backward: operators and allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        value = case.loss(prediction, *maps)
        if isinstance(prediction, Prediction):
            value = value + uda.losses.entropy(prediction)
        value.backward()
    return sorted(record.profiler.kineto_results.events(), key=lambda event: event.start_ns())


@EACH
def test_it_shares_log_softmax_with_another_loss_of_the_same_prediction(case: Case) -> None:
    shape = shape_of(case)
    prediction = Prediction(draw(shape).requires_grad_())
    names = [event.name() for event in recorded(case, prediction, *case.maps(shape))]
    assert names.count("aten::_log_softmax") == 1
    assert names.count("aten::_log_softmax_backward_data") == 1


@EACH
def test_it_holds_no_more_than_the_table_says_at_once(case: Case) -> None:
    shape = (2, 5, 64, 64)
    logits, maps = draw(shape).requires_grad_(), case.maps(shape)
    case.loss(logits, *maps)  # what is made on the first call only is made now
    live = peak = 0
    for event in recorded(case, logits, *maps):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    # beyond tensors there are a few numbers an image and class
    assert 1 < peak / (4 * logits.numel()) < case.tensors + 0.05
