"""Batches of which a share is drawn from chosen images."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from uda.data.sampling import Share, batch_indices, positions_of


@given(
    st.integers(2, 40), st.integers(1, 12), st.data(), st.integers(0, 2**63 - 1), st.integers(0, 30)
)
def test_the_images_from_all_are_those_of_a_batch_without_chosen_ones(
    count: int, drawn: int, data: st.DataObject, seed: int, step: int
) -> None:
    more = data.draw(st.integers(0, 8))
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    share = Share(drawn, drawn + more, chosen)
    numbers, seeds = share.indices(count, positions_of(drawn + more, step), seed)
    np.testing.assert_array_equal(numbers[:drawn], batch_indices(count, drawn, step, seed))
    assert set(numbers[drawn:]) <= set(chosen)
    assert len(set(seeds)) == drawn + more


def test_every_chosen_image_comes_once_an_epoch() -> None:
    chosen = np.array([3, 5, 8, 9, 11])
    share = Share(2, 4, chosen)
    drawn = [share.indices(20, positions_of(4, step), 7)[0][2:] for step in range(5)]
    assert sorted(np.concatenate(drawn)) == sorted([*chosen, *chosen])


def test_processes_draw_what_one_process_draws() -> None:
    share = Share(4, 8, np.array([1, 4, 6]))
    numbers, seeds = share.indices(30, positions_of(8, 3), 5)
    parts = [share.indices(30, positions_of(2, 3, rank, 4), 5) for rank in range(4)]
    np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), numbers)
    assert [seed for part in parts for seed in part[1]] == seeds


def test_a_batch_of_chosen_images_alone() -> None:
    numbers, _ = Share(0, 6, np.array([2, 3])).indices(9, positions_of(6, 0), 0)
    assert sorted(numbers) == [2, 2, 2, 3, 3, 3]
