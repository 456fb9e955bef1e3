"""Distances between the surfaces of two masks, by the cheaper of two exact methods.

A k-d tree of the points is fast if the surfaces are close together, even with stray pixels far apart. A distance
transform costs the same for all surfaces. On 256³ voxels the wrong choice costs 40 s instead of 3. Where axes are not
at right angles only the tree is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Spacing = Sequence[float] | Floats
"""Distance between pixel centres along each axis; or, where axes are not at right angles, the matrix whose columns are
the steps along them."""

# Costs in microseconds, measured on one core; only their ratios matter, and only for speed.
PER_VOXEL = 0.12  # distance transform
PER_POINT = 0.3  # building the tree
PER_QUERY = 0.5  # query of a point whose neighbour is adjacent
PER_REACH = 2e-5  # extra per query, point in the tree and pixel of distance
REACH = 50.0  # pixels of distance beyond which a query costs no more
SAMPLE = 256  # points that estimate the distance between the surfaces


def bounding_box(mask: Mask) -> tuple[slice, ...]:
    """Smallest box around the mask; empty for an empty mask."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        filled = np.flatnonzero(mask.any(axis=others))
        span = slice(int(filled[0]), int(filled[-1]) + 1) if len(filled) else slice(0, 0)
        box.append(span)
        mask = mask[tuple(span if other == axis else slice(None) for other in range(mask.ndim))]
    return tuple(box)


def surface(mask: Mask) -> Mask:
    """Pixels of the mask with one of their 6 (2-D: 4) neighbours outside the mask or the array."""
    inner: Mask = mask.copy()
    for axis in range(mask.ndim):
        eroded, along = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        eroded[1:] &= along[:-1]
        eroded[:-1] &= along[1:]
        eroded[[0, -1]] = False
    np.logical_not(inner, out=inner)
    inner &= mask
    return inner


def surface_distances(a: Mask, b: Mask, spacing: Spacing) -> tuple[Floats, Floats]:
    """Distance of each surface pixel of ``a`` to the surface of ``b``, and of ``b`` to ``a``, in units of ``spacing``.

    The masks have one shape and are not empty. Each result lists the pixels on both surfaces (distance 0) last.
    """
    edges = []
    for mask in (a, b):
        edge, box = np.zeros_like(mask), bounding_box(mask)
        edge[box] = surface(mask[box])
        edges.append(edge)
    return _directed(edges[0], edges[1], spacing), _directed(edges[1], edges[0], spacing)


def _directed(queries: Mask, target: Mask, spacing: Spacing) -> Floats:
    apart = queries & ~target
    shared = np.count_nonzero(queries) - np.count_nonzero(apart)
    found = by_tree(
        apart, target, spacing, PER_VOXEL * target.size if np.ndim(spacing) == 1 else np.inf
    )
    if found is None:
        found = by_transform(apart, target, np.ravel(spacing))
    return np.concatenate([found, np.zeros(shared)])


def by_tree(queries: Mask, target: Mask, spacing: Spacing, limit: float = np.inf) -> Floats | None:
    """Distances of ``queries`` to ``target``, which is not empty, by a k-d tree of its points.

    Returns:
        None if that would cost more than ``limit`` microseconds.
    """
    from scipy.spatial import KDTree

    n_queries, n_points = np.count_nonzero(queries), np.count_nonzero(target)
    if n_queries == 0:
        return np.empty(0)
    if PER_POINT * n_points + PER_QUERY * n_queries > limit:
        return None
    tree = KDTree(places(np.argwhere(target), spacing), leafsize=32, balanced_tree=False)
    points = places(np.argwhere(queries), spacing)
    if np.isfinite(limit):
        sample = tree.query(points[:: -(-n_queries // SAMPLE)])[0]
        pixels = float(sample.mean()) / float(np.prod(spacing)) ** (1 / len(spacing))
        if (PER_QUERY + PER_REACH * n_points * min(pixels, REACH)) * n_queries > limit:
            return None
    return np.asarray(tree.query(points)[0], dtype=np.float64)


def places(indices: npt.NDArray[Any], spacing: Spacing) -> Floats:
    """Where pixels ``[n, d]`` lie, in units of ``spacing``, seen from the first one."""
    steps = np.asarray(spacing, dtype=np.float64)
    found: Floats = indices * steps if steps.ndim == 1 else indices @ steps.T
    return found


def by_transform(queries: Mask, target: Mask, spacing: Sequence[float] | Floats) -> Floats:
    """Distances of ``queries`` to ``target`` by a distance transform of the whole array."""
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(
        ~target, sampling=spacing, return_distances=False, return_indices=True
    )
    squared = np.zeros(np.count_nonzero(queries))
    for axis, step in enumerate(spacing):
        own = np.arange(target.shape[axis], dtype=nearest.dtype)
        nearest[axis] -= own.reshape([-1 if a == axis else 1 for a in range(target.ndim)])
        squared += (nearest[axis][queries] * float(step)) ** 2
    return np.sqrt(squared)
