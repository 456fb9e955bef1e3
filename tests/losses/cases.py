"""Every loss, ready to be called: what ``test_every_loss.py`` runs over.

To add a loss, append a line to ``CASES``: its public name (more words after a space tell variants apart) and a
:class:`Case`. Whatever belongs to pixels (labels, masks, images, maps) comes from ``maps``, so that the tests can move
it along with the pixels; whatever belongs to classes is made inside ``loss`` with :func:`ratio`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from uda.losses.adversarial import Discriminator, adversarial_loss
from uda.losses.agreement import agreement
from uda.losses.balanced_assignment import balanced_assignment, balanced_cross_entropy
from uda.losses.boxes import boxes
from uda.losses.class_ratio import class_ratio_hinge, class_ratio_kl, size_cross_entropy
from uda.losses.consistency import dice_consistency
from uda.losses.constraints import log_barrier, size_bounds
from uda.losses.dense_crf import dense_crf
from uda.losses.dual import dual_class_ratio
from uda.losses.entropy import entropy, max_square, min_entropy
from uda.losses.grid_crf import grid_crf
from uda.losses.landmarks import landmark_cross_entropy
from uda.losses.laplacian import laplacian
from uda.losses.latent_distribution import latent_cross_entropy, latent_distribution
from uda.losses.mutual_information import mutual_information
from uda.losses.partial_labels import partial_dice, partial_labels
from uda.losses.potts import potts
from uda.losses.prediction import Predicted, predicted
from uda.losses.self_training import mrkld
from uda.losses.sorted_area import sorted_area
from uda.losses.spatial_prior import spatial_prior_kl
from uda.losses.supervised import cross_entropy, dice, partial_cross_entropy, soft_cross_entropy
from uda.types import IGNORE, OTHER

Shape = tuple[int, ...]
"""of logits: ``(b, k, *s)``"""


@dataclass(frozen=True)
class Case:
    """One way to call one loss.

    Args:
        loss: ``loss(logits, *maps)``, a scalar; takes logits of any dtype or a ``Prediction``.
        maps: for a shape of logits, the tensors that go with its pixels: ``[b, *s]`` or ``[b, ?, *s]``.
        permutation_invariant: the order of the pixels does not matter.
        dimension_free: the same pixels laid out in 2-D and in 3-D have the same value.
        mean_of_images: the value of a batch is the mean of the values of its images.
        side: rows and columns of the smallest image that it takes.
        volumes: takes 3-D images too.
        held: pseudo-labels that the loss makes of the logits and holds constant; it is their cross-entropy.
        tensors: most memory held at once in forward and backward, in tensors of the size of the logits.
    """

    loss: Callable[..., Tensor]
    maps: Callable[[Shape], tuple[Tensor, ...]] = lambda shape: ()
    permutation_invariant: bool = True
    dimension_free: bool = True
    mean_of_images: bool = True
    side: tuple[int, int] = (4, 6)
    volumes: bool = True
    held: Callable[[Tensor], Tensor] | None = None
    tensors: float = 4.0


def ratio(logits: Predicted) -> Tensor:
    """A prior for the classes of the logits, falling from the first class on: ``[k]``, sums to 1."""
    falling = 1 / torch.arange(1.0, logits.shape[1] + 1)
    return falling / falling.sum()


def labels(shape: Shape) -> tuple[Tensor, ...]:
    """Random labels, a fifth of them IGNORE."""
    generator = torch.Generator().manual_seed(11)
    space = (shape[0], *shape[2:])
    drawn = torch.randint(shape[1], space, generator=generator)
    return (drawn.masked_fill(torch.rand(space, generator=generator) < 0.2, IGNORE),)


def labelled(logits: Predicted) -> Tensor:
    """Every second class is named, class 0 is not: ``[b, k]``."""
    return (torch.arange(logits.shape[1]) % 2 == 1).expand(logits.shape[0], -1)


def partly(shape: Shape) -> tuple[Tensor, ...]:
    """Random labels of the named classes, OTHER for the rest, a fifth IGNORE."""
    (drawn,) = labels(shape)
    return (drawn.masked_fill((drawn % 2 == 0) & (drawn != IGNORE), OTHER),)


def some_boxes(logits: Predicted, axes: int) -> tuple[Tensor, Tensor]:
    """Two overlapping boxes in each image, of class 1 and of the last class, all that there are."""
    images, classes = logits.shape[:2]
    space = list(logits.shape[2:]) if axes == len(logits.shape) - 2 else [4, 6]
    first, last = [s // 4 for s in space], [3 * s // 4 for s in space]
    listed = []
    for image in range(images):
        listed.append([image, 1, *first, *last])
        listed.append([image, classes - 1, *[0] * axes, *first])
    boxed = (torch.arange(classes) > 0).expand(images, -1)
    return torch.tensor(listed), boxed


def turned(shape: Shape) -> tuple[Tensor, ...]:
    """Where the pixels of images lay before they were turned by 0.2 about the middle, ``[b, 2, h, w]``."""
    rows, columns = shape[2:]
    row, column = torch.meshgrid(
        torch.arange(rows) - (rows - 1) / 2,
        torch.arange(columns) - (columns - 1) / 2,
        indexing="ij",
    )
    sine, cosine = math.sin(0.2), math.cos(0.2)
    place = torch.stack(
        [
            cosine * row - sine * column + (rows - 1) / 2,
            sine * row + cosine * column + (columns - 1) / 2,
        ]
    )
    return (place.expand(shape[0], -1, -1, -1),)


def scribbled_picture(shape: Shape) -> tuple[Tensor, ...]:
    """A random image of two channels, and seeds at a tenth of its pixels."""
    generator = torch.Generator().manual_seed(20)
    space = (shape[0], *shape[2:])
    drawn = torch.randint(shape[1], space, generator=generator)
    return (
        *picture(shape),
        drawn.masked_fill(torch.rand(space, generator=generator) < 0.9, IGNORE),
    )


def other_log_p(shape: Shape) -> tuple[Tensor, ...]:
    """Log-probabilities of a second prediction."""
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(13))
    return (logits.log_softmax(1),)


def mask(shape: Shape) -> tuple[Tensor, ...]:
    """A random mask that keeps 7 of 10 pixels."""
    generator = torch.Generator().manual_seed(12)
    return (torch.rand((shape[0], *shape[2:]), generator=generator) < 0.7,)


def weighted_labels(shape: Shape) -> tuple[Tensor, ...]:
    """Random labels, a fifth of them IGNORE, and a confidence for each."""
    generator = torch.Generator().manual_seed(13)
    return (*labels(shape), torch.rand((shape[0], *shape[2:]), generator=generator))


def weighted_soft_labels(shape: Shape) -> tuple[Tensor, ...]:
    """Random soft labels, a fifth of the pixels without, and a confidence for each."""
    generator = torch.Generator().manual_seed(14)
    hard, confidence = weighted_labels(shape)
    soft = torch.rand(shape, generator=generator)
    return soft / soft.sum(1, keepdim=True) * (hard != IGNORE).unsqueeze(1), confidence


def picture(shape: Shape) -> tuple[Tensor, ...]:
    """A random image of two channels."""
    generator = torch.Generator().manual_seed(15)
    return (torch.randn((shape[0], 2, *shape[2:]), generator=generator),)


def masked_picture(shape: Shape) -> tuple[Tensor, ...]:
    """The same, and a random mask."""
    return (*picture(shape), *mask(shape))


def class_maps(shape: Shape) -> tuple[Tensor, ...]:
    """How often each class is at each pixel: random, summing to 1 over the classes."""
    generator = torch.Generator().manual_seed(17)
    return (torch.randn(shape, generator=generator).softmax(1),)


def superpixels(shape: Shape) -> tuple[Tensor, ...]:
    """Random superpixels 0 to 4; a tenth of the pixels is in none."""
    generator = torch.Generator().manual_seed(19)
    space = (shape[0], *shape[2:])
    drawn = torch.randint(5, space, generator=generator)
    return (drawn.masked_fill(torch.rand(space, generator=generator) < 0.1, -1),)


def landmarks(logits: Predicted) -> Tensor:
    """Class of each superpixel; one of the five has none."""
    row = torch.tensor([0, 1, IGNORE, logits.shape[1] - 1, 0])
    return row.expand(logits.shape[0], -1)


def discriminator(logits: Predicted) -> Discriminator:
    """A small one with weights large enough to be sure of something, in the dtype that the logits need."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(18)
        network = Discriminator(logits.shape[1], width=2)
    for parameter in network.parameters():
        parameter.data *= 3
    return network.to(predicted(logits).log_p.dtype)


