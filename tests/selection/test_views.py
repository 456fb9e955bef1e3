"""Which images are judged, and that a model predicts no more of them than is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from uda.config.card import Prepare
from uda.config.guard import Guard, Rule
from uda.config.networks import Network
from uda.config.recipe import Compute
from uda.data.items import Numbers
from uda.devices.device import make_fabric
from uda.networks.build import build
from uda.networks.model_file import ModelInfo, save_model
from uda.selection import EVERY, Judge, Scores, UnlabelledImages, look, structure_dice, views
from uda.selection.perturbations import HELD_OUT

SIDE = 32
NETWORK = Network(channels=(4, 8), res_units=1)
CLASSES = ("background", "disk", "ring")
WIDE = Guard(factor=1e9, overlap=0)
"""lets everything pass but lost structures"""


@dataclass(frozen=True)
class Cases:
    """Images of so many slices a case, with a bright square in a frame."""

    sizes: tuple[int, ...]
    depth: int = 1

    def __len__(self) -> int:
        return sum(self.sizes)

    def places(self, numbers: Numbers, seeds: Sequence[int] | None = None) -> Numbers:
        return numbers

    def cases(self, places: Numbers) -> Tensor:
        return torch.from_numpy(np.repeat(np.arange(len(self.sizes)), self.sizes)[places])

    def image(self, places: Numbers) -> Tensor:
        shape = (1, SIDE, SIDE) if self.depth == 1 else (1, self.depth, SIDE, SIDE)
        noise = np.stack([np.random.default_rng(n).standard_normal(shape) for n in places])
        image = torch.from_numpy(noise).float() * 0.01
        image[..., 4:28, 4:28] += 1
        image[..., 10:20, 10:22] += 1
        return image

    def seen(self, places: Numbers, seeds: Sequence[int]) -> Tensor:
        return self.image(places)

    def labelled(self, places: Numbers, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        raise AssertionError("nobody asks for labels")

    def index(self, places: Numbers) -> Tensor:
        return torch.from_numpy(places)


class ByIntensity(nn.Module):
    """Labels a pixel by how bright it is, and counts the images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, image: Tensor) -> Tensor:
        self.images += len(image)
        levels = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, *[1] * (image.dim() - 2))
        return -10 * (image - levels).abs()


FABRIC = make_fabric(Compute(device="cpu"))


def runs(numbers: Numbers) -> list[list[int]]:
    """Neighbouring numbers, at least three."""
    parts = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return [part.tolist() for part in parts if len(part) >= 3]


def test_few_images_are_all_judged() -> None:
    images = UnlabelledImages(Cases((5, 7)), 64)
    assert images.numbers.tolist() == list(range(12))
    assert images.case.tolist() == [0] * 5 + [1] * 7


