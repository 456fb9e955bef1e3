"""Adversarial alignment: self-information, the discriminator, whose gradient goes where, and that it aligns."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric
from torch import nn

from uda.errors import DataError
from uda.losses import (
    Discriminator,
    Prediction,
    adversarial_loss,
    discriminator_loss,
    entropy,
    self_information,
)

seeds = st.integers(0, 2**31)
class_counts = st.sampled_from([2, 3, 19])
spaces = st.sampled_from([(5,), (3, 4), (2, 3, 4)])


def draw(seed: int, classes: int, space: tuple[int, ...], images: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(images, classes, *space, generator=generator)


def make(classes: int = 3, width: int = 4, seed: int = 0) -> Discriminator:
    torch.manual_seed(seed)
    return Discriminator(classes, width)


def linear(classes: int = 2) -> nn.Conv2d:
    """A discriminator that looks at pixels one by one: small enough for a reference by hand."""
    torch.manual_seed(1)
    return nn.Conv2d(classes, 1, 1)


# ------------------------------------------------------------------------------------------- self-information


def reference_information(logits: np.ndarray) -> np.ndarray:
    """In bits, in float64."""
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    information: np.ndarray = -p * np.log2(p) / np.log2(p.shape[1])
    return information


@settings(max_examples=25, deadline=None)
@given(seeds, class_counts, spaces)
def test_self_information_equals_a_float64_reference_within_its_range(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    maps = self_information(logits)
    expected = reference_information(logits.numpy())
    np.testing.assert_allclose(maps.numpy(), expected, rtol=1e-4, atol=1e-7)
    assert bool((maps >= 0).all())
    assert float(maps.max()) <= 1 / (math.e * math.log(classes)) + 1e-6


@settings(max_examples=15, deadline=None)
@given(seeds, class_counts, spaces)
def test_its_sum_over_classes_is_the_normalised_entropy(
    seed: int, classes: int, space: tuple[int, ...]
) -> None:
    logits = draw(seed, classes, space)
    total = self_information(logits).sum(1).mean()
    assert float(total) == pytest.approx(float(entropy(logits)), abs=1e-6)


def test_gradient_of_self_information_equals_finite_differences_of_the_reference() -> None:
    logits = draw(2, 3, (2, 2), 1).requires_grad_()
    weights = np.random.default_rng(0).normal(size=logits.shape)
    value = (self_information(logits) * torch.from_numpy(weights).float()).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        ends = [float((reference_information(base + s) * weights).sum()) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-4)
    wide = logits.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(self_information, wide)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_self_information_and_its_gradient_are_finite_for_logits_of_1e4(dtype: torch.dtype) -> None:
    signs = draw(3, 4, (4, 4)).sign()
    signs[:, 3] = -1
    logits = (1e4 * signs).to(dtype).requires_grad_()
    maps = self_information(logits)
    (gradient,) = torch.autograd.grad(maps.sum(), logits)
    assert maps.dtype == torch.float32
    assert bool(torch.isfinite(maps).all())
    assert bool(torch.isfinite(gradient).all())


def test_uniform_is_1_over_k_one_hot_is_0_and_a_single_class_is_0() -> None:
    torch.testing.assert_close(
        self_information(torch.zeros(1, 19, 2)), torch.full((1, 19, 2), 1 / 19)
    )
    sure = torch.tensor([[[300.0], [0.0]]])
    assert self_information(sure).flatten().tolist() == [0, 0]
    assert self_information(torch.randn(2, 1, 3)).flatten().tolist() == [0] * 6


def test_self_information_of_a_prediction_shares_its_log_p() -> None:
    logits = draw(4, 3, (4, 4)).requires_grad_()
    prediction = Prediction(logits)
    before = prediction.log_p.detach().clone()
    maps = self_information(prediction)
    assert torch.equal(maps, self_information(logits))
    assert torch.equal(prediction.log_p, before)


# --------------------------------------------------------------------------------------------- discriminator


def test_the_discriminator_is_the_five_convolutions_of_advent() -> None:
    network = Discriminator(19)
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    expected = []
    for before, after in ((19, 64), (64, 128), (128, 256), (256, 512), (512, 1)):
        expected += [(after, before, 4, 4), (after,)]
    assert shapes == expected


def test_the_discriminator_equals_the_same_layers_written_out() -> None:
    network = make(3, 4)
    layers: list[nn.Module] = []
    for before, after in ((3, 4), (4, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(0.2)]
    written = nn.Sequential(*layers, nn.Conv2d(32, 1, 4, 2, 1))
    written.load_state_dict(
        dict(zip(written.state_dict(), network.state_dict().values(), strict=True))
    )
    maps = torch.rand(2, 3, 40, 64, generator=torch.Generator().manual_seed(5))
    kept = maps.clone()
    torch.testing.assert_close(network(maps), written(maps))
    assert torch.equal(maps, kept)


@pytest.mark.parametrize(("side", "patches"), [(32, 1), (63, 1), (64, 2), (97, 3)])
def test_a_patch_is_32_pixels_wide(side: int, patches: int) -> None:
    assert make()(torch.zeros(1, 3, side, 32)).shape == (1, 1, patches, 1)


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize(
    "shape", [(1, 3, 31, 64), (1, 3, 64, 16), (1, 2, 64, 64), (1, 3, 64), (1, 3, 4, 32, 32, 32)]
)
def test_maps_that_are_too_small_or_of_other_classes_or_no_images_are_refused(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(DataError, match="the discriminator was given maps of shape") as caught:
        make()(torch.zeros(shape))
    assert "(images, 3, rows, columns), each side 32 pixels or more" in str(caught.value)
    assert "fix:" in str(caught.value)


@pytest.mark.usefixtures("as_users_see")
def test_the_losses_pass_that_refusal_on() -> None:
    small, large = torch.zeros(1, 3, 16, 64), torch.zeros(1, 3, 64, 64)
    with pytest.raises(DataError, match="32 pixels"):
        adversarial_loss(make(), small)
    with pytest.raises(DataError, match="32 pixels"):
        discriminator_loss(make(), large, small)


# ---------------------------------------------------------------------------------------------------- losses


def reference_judgement(discriminator: nn.Conv2d, maps: np.ndarray) -> np.ndarray:
    """σ(D) of the pixelwise discriminator in float64."""
    weight = discriminator.weight.detach().double().numpy().reshape(-1)
    d = np.einsum("k,bkhw->bhw", weight, maps) + float(discriminator.bias.detach())  # type: ignore[union-attr]
    return np.asarray(1 / (1 + np.exp(-d)))


def reference_adversarial(discriminator: nn.Conv2d, logits: np.ndarray) -> float:
    return float(-np.log(reference_judgement(discriminator, reference_information(logits))).mean())


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_both_losses_equal_a_float64_reference(seed: int) -> None:
    judge, source, target = linear(), draw(seed, 2, (3, 4)), draw(seed + 1, 2, (5, 3))
    value = float(adversarial_loss(judge, target))
    assert value == pytest.approx(reference_adversarial(judge, target.numpy()), rel=1e-5)
    maps = [reference_information(z.numpy()) for z in (source, target)]
    judged = [reference_judgement(judge, m) for m in maps]
    expected = -0.5 * (np.log(judged[0]).mean() + np.log(1 - judged[1]).mean())
    found = discriminator_loss(judge, self_information(source), self_information(target))
    assert float(found.detach()) == pytest.approx(float(expected), rel=1e-5)


def test_gradient_of_the_adversarial_loss_equals_finite_differences_of_the_reference() -> None:
    judge, logits = linear(), draw(6, 2, (2, 2)).requires_grad_()
    (gradient,) = torch.autograd.grad(adversarial_loss(judge, logits), logits)
    base = logits.detach().numpy().astype(np.float64)
    for place in np.ndindex(base.shape):
        step = np.zeros_like(base)
        step[place] = 1e-5
        ends = [reference_adversarial(judge, base + s) for s in (step, -step)]
        assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5)


def test_the_adversarial_loss_reaches_the_logits_and_not_the_discriminator() -> None:
    judge, logits = make(), draw(7, 3, (32, 32)).requires_grad_()
    adversarial_loss(judge, logits).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in judge.parameters())
    assert all(parameter.requires_grad for parameter in judge.parameters())


def test_the_discriminator_loss_reaches_the_discriminator_and_not_the_networks() -> None:
    judge = make()
    source, target = (draw(seed, 3, (32, 32)).requires_grad_() for seed in (8, 9))
    discriminator_loss(judge, self_information(source), self_information(target)).backward()
    assert source.grad is None
    assert target.grad is None
    assert all(parameter.grad is not None for parameter in judge.parameters())


def test_what_one_side_gains_the_other_loses() -> None:
    """On one patch of the target the network pays −log σ(D), the discriminator −log(1 − σ(D))."""
    judge, target = make(), 3 * draw(10, 3, (32, 32), 1)
    nn.init.constant_(judge.convolutions[-1].bias, 0.7)  # type: ignore[arg-type]
    maps = self_information(target)
    network = float(adversarial_loss(judge, target))
    discriminator = 2 * float(discriminator_loss(judge, maps, maps).detach()) - network
    assert network < math.log(2) < discriminator
    assert math.exp(-network) + math.exp(-discriminator) == pytest.approx(1, abs=1e-6)


def test_a_discriminator_that_cannot_tell_costs_both_sides_log_2() -> None:
    judge = make()
    nn.init.zeros_(judge.convolutions[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(judge.convolutions[-1].bias)  # type: ignore[arg-type]
    logits = draw(12, 3, (32, 32))
    maps = self_information(logits)
    assert float(adversarial_loss(judge, logits)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(discriminator_loss(judge, maps, maps).detach()) == pytest.approx(
        math.log(2), abs=1e-6
    )


@pytest.mark.parametrize("bias", [-1e4, 1e4])
def test_a_discriminator_that_is_certain_gives_finite_values(bias: float) -> None:
    judge, logits = linear(), draw(13, 2, (3, 3)).requires_grad_()
    nn.init.constant_(judge.bias, bias)  # type: ignore[arg-type]
    value = adversarial_loss(judge, logits)
    (gradient,) = torch.autograd.grad(value, logits)
    maps = self_information(logits).detach()
    assert float(value.detach()) == pytest.approx(max(0.0, -bias), rel=1e-3)
    assert float(discriminator_loss(judge, maps, maps).detach()) == pytest.approx(5e3, rel=1e-3)
    assert bool(torch.isfinite(gradient).all())


def test_a_discriminator_in_half_precision_gives_float32_losses() -> None:
    judge, logits = make(), draw(14, 3, (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert judge(self_information(logits)).dtype == torch.bfloat16
        value = adversarial_loss(judge, logits)
        own = discriminator_loss(judge, self_information(logits), self_information(logits))
    assert value.dtype == own.dtype == torch.float32
    assert float(value) == pytest.approx(float(adversarial_loss(judge, logits)), abs=1e-2)


def test_a_discriminator_wrapped_by_fabric_judges_as_itself() -> None:
    judge, logits = make(), draw(15, 3, (32, 32)).requires_grad_()
    expected = adversarial_loss(judge, logits)
    (slope,) = torch.autograd.grad(expected, logits)
    wrapped = Fabric(accelerator="cpu", devices=1).setup(copy.deepcopy(judge))
    value = adversarial_loss(wrapped, logits)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(value.detach()) == float(expected.detach())
    assert torch.equal(gradient, slope)
    assert all(parameter.grad is None for parameter in wrapped.parameters())


# -------------------------------------------------------------------------------------------------- training


def test_a_discriminator_learns_to_tell_sure_images_from_unsure_ones() -> None:
    judge = make(width=8)
    source = self_information(6 * draw(16, 3, (32, 32), 4))
    target = self_information(0.3 * draw(17, 3, (32, 32), 4))
    optimizer = torch.optim.Adam(judge.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        discriminator_loss(judge, source, target).backward()
        optimizer.step()
    assert float(discriminator_loss(judge, source, target).detach()) < 0.1
    with torch.no_grad():
        assert bool((judge(source) > 0).all())
        assert bool((judge(target) < 0).all())


def test_in_turns_the_target_comes_to_be_as_sure_as_the_source() -> None:
    """The network is one gain on fixed logits: too small on the target. Alternating updates raise it."""
    source = self_information(draw(18, 3, (32, 32), 4) * 3)
    features = draw(19, 3, (32, 32), 4)
    gain = torch.full((1,), 0.5, requires_grad=True)
    judge = make(width=8)
    judge_steps = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.9, 0.99))
    steps = torch.optim.Adam([gain], lr=0.05)

    def gap() -> float:
        return abs(float(self_information(gain * features).detach().mean() - source.mean()))

    before = gap()
    for _ in range(100):
        steps.zero_grad()
        logits = gain * features
        adversarial_loss(judge, logits).backward()
        steps.step()
        judge_steps.zero_grad()
        discriminator_loss(judge, source, self_information(logits)).backward()
        judge_steps.step()
    assert gap() < before / 3


def test_the_slices_of_a_volume_are_judged_one_by_one() -> None:
    network, volume = make(), torch.rand(2, 3, 4, 40, 48)
    slices = torch.cat([network(volume[b].transpose(0, 1)) for b in range(2)])
    torch.testing.assert_close(network(volume), slices)
