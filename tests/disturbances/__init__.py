"""What may go wrong around a command that writes: the disk, its inputs, its outputs, its terminal, another process.

Each disturbance yields what it is called and a verdict: ``exact`` (in the end the bytes of an undisturbed run, and
nothing foreign was touched), ``refused`` (a clear message and exit code, nothing foreign was touched), or what was
lost. After a refusal the cause is removed and the same command is given again.
"""

from __future__ import annotations

from random import Random

from refusing_kernel import possible
from verbs import VERBS, World, cleared

from disturbances import disks, inputs, outputs, streams, writers
from disturbances.judging import Verdicts


def everything(
    world: World, draw: Random, every: int, tries: int, names: list[str], mounts: bool
) -> Verdicts:
    """Every disturbance of every verb.

    Args:
        every: moments of a verb that are taken: every n-th.
        tries: of two writers; of rooms, files and moments that are drawn a share.
    """
    few = max(1, tries // 20)
    for verb in (VERBS[name] for name in names):
        for _ in range(few if mounts else 0):
            yield from disks.full(world, verb, draw)
        for _ in range(few):
            yield from disks.quota(_cleared(world), verb, draw)
            yield from streams.signals(world, verb, draw)
        if possible():
            yield from disks.failing(world, verb, draw, every)
        if mounts:
            yield from disks.remounted(world, verb, draw, 4 * every)
        yield from streams.closed(world, verb)
        yield from inputs.edits(world, verb, draw, every)
        yield from inputs.edits_between(world, verb)
        yield from outputs.foreign_before(world, verb, draw, few + 1)
        yield from outputs.places_of_inputs(world, verb, draw)
        yield from outputs.stale_locks(world, verb)
        yield from outputs.edited_outputs(world, verb, draw, few + 1)
        yield from outputs.made_again(world, verb)
        for _ in range(few):
            yield (
                "two writers, the same command",
                writers.both(world, verb, draw, other=False, killed=False),
            )
            yield (
                "two writers, one or both killed",
                writers.both(world, verb, draw, other=False, killed=True),
            )
            if verb.other[0]:
                yield "two writers", writers.both(world, verb, draw, other=True, killed=False)
                yield (
                    "two writers, one or both killed",
                    writers.both(world, verb, draw, other=True, killed=True),
                )
    for _ in range(tries if "predict" in names else 0):
        found = writers.both(world, VERBS["predict"], draw, other=True, killed=False)
        yield "two models in one new folder", found
    for _ in range(few if "run" in names else 0):
        yield "run and report at once", writers.run_and_report(world, draw)


def _cleared(world: World) -> World:
    cleared(world)
    return world