def test_of_many_a_half_are_whole_cases_and_the_others_lie_in_all_parts_of_the_target() -> None:
    images = UnlabelledImages(Cases((15,) * 25), 64)
    assert len(set(images.numbers.tolist())) == 64
    whole = [set(range(15 * case, 15 * case + 15)) for case in (6, 18)]
    assert all(case <= set(images.numbers.tolist()) for case in whole)
    others = set(images.numbers.tolist()) - set.union(*whole)
    assert len({number // 15 for number in others}) >= 20
    stacks = images.stacks(torch.from_numpy(images.numbers)[:, None, None])
    assert {len(stack) for stack in stacks} >= {15} or max(map(len, stacks)) >= 15
    for stack in stacks:
        assert stack.flatten().diff().unique().tolist() == [1]
        assert len((stack // 15).unique()) == 1


def test_of_long_cases_it_is_the_middle() -> None:
    images = UnlabelledImages(Cases((200,) * 4), 64)
    middles = [run for run in runs(images.numbers) if len(run) >= 16]
    assert len(images.numbers) == 64
    assert [len(run) for run in middles] == [16, 16]
    assert [run[0] % 200 + 8 for run in middles] == [100, 100]


@pytest.mark.parametrize("cases", [Cases((1,) * 300), Cases((9,) * 40, depth=4)])
def test_single_images_and_volumes_are_evenly_spread(cases: Cases) -> None:
    images = UnlabelledImages(cases, 30)
    steps = np.diff(images.numbers)
    assert len(images.numbers) == 30
    assert steps.max() - steps.min() <= 1


def test_slices_of_two_cases_are_no_neighbours_and_volumes_are_stacks_themselves() -> None:
    images = UnlabelledImages(Cases((4, 2, 3)), 64)
    maps = torch.arange(9)[:, None, None]
    assert [s.flatten().tolist() for s in images.stacks(maps)] == [[0, 1, 2, 3], [6, 7, 8]]
    volumes = torch.zeros(5, 6, 2, 2)
    assert len(images.stacks(volumes)) == 5


def test_perturbed_images_are_predicted_when_they_are_asked_for_and_once() -> None:
    model, images = ByIntensity(), UnlabelledImages(Cases((10, 10)), 64)
    seen = look(model, images, FABRIC, 0)
    _ = seen.labels, seen.finite
    assert model.images == 20
    first = seen.held_out
    assert model.images == 40
    assert seen.held_out is first
    _ = seen.perturbed, seen.perturbed
    assert model.images == 60


def test_of_many_images_every_second_one_is_perturbed() -> None:
    model, images = ByIntensity(), UnlabelledImages(Cases((20, 20)), 64)
    before, after = look(model, images, FABRIC, 0).held_out
    assert model.images == 40 + 20
    known = [bool((pair >= 0).all()) for pair in before]
    assert known == [True, False] * 20
    assert [bool((pair >= 0).all()) for pair in after] == known


def test_every_kind_of_a_family_gets_images_even_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    real = views.perturbed

    def noted(kind: str, *args: object) -> object:
        used.append(kind)
        return real(kind, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(views, "perturbed", noted)
    _ = look(ByIntensity(), UnlabelledImages(Cases((5,)), 64), FABRIC, 0).held_out
    assert used == list(HELD_OUT)


def test_held_out_labels_belong_to_the_same_pixels() -> None:
    """A model of intensity alone keeps its labels under a deformation, whose place is that of the image."""
    images = UnlabelledImages(Cases((10,)), 64)
    seen = look(ByIntensity(), images, FABRIC, 0)
    before, after = seen.held_out
    deformed = list(HELD_OUT).index("elastic")
    pair = before[2 * deformed : 2 * deformed + 2], after[2 * deformed : 2 * deformed + 2]
    case = torch.zeros(2, dtype=torch.long)
    plain = seen.labels[2 * deformed : 2 * deformed + 2]
    assert not torch.equal(pair[0], plain)
    together = structure_dice(*pair, case, 3, (1, 2)).mean()
    assert together > 0.9
    assert together > structure_dice(plain, pair[1], case, 3, (1, 2)).mean()


def test_perturbations_are_a_function_of_the_seed() -> None:
    images = UnlabelledImages(Cases((10,)), 64)
    first, same, other = (look(ByIntensity(), images, FABRIC, seed) for seed in (3, 3, 4))
    assert torch.equal(first.held_out[1], same.held_out[1])
    assert torch.equal(first.perturbed[1], same.perturbed[1])
    assert not torch.equal(first.held_out[1], other.held_out[1])


@dataclass
class Bench:
    """A judge of small networks, and what it predicted."""

    folder: Path
    model: nn.Module
    families: list[int] = field(default_factory=list)

    def judge(self, rule: Rule, every: bool = False, guard: Guard = WIDE) -> Judge:
        images = UnlabelledImages(Cases((10, 10)), 64)
        ratio = torch.tensor([0.4, 0.4, 0.2])
        guard = guard.model_copy(update={"rule": rule})
        return Judge(
            images, CLASSES, (1, 2), ratio, self.model, self.model, guard, FABRIC, 0, every=every
        )

    def snapshot(self, bias: Sequence[float] = (0.0, 0.0, 0.0)) -> Path:
        """A file of the network whose last layer prefers some classes."""
        path = self.folder / "model.safetensors"
        model = build(NETWORK, len(CLASSES))
        model.load_state_dict(self.model.state_dict())
        with torch.no_grad():
            *_, last = (one for one in model.modules() if isinstance(one, nn.Conv2d))
            assert last.bias is not None
            last.bias += torch.tensor(bias)
        info = ModelInfo(NETWORK, CLASSES, Prepare(size=(SIDE, SIDE)), ("none",))
        save_model(path, model, info)
        return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    torch.manual_seed(0)
    bench = Bench(tmp_path, build(NETWORK, len(CLASSES)))
    real = views._under

    def noted(kinds: Sequence[str], *args: object) -> object:
        bench.families.append(len(kinds))
        return real(kinds, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(views, "_under", noted)
    return bench


@pytest.mark.parametrize(
    ("ranked", "families"),
    [
        (("nuclear_norm", "ratio_distance", "largest_component", "source_agreement"), []),
        (("held_out", "size_variation"), [len(HELD_OUT)]),
        (("consistency",), [3]),
    ],
)
def test_a_run_computes_what_its_rule_reads_and_no_more(
    bench: Bench, ranked: tuple[str, ...], families: list[int]
) -> None:
    judge = bench.judge(Rule(ranked=ranked, better={}, trust_region=None))
    candidate = judge.judge(bench.snapshot(), 10)
    assert candidate.safe
    assert bench.families == 3 * families  # source model, AdaBN, checkpoint
    assert candidate.probabilities is None
    known = {
        name for name in EVERY if getattr(candidate.alone, name) == getattr(candidate.alone, name)
    }
    assert known == set(ranked)


def test_a_rule_may_also_read_scores_that_do_not_rank(bench: Bench) -> None:
    rule = Rule(ranked=("nuclear_norm",), better={"continuity": 0}, distance=2.0)
    alone = bench.judge(rule).judge(bench.snapshot(), 10).alone
    assert alone.ratio_distance >= 0
    assert 0 <= alone.continuity <= 1
    assert alone.area_smoothness != alone.area_smoothness


def test_agreement_of_checkpoints_costs_memory_only_where_it_is_read(bench: Bench) -> None:
    judge = bench.judge(Rule(ranked=("agreement",)))
    candidate = judge.judge(bench.snapshot(), 10)
    assert candidate.probabilities is not None
    assert judge.scores()["000010"].agreement == pytest.approx(1, abs=1e-3)  # half precision


def test_what_the_gates_reject_is_not_perturbed(bench: Bench) -> None:
    rule = Rule(ranked=("held_out", "nuclear_norm"))
    judge = bench.judge(rule)
    assert len(bench.families) == 2
    candidate = judge.judge(bench.snapshot((1e3, 0, 0)), 10)
    assert candidate.faults
    assert len(bench.families) == 2
    assert all(value != value for value in vars(candidate.alone).values())
    assert "000010" not in judge.choose().ranks


def test_the_bench_gets_every_score_of_rejected_models_too(bench: Bench) -> None:
    judge = bench.judge(Rule(), every=True)
    candidate = judge.judge(bench.snapshot((1e3, 0, 0)), 10)
    assert candidate.faults
    scores = judge.scores(judge.candidates)["000010"]
    assert [name for name in EVERY if getattr(scores, name) != getattr(scores, name)] == []
    assert (scores.held_out, scores.largest_component, scores.size_variation) == (0, 0, 1)


def test_two_checkpoints_agree_by_dice(bench: Bench) -> None:
    judge = bench.judge(Rule(ranked=("nuclear_norm",)))
    same = [judge.judge(bench.snapshot(), step) for step in (10, 20)]
    lost = judge.judge(bench.snapshot((1e3, 0, 0)), 30)
    assert judge.agreement(*same) == 1
    assert judge.agreement(same[0], lost) == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_on_a_device_are_those_of_the_cpu(bench: Bench) -> None:
    path = bench.snapshot((0.0, 0.1, 0.0))
    found: list[dict[str, Scores]] = []
    for device in ("cpu", "cuda"):
        fabric = make_fabric(Compute(device=device))  # type: ignore[arg-type]
        model = build(NETWORK, len(CLASSES))
        model.load_state_dict(bench.model.state_dict())
        model.to(fabric.device)
        images = UnlabelledImages(Cases((10, 10)), 64)
        ratio = torch.tensor([0.4, 0.4, 0.2])
        judge = Judge(images, CLASSES, (1, 2), ratio, model, model, WIDE, fabric, 0, every=True)
        judge.judge(path, 10)
        found.append(judge.scores(judge.candidates))
    for name in found[0]["000010"].__dataclass_fields__:
        if name not in ("consistency", "held_out", "size_variation"):  # other random numbers
            on_cpu, on_gpu = (getattr(one["000010"], name) for one in found)
            assert on_gpu == pytest.approx(on_cpu, abs=2e-3), name