def masked_maps(shape: Shape) -> tuple[Tensor, ...]:
    """Another prediction, and a random mask."""
    return (*class_maps(shape), *mask(shape))


CASES: dict[str, Case] = {
    # labels
    "cross_entropy": Case(cross_entropy, labels, mean_of_images=False),
    "dice": Case(dice, labels, mean_of_images=False),
    "partial_cross_entropy": Case(partial_cross_entropy, weighted_labels, mean_of_images=False),
    "soft_cross_entropy": Case(soft_cross_entropy, weighted_soft_labels, mean_of_images=False),
    "partial_labels": Case(
        lambda z, y: partial_labels(z, y, labelled(z)), partly, mean_of_images=False
    ),
    "partial_dice": Case(
        lambda z, y: partial_dice(z, y, labelled(z)), partly, mean_of_images=False
    ),
    "agreement": Case(agreement, other_log_p, tensors=8.0),
    # entropy
    "entropy": Case(entropy),
    "entropy weighted": Case(lambda z: entropy(z, ratio(z), normalized=False)),
    "entropy masked": Case(lambda z, m: entropy(z, mask=m), mask, mean_of_images=False),
    "min_entropy": Case(min_entropy),
    "max_square": Case(max_square),
    "max_square image_weighted": Case(lambda z: max_square(z, image_weighted=True)),
    # class ratio
    "class_ratio_kl": Case(lambda z: class_ratio_kl(z, ratio(z))),
    "class_ratio_kl reverse": Case(lambda z: class_ratio_kl(z, ratio(z), "prior_to_prediction")),
    "class_ratio_kl over batch": Case(
        lambda z: class_ratio_kl(z, ratio(z), over="batch"), mean_of_images=False
    ),
    "class_ratio_kl max_normalized": Case(
        lambda z: class_ratio_kl(z, ratio(z), kind="max_normalized", power=5.0)
    ),
    "class_ratio_kl with a tolerance": Case(lambda z: class_ratio_kl(z, ratio(z), tolerance=0.1)),
    "class_ratio_kl reverse, with a tolerance over batch": Case(
        lambda z: class_ratio_kl(z, ratio(z), "prior_to_prediction", "batch", tolerance=0.1),
        mean_of_images=False,
    ),
    "class_ratio_hinge": Case(lambda z: class_ratio_hinge(z, ratio(z), mu=0.65)),
    "class_ratio_hinge over batch": Case(
        lambda z: class_ratio_hinge(z, ratio(z), 0.65, "batch"), mean_of_images=False
    ),
    "size_cross_entropy": Case(lambda z: size_cross_entropy(z, ratio(z))),
    "size_cross_entropy max_normalized": Case(
        lambda z: size_cross_entropy(z, ratio(z), "max_normalized", 5.0)
    ),
    # affine in the ratio, so that batches may be split, although it is about the data set
    "dual_class_ratio": Case(lambda z: dual_class_ratio(z, ratio(z), torch.zeros(z.shape[1]))),
    # mutual information
    "mutual_information": Case(mutual_information, mean_of_images=False),
    "mutual_information over image": Case(lambda z: mutual_information(z, 0.5, "image")),
    # constraints
    "size_bounds": Case(lambda z: size_bounds(z, 0.9 * ratio(z), ratio(z))),
    "size_bounds linear, one class": Case(
        lambda z: size_bounds(z, 0.9 * ratio(z), ratio(z), squared=False, classes=[1])
    ),
    "size_bounds over batch": Case(
        lambda z: size_bounds(z, 0.9 * ratio(z), ratio(z), over="batch"), mean_of_images=False
    ),
    "log_barrier": Case(lambda z: log_barrier(z, 0.9 * ratio(z), ratio(z), t=5.0)),
    "log_barrier over batch": Case(
        lambda z: log_barrier(z, 0.5 * ratio(z), (2 * ratio(z)).clamp_max(1), 5.0, "batch"),
        mean_of_images=False,
    ),
    "sorted_area": Case(lambda z: sorted_area(z, ratio(z))),
    # pseudo-labels of given sizes
    "latent_cross_entropy": Case(
        lambda z: latent_cross_entropy(z, 0.9 * ratio(z), ratio(z)),
        held=lambda z: latent_distribution(z, 0.9 * ratio(z), ratio(z)),
    ),
    "latent_cross_entropy over batch, with a slack": Case(
        lambda z: latent_cross_entropy(z, 0.9 * ratio(z), ratio(z), 0.3, "batch"),
        mean_of_images=False,
        held=lambda z: latent_distribution(z, 0.9 * ratio(z), ratio(z), 0.3, "batch"),
    ),
    "balanced_cross_entropy": Case(
        lambda z: balanced_cross_entropy(z, ratio(z)),
        mean_of_images=False,
        held=lambda z: balanced_assignment(z, ratio(z)),
    ),
    "balanced_cross_entropy over image": Case(
        lambda z: balanced_cross_entropy(z, ratio(z), 0.5, "image"),
        held=lambda z: balanced_assignment(z, ratio(z), 0.5, "image"),
    ),
    "boxes": Case(
        lambda z: boxes(z, *some_boxes(z, len(z.shape) - 2), width=2, filled=(0.6, 0.9)),
        permutation_invariant=False,
        dimension_free=False,
    ),
    # the coordinates say where a pixel is, so that it may be anywhere
    "boxes moved, with a log-barrier": Case(
        lambda z, m: boxes(z, *some_boxes(z, 2), m, width=2, t=5.0), turned
    ),
    # pairs
    "potts": Case(
        lambda z, i: potts(z, i, sigma_color=1.0),
        picture,
        permutation_invariant=False,
        dimension_free=False,
    ),
    "grid_crf": Case(
        lambda z, i, y: grid_crf(z, i, y, potts=0.5),
        scribbled_picture,
        permutation_invariant=False,
        dimension_free=False,
        tensors=5.0,  # weights of the pairs, and what a cut is made from
    ),
    "laplacian": Case(
        lambda z, i: laplacian(z, i, sigma_color=1.0),
        picture,
        permutation_invariant=False,
        dimension_free=False,
    ),
    "laplacian window": Case(
        lambda z, i: laplacian(z, i, "window", sigma_color=1.0),
        picture,
        permutation_invariant=False,
        dimension_free=False,
    ),
    "dense_crf": Case(
        lambda z, i: dense_crf(z, i[:, :1], sigma_color=1.0, sigma_space=12.0),
        picture,
        permutation_invariant=False,
        dimension_free=False,
        tensors=8.0,  # nodes of the grid: as many as an image has pixels, before and after the blur
    ),
    "dense_crf masked": Case(
        lambda z, i, m: dense_crf(z, i[:, :1], sigma_color=1.0, sigma_space=12.0, mask=m),
        masked_picture,
        permutation_invariant=False,
        dimension_free=False,
        tensors=8.0,
    ),
    # two predictions
    "dice_consistency": Case(dice_consistency, class_maps, mean_of_images=False),
    "dice_consistency masked": Case(dice_consistency, masked_maps, mean_of_images=False),
    # self-training
    "mrkld": Case(mrkld),
    "mrkld masked": Case(mrkld, mask, mean_of_images=False),
    "spatial_prior_kl": Case(spatial_prior_kl, class_maps, mean_of_images=False),
    "spatial_prior_kl reverse": Case(
        lambda z, m: spatial_prior_kl(z, m, "prediction_to_prior"), class_maps, mean_of_images=False
    ),
    "spatial_prior_kl over image": Case(
        lambda z, m: spatial_prior_kl(z, m, over="image"), class_maps
    ),
    "spatial_prior_kl reverse, over image": Case(
        lambda z, m: spatial_prior_kl(z, m, "prediction_to_prior", "image"), class_maps
    ),
    # as many superpixels have a class in each image, so that batches may be split
    "landmark_cross_entropy": Case(
        lambda z, s: landmark_cross_entropy(z, s, landmarks(z)), superpixels
    ),
    # adversarial
    "adversarial_loss": Case(
        lambda z: adversarial_loss(discriminator(z), z),
        permutation_invariant=False,
        side=(32, 36),
        volumes=False,
        tensors=5.2,  # the first convolution's gradient, in two layouts
    ),
}
