"""Sampling: epochs of permutations as a function of (seed, step, rank), with no state between calls."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from uda.data.items import Slices
from uda.data.sampling import batch_indices, shuffled_batches
from uda.data.seeds import mix

counts = st.integers(1, 40)
batches = st.integers(1, 9)
seeds = st.integers(0, 2**62)


@settings(max_examples=40, deadline=None)
@given(counts, batches, seeds)
def test_every_image_comes_once_in_each_epoch(count: int, batch: int, seed: int) -> None:
    steps = -(-3 * count // batch)
    drawn = np.concatenate([batch_indices(count, batch, step, seed) for step in range(steps)])
    for epoch in range(3):
        part = drawn[epoch * count : (epoch + 1) * count]
        assert sorted(part.tolist()) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(counts, batches, seeds, st.integers(1, 4), st.integers(0, 20))
def test_ranks_partition_what_one_process_would_draw(
    count: int, batch: int, seed: int, world: int, step: int
) -> None:
    together = batch_indices(count, batch * world, step, seed)
    ranks = [batch_indices(count, batch, step, seed, rank, world) for rank in range(world)]
    np.testing.assert_array_equal(np.concatenate(ranks), together)


@settings(max_examples=20, deadline=None)
@given(counts, batches, seeds, st.integers(0, 50))
def test_a_batch_does_not_depend_on_what_was_drawn_before(
    count: int, batch: int, seed: int, step: int
) -> None:
    alone = batch_indices(count, batch, step, seed)
    for other in (step + 7, 0, step + 1):
        batch_indices(count, batch, other, seed + 1)
    np.testing.assert_array_equal(batch_indices(count, batch, step, seed), alone)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(batch_indices(50, 50, step, seed)) for step in range(3) for seed in range(3)}
    assert len(orders) == 9


def test_a_batch_larger_than_the_data_set_goes_round() -> None:
    drawn = batch_indices(3, 7, 0, seed=1)
    assert np.bincount(drawn).tolist() in ([2, 2, 3], [2, 3, 2], [3, 2, 2])


def test_every_image_leads_an_epoch_about_equally_often() -> None:
    first = np.array([batch_indices(4, 4, step, seed=0)[0] for step in range(400)])
    assert np.bincount(first, minlength=4).min() > 70


def test_a_seed_depends_on_every_part_and_on_where_parts_end() -> None:
    parts = [(1, "a"), (1, "b"), (2, "a"), ("a", 1), (11,), (1, 1), ("1a",)]
    found = [mix(*p) for p in parts]
    assert len(set(found)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in found)


def test_a_seed_is_the_same_in_every_process_and_on_every_machine() -> None:
    assert mix(0, "pretrain", "augment", 3, 0) == 284027164504308865


class Row(Slices):
    """Slices that stand in no store."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def image(self, places: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(self.images[places])[:, None]


@settings(max_examples=25, deadline=None)
@given(counts, batches, seeds)
def test_shuffled_batches_hold_every_image_once(count: int, batch: int, seed: int) -> None:
    images = Row(np.arange(count, dtype=np.float32)[:, None, None])
    parts = list(shuffled_batches(images, batch, seed))
    assert sorted(float(image) for part in parts for image in part) == list(range(count))
    assert all(part.shape[1:] == (1, 1, 1) and 0 < len(part) <= 2 * batch for part in parts)
    again = shuffled_batches(images, batch, seed)
    assert all(bool((a == b).all()) for a, b in zip(parts, again, strict=True))


def test_shuffled_batches_mix_cases() -> None:
    images = Row(np.repeat(np.arange(4, dtype=np.float32), 32)[:, None, None])
    for part in shuffled_batches(images, 32, seed=0):
        assert len(part.unique()) == 4
