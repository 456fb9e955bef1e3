"""Inference in a fully connected CRF: labels that follow the edges of the image, Krähenbühl & Koltun, NIPS 2011."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from uda.errors import ConfigError, DataError
from uda.losses.bilateral_grid import BilateralGrid, check_grid
from uda.losses.inspection import readable
from uda.losses.neighbours import check_counts, check_guidance, check_widths, parts
from uda.losses.prediction import Predicted, predicted
from uda.types import Image


@torch.no_grad()
def mean_field(
    logits: Predicted,
    image: Image,
    sigma_color: float = 0.25,
    sigma_space: float = 80.0,
    sigma_smooth: float = 3.0,
    appearance: float = 10.0,
    smoothness: float = 3.0,
    iterations: int = 5,
    spacing: float = 0.5,
    mask: Bool[Tensor, "b *s"] | None = None,
    allowed: Bool[Tensor, "b k *s"] | None = None,
) -> Float[Tensor, "b k *s"]:
    r"""Log-probabilities of the classes after mean-field inference in a fully connected CRF with Potts compatibility.

    Each iteration sets $q_x(c) \propto p_x(c)\,\exp\left(\sum_m w_m \sum_{y \ne x} \hat k_m(x,y)\,q_y(c)\right)$ for
    all pixels at once, from q = p on. The two kernels are
    $k_1 = \exp\left(-\frac{|I_x - I_y|^2}{2\sigma_c^2} - \frac{|x - y|^2}{2\sigma_s^2}\right)$ (appearance) and
    $k_2 = \exp\left(-\frac{|x - y|^2}{2\sigma_\gamma^2}\right)$ (smoothness), over the whole image and normalised:
    $\hat k(x,y) = \frac{k(x,y)}{\sqrt{d_x d_y}}$ with $d_x = \sum_y k(x,y)$. The first is filtered on a
    :class:`BilateralGrid`, the second is exact.

    It makes pseudo-labels of a network's prediction (DeepCut: ``allowed`` is the background outside of a box and all
    classes inside) and grows the seeds of a class activation map. No gradient runs through it.

    Source: Krähenbühl & Koltun, Efficient inference in fully connected CRFs with Gaussian edge potentials, NIPS 2011,
        algorithm 1; widths, weights and symmetric normalisation are those of the example of pydensecrf, a wrapper of
        the authors' code, whose 13 grey levels are about 0.23 of a photograph's standard deviation

    Args:
        logits: ``[b, k, *s]``, log-probabilities as well, or a :class:`Prediction`: p is their softmax.
        image: I ``[b, c, *s]`` of 1 to 3 channels, see :func:`dense_crf`.
        sigma_color: σ_c in the image's unit.
        sigma_space: σ_s in pixels.
        sigma_smooth: σ_γ in pixels.
        appearance, smoothness: w₁ and w₂, at least 0.
        iterations: updates of all pixels.
        spacing: of the grid's nodes in space, in σ_s; see :func:`dense_crf`.
        mask: pixels that take part; the others keep p, and no other pixel sees them.
        allowed: classes that a pixel may have; the others have probability 0, from p on.

    Returns:
        Log-probabilities in float32, −∞ for a class that is not allowed.

    Raises:
        DataError: an image, mask or ``allowed`` of another shape; values that are not finite; a pixel that no class is
            allowed for.
        ConfigError: a width that is not positive, a negative weight, a count of iterations below 1, or a spacing
            outside (0, 1].

    Example:
        A row of three pixels, the first sure, the others undecided. The second has the colour of the first and
        follows it, the third has another colour and stays undecided.

        >>> import torch
        >>> logits = torch.tensor([[[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]])
        >>> image = torch.tensor([[[0.0, 0.0, 9.0]]])
        >>> mean_field(logits, image, smoothness=0.0).exp()[0, 0].round(decimals=2)
        tensor([1.0000, 0.9900, 0.5000])
    """
    prediction = predicted(logits)
    check_widths(sigma_color=sigma_color, sigma_space=sigma_space, sigma_smooth=sigma_smooth)
    check_counts(iterations=iterations)
    _check_weights(appearance=appearance, smoothness=smoothness)
    check_guidance(prediction, image)
    check_grid(prediction, image, spacing, mask)
    unary = prediction.log_p.detach().contiguous()
    if allowed is not None:
        _check_allowed(allowed, unary)
        unary = unary.masked_fill(~allowed, -math.inf).log_softmax(1)
    result = torch.empty_like(unary)
    for part in parts(unary):
        guidance, inside = image[part].to(unary), None if mask is None else mask[part]
        everywhere = torch.ones_like(unary[part, :1])
        participants = everywhere if inside is None else everywhere * inside.unsqueeze(1)
        grid = BilateralGrid(guidance, sigma_color, sigma_space, spacing, inside)
        kernels = (
            (appearance, _appearance(grid)),
            (smoothness, _smoothing(unary.shape[2:], sigma_smooth, unary)),
        )
        messages = [(w, _message(kernel, participants)) for w, kernel in kernels if w > 0]
        log_q = unary[part]
        for _ in range(iterations):
            q, log_q = log_q.exp(), unary[part]
            for weight, message in messages:
                log_q = log_q + weight * message(q)
            log_q = log_q.log_softmax(1)
        result[part] = log_q
    return result


Kernel = Callable[[Tensor], Tensor]
"""``[b, k, *s]`` → the same, filtered; the kernel of a pixel with itself is 1"""


def _message(kernel: Kernel, participants: Float[Tensor, "b 1 *s"]) -> Kernel:
    """Σ_{y ≠ x} k̂(x, y) q(y): the kernel, normalised symmetrically, without a pixel's message to itself."""
    degree = (participants * kernel(participants)).clamp_min(1)
    scale = participants * degree.rsqrt()

    def message(q: Tensor) -> Tensor:
        sent = q * scale
        return (kernel(sent) - sent).mul_(scale)

    return message


def _appearance(grid: BilateralGrid) -> Kernel:
    def filtered(q: Tensor) -> Tensor:
        return grid.filtered(q.flatten(2)).view(q.shape)

    return filtered


def _smoothing(space: torch.Size, sigma: float, like: Tensor) -> Kernel:
    """The Gaussian of position alone: a matrix for each axis."""
    factors = []
    for size in space:
        place = torch.arange(size, dtype=like.dtype, device=like.device)
        factors.append(torch.exp((place[:, None] - place).square() / (-2 * sigma**2)))

    def smoothed(q: Tensor) -> Tensor:
        for axis, factor in enumerate(factors, 2):
            q = (q.movedim(axis, -1) @ factor).movedim(-1, axis)
        return q

    return smoothed


def _check_weights(**weights: float) -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ConfigError(f"{name} is {weight}", expected="0 or more")


def _check_allowed(allowed: Tensor, unary: Tensor) -> None:
    if allowed.shape != unary.shape:
        raise DataError(
            f"allowed has shape {tuple(allowed.shape)}",
            expected=f"{tuple(unary.shape)}, one value a class and pixel",
        )
    if readable(allowed) and not bool(allowed.any(1).all()):
        raise DataError(
            "a pixel may have none of the classes",
            expected="at least one allowed class for each pixel",
            fix="allow the background there",
        )
