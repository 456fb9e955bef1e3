"""Mean-field inference: against every pair in float64, what it does to labels, what it may not do, what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.mean_field import mean_field
from uda.losses.prediction import Prediction


def scene(seed: int, space: tuple[int, ...], channels: int = 1) -> tuple[Tensor, Tensor]:
    """Two images of a disc on a ramp, and logits that see half of it through noise."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, size) for size in space], indexing="ij")
    disc = (torch.stack([axis.square() for axis in axes]).sum(0) < 0.4).float()
    tints = torch.linspace(2, -1, channels).view(-1, *[1] * len(space))
    noise = torch.randn(2, channels, *space, generator=generator)
    image = disc * tints + 0.5 * axes[-1] + 0.05 * noise
    logits = torch.randn(2, 3, *space, generator=generator)
    logits[:, 1] += 2 * disc - 1
    return logits, (image - image.mean()) / image.std()


def naive(
    logits: Tensor,
    image: Tensor,
    colour: float = 0.25,
    far: float = 10.0,
    smooth: float = 3.0,
    weights: tuple[float, float] = (10.0, 3.0),
    iterations: int = 5,
    mask: Tensor | None = None,
    allowed: Tensor | None = None,
) -> np.ndarray:
    """Both kernels as matrices of all pairs, in float64."""
    results = []
    space = logits.shape[2:]
    place = np.stack([axis.ravel() for axis in np.indices(space)], 1).astype(np.float64)
    distance = np.square(place[:, None] - place).sum(2)
    for i in range(len(logits)):
        values = image[i].double().flatten(1).numpy().T
        apart = np.square(values[:, None] - values).sum(2)
        inside = np.ones(len(place)) if mask is None else mask[i].double().flatten().numpy()
        kernels = []
        for k in (
            np.exp(-apart / (2 * colour**2) - distance / (2 * far**2)),
            np.exp(-distance / (2 * smooth**2)),
        ):
            k = k * inside * inside[:, None]
            degree = np.maximum(k.sum(1), 1)
            k = k / np.sqrt(degree * degree[:, None])
            np.fill_diagonal(k, 0)
            kernels.append(k)
        unary = logits[i].double().flatten(1).numpy()
        if allowed is not None:
            unary = np.where(allowed[i].flatten(1).numpy(), unary, -np.inf)
        unary = log_softmax(unary, 0)
        log_q = unary
        for _ in range(iterations):
            q = np.exp(log_q)
            log_q = log_softmax(
                unary + sum(w * q @ k for w, k in zip(weights, kernels, strict=True)), 0
            )
        results.append(log_q.reshape(logits.shape[1:]))
    return np.stack(results)


SCENES = [
    ((20, 24), 1, {}),
    ((20, 24), 1, {"sigma_space": 4.0, "sigma_color": 0.5}),
    ((40, 40), 1, {"sigma_space": 100.0}),
    ((16, 16), 3, {}),
    ((6, 8, 8), 1, {"sigma_smooth": 1.5}),
    ((20, 24), 1, {"appearance": 0.0, "sigma_smooth": 1.0}),
    ((20, 24), 1, {"smoothness": 0.0, "iterations": 1}),
]


@pytest.mark.parametrize(("space", "channels", "given"), SCENES)
def test_probabilities_are_near_those_of_all_pairs_in_float64(
    space: tuple[int, ...], channels: int, given: dict[str, Any]
) -> None:
    logits, image = scene(0, space, channels)
    given = {"sigma_space": 10.0, **given}
    found = mean_field(logits, image, **given).exp().numpy()
    expected = np.exp(
        naive(
            logits,
            image,
            given.get("sigma_color", 0.25),
            given["sigma_space"],
            given.get("sigma_smooth", 3.0),
            (given.get("appearance", 10.0), given.get("smoothness", 3.0)),
            given.get("iterations", 5),
        )
    )
    assert np.abs(found - expected).max() < 0.1
    assert np.abs(found - expected).mean() < 0.003
    assert np.abs(found - logits.softmax(1).numpy()).max() > 0.3


def test_the_smoothness_kernel_is_exact() -> None:
    logits, image = scene(1, (12, 15))
    found = mean_field(logits, image, appearance=0.0)
    np.testing.assert_allclose(
        found.numpy(), naive(logits, image, weights=(0.0, 3.0)), atol=2e-5, rtol=1e-5
    )


def test_masks_and_allowed_classes_as_in_float64() -> None:
    logits, image = scene(2, (20, 20))
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(2, 20, 20, generator=generator) < 0.7
    allowed = torch.rand(2, 3, 20, 20, generator=generator) < 0.6
    allowed[:, 0] = True
    found = mean_field(logits, image, sigma_space=10.0, mask=mask, allowed=allowed).exp().numpy()
    expected = np.exp(naive(logits, image, mask=mask, allowed=allowed))
    assert np.abs(found - expected).max() < 0.05
    assert (found[~allowed.numpy()] == 0).all()


