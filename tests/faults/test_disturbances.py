"""Disks that refuse, edits, foreign files, closed terminals, a second writer: a selection; the campaign takes all."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import pytest
from disturbances import disks, everything, inputs, outputs, streams, writers
from disturbances.judging import guarded, moments
from refusing_kernel import possible
from verbs import (
    VERBS,
    World,
    cleared,
    edited,
    ended_as,
    expected,
    held,
    live,
    make_world,
    other_content,
)

QUICK = ("evaluate", "prior", "convert")


@pytest.fixture(scope="module")
def world(finished_once: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("verbs"), finished_once / "run")


@pytest.fixture(autouse=True)
def _empty(world: World) -> Iterator[None]:
    cleared(world)
    yield
    cleared(world)


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> Random:
    return Random(request.node.name)  # noqa: S311 - no secret


def sound(verdicts: Iterable[tuple[str, str]], *allowed: str) -> list[str]:
    found = list(verdicts)
    assert all(verdict in (allowed or ("exact",)) for _, verdict in found), found
    return [verdict for _, verdict in found]


@pytest.mark.skipif(not possible(), reason="needs seccomp of x86-64")
def test_calls_that_fail_leave_nothing_half_written(world: World, draw: Random) -> None:
    last = moments(world, VERBS["prior"])
    assert len(sound(disks.failing(world, VERBS["prior"], draw, last))) == 4


def test_a_disk_without_room_is_told_and_the_work_goes_on(
    world: World, draw: Random, tmp_path: Path
) -> None:
    sound(disks.quota(world, VERBS["evaluate"], draw))
    if not disks.may_mount(tmp_path / "mount"):
        pytest.skip("no right to mount")
    assert len(sound(disks.full(world, VERBS["evaluate"], draw))) == 2


def test_signals_and_closed_streams_end_no_work(world: World, draw: Random) -> None:
    sound(streams.signals(world, VERBS["prior"], draw))
    sound(streams.closed(world, VERBS["check --from-nnunet"]))


def test_an_edit_during_the_run_is_never_mixed_in(world: World, draw: Random) -> None:
    last = moments(world, VERBS["prior"], reads=True)
    assert sound(inputs.edits(world, VERBS["prior"], draw, last // 2), "exact", "refused")


def test_an_edit_that_keeps_size_and_time_is_noticed(world: World) -> None:
    assert "exact" in sound(inputs.edits_between(world, VERBS["evaluate"]), "exact", "refused")


@pytest.mark.parametrize("verb", QUICK)
def test_foreign_files_and_edited_results_stay(world: World, draw: Random, verb: str) -> None:
    sound(outputs.foreign_before(world, VERBS[verb], draw, 1), "exact", "refused")
    sound(outputs.edited_outputs(world, VERBS[verb], draw, 1), "exact", "refused")


def test_a_result_is_made_again_beside_foreign_files(world: World) -> None:
    assert len(sound(outputs.made_again(world, VERBS["evaluate"]))) == 2


def test_two_models_in_one_new_folder_are_never_mixed(world: World, draw: Random) -> None:
    for _ in range(2):
        found = writers.both(world, VERBS["predict"], draw, other=True, killed=False)
        assert found in ("exact", "refused")


def test_no_output_replaces_an_input(world: World, draw: Random) -> None:
    found = sound(outputs.places_of_inputs(world, VERBS["prior"], draw), "exact", "refused")
    assert "refused" in found


@pytest.mark.campaign
@pytest.mark.parametrize("verb", list(VERBS))
def test_a_share_of_all_disturbances_loses_nothing(
    world: World, draw: Random, verb: str, tmp_path: Path
) -> None:
    """`python benchmarks/faults.py --parts disturbances` takes all."""
    mounts = disks.may_mount(tmp_path / "mount")
    sound(everything(world, draw, 60, 1, [verb], mounts), "exact", "refused")


def test_what_is_touched_or_mixed_is_noticed(world: World) -> None:
    """The judges of the campaign."""
    verb = VERBS["check --from-nnunet"]
    right = expected(world, verb)
    assert live(world, verb.typed(world)) == 0
    assert ended_as(world, 0, right) == "exact"
    before = held(world.given)
    path = world.given / "nnunet" / "dataset.json"
    with inputs.restored(path):
        path.write_bytes(edited(path.name, path.read_bytes()))
        assert guarded(world, "exact", before).startswith("touched given/nnunet/dataset.json")
        assert guarded(world, "exact", before, path) == "exact"
    assert guarded(world, "exact", before) == "exact"
    assert other_content(world, "nnunet/dataset.json") != path.read_bytes()
    (world.disk / ".half").touch()
    assert ended_as(world, 0, right) == "left .half"
    (world.out / "card.yaml").write_text("other")
    assert ended_as(world, 0, right) == "other bytes: card.yaml"
    shutil.rmtree(world.out)
    world.errors.write_text("Traceback: error: no\n")
    assert ended_as(world, 1, right).startswith("exit code 1")