def test_pixels_outside_of_the_mask_keep_their_prediction_and_are_not_seen() -> None:
    logits, image = scene(3, (12, 12))
    mask = torch.ones(2, 12, 12, dtype=torch.bool)
    mask[:, 8:] = False
    found = mean_field(logits, image, mask=mask)
    torch.testing.assert_close(found[:, :, 8:], logits.log_softmax(1)[:, :, 8:])
    other = logits.clone()
    other[:, :, 8:] = 5 * torch.randn(2, 3, 4, 12)
    torch.testing.assert_close(mean_field(other, image, mask=mask)[:, :, :8], found[:, :, :8])


def test_it_cleans_noise_and_stops_at_the_edges_of_the_image() -> None:
    truth = (torch.arange(24) >= 12).long().expand(24, 24)
    wrong = torch.rand(24, 24, generator=torch.Generator().manual_seed(9)) < 0.3
    noisy = torch.where(wrong, 1 - truth, truth)
    logits = torch.stack([1.0 - noisy, noisy.float()]).unsqueeze(0)
    found = mean_field(logits, truth.float().view(1, 1, 24, 24))
    assert torch.equal(found.argmax(1)[0], truth)


def test_seeds_grow_over_their_colour_and_no_farther() -> None:
    first, second = discs()
    image = (first | second).float().view(1, 1, 32, 32)
    logits = torch.zeros(1, 2, 32, 32)
    logits[0, 1, 8:11, 8:11] = 4.0
    logits[0, 0, 0, :] = 4.0
    grown = mean_field(logits, image, appearance=30.0, iterations=20)
    assert torch.equal(grown.argmax(1)[0].bool(), first | second)


def test_a_box_bounds_what_it_is_about() -> None:
    """DeepCut: all classes inside of a box, the background outside; the box fits the first disc loosely."""
    first, second = discs()
    image = (first | second).float().view(1, 1, 32, 32)
    box = torch.zeros(32, 32, dtype=torch.bool)
    box[2:17, 2:17] = True
    logits = torch.stack([torch.zeros(32, 32), torch.where(box, 2.0, 0.0)]).unsqueeze(0)
    allowed = torch.stack([torch.ones_like(box), box]).unsqueeze(0)
    assert bool(mean_field(logits, image).argmax(1)[0].bool()[~box].any())
    found = mean_field(logits, image, sigma_space=5.0, allowed=allowed)
    assert torch.equal(found.argmax(1)[0].bool(), first)
    assert bool((found[0, 1][~box] == -math.inf).all())
    assert bool((found[0, 0][~box] == 0).all())


def discs() -> tuple[Tensor, Tensor]:
    """Pixels of two discs of radius 5 in an image of 32×32."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    return tuple((rows - at).square() + (columns - at).square() <= 25 for at in (9, 22))


def test_without_weights_it_is_the_prediction() -> None:
    logits, image = scene(4, (8, 8))
    found = mean_field(logits, image, appearance=0.0, smoothness=0.0)
    torch.testing.assert_close(found, logits.log_softmax(1))


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_sums_to_1_in_float32_for_any_logits(size: float, dtype: torch.dtype) -> None:
    logits, image = scene(5, (8, 9))
    found = mean_field((size * logits).to(dtype), image)
    assert found.dtype == torch.float32
    assert found.shape == logits.shape
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, 8, 9))


def test_log_probabilities_and_a_prediction_give_the_same_and_carry_no_gradient() -> None:
    logits, image = scene(6, (8, 8))
    logits.requires_grad_()
    found = mean_field(logits, image)
    assert not found.requires_grad
    torch.testing.assert_close(mean_field(logits.log_softmax(1), image), found)
    prediction = Prediction(logits)
    assert torch.equal(mean_field(prediction, image), found)
    assert prediction.log_p.requires_grad


def test_the_prediction_is_left_as_it_was() -> None:
    logits, image = scene(7, (8, 8))
    prediction = Prediction(logits)
    before = prediction.log_p.clone(), image.clone()
    mean_field(prediction, image)
    assert torch.equal(prediction.log_p, before[0])
    assert torch.equal(image, before[1])


# bad input


@pytest.mark.usefixtures("as_users_see")
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("allowed", {"allowed": torch.ones(1, 2, 4) > 0}),
        ("mask", {"mask": torch.ones(1, 2, 4, 4) > 0}),
        ("none of the classes", {"allowed": torch.zeros(1, 2, 4, 4) > 0}),
    ],
)
def test_maps_that_do_not_fit_are_refused(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=name):
        mean_field(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), **given)


@pytest.mark.parametrize(
    "setting",
    [
        {"sigma_color": 0.0},
        {"sigma_space": -1.0},
        {"sigma_smooth": math.nan},
        {"appearance": -1.0},
        {"smoothness": math.inf},
        {"iterations": 0},
        {"spacing": 2.0},
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        mean_field(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4), **setting)
