"""Two heads: their losses and weights, their learning rate, and a head that rests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from uda import losses
from uda.config.networks import DeepLab, Network
from uda.config.recipe import Compute, Training
from uda.config.terms import AdversarialTerm, CrossEntropyTerm, DualClassRatioTerm, EntropyTerm
from uda.devices.device import make_fabric
from uda.errors import ModelError
from uda.networks.build import build
from uda.networks.heads import head_parameters, use_auxiliary
from uda.networks.model_file import load_model
from uda.training.loop import Run, fit, learning_rate, make_optimizer
from uda.training.objective import Objective
from uda.training.parts import PriorTensors
from uda.types import Batch, SourceBatch, TargetBatch

K = 4


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch() -> Batch:
    label = torch.randint(0, K, (2, 40, 48), generator=torch.Generator().manual_seed(1))
    source = SourceBatch(draw(2, 2, 3, 40, 48), label)
    return Batch(source, TargetBatch(draw(3, 2, 3, 40, 48), torch.arange(2)))


def test_each_term_weighs_both_heads_by_its_own_factors() -> None:
    terms = (CrossEntropyTerm(weight=1.0, aux=0.1), EntropyTerm(weight=1e-3, aux=2e-4))
    objective = Objective(terms)
    objective.setup(make_fabric(Compute(device="cpu")), nn.Identity())
    logits = [draw(n, 2, K, 40, 48) for n in range(4)]
    given = batch()
    loss, values = objective(given, (logits[0], logits[1]), (logits[2], logits[3]), step=0)
    assert given.source is not None
    main, aux = (losses.cross_entropy(part, given.source.label) for part in logits[:2])
    first, second = (losses.entropy(part) for part in logits[2:])
    torch.testing.assert_close(loss, main + 0.1 * aux + 1e-3 * first + 2e-4 * second)
    torch.testing.assert_close(values["cross_entropy"], main)
    torch.testing.assert_close(values["entropy"], first)


def test_a_weight_on_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelError, match="one head"):
        use_auxiliary(build(Network(channels=(4, 8)), K, 3), True)


def deeplab(auxiliary: bool = True) -> nn.Module:
    torch.manual_seed(0)
    settings = DeepLab(kind="deeplab_v2", backbone="small", stride=16, auxiliary=auxiliary)
    return build(settings, K, 3)


def test_a_second_head_that_no_term_asks_for_rests() -> None:
    model = deeplab()
    use_auxiliary(model, False)
    assert isinstance(model.train()(batch().source.image), Tensor)  # type: ignore[union-attr]
    assert {p.requires_grad for p in head_parameters(model)} == {True, False}
    use_auxiliary(model, True)
    assert len(model(batch().source.image)) == 2  # type: ignore[union-attr]


def settings(**changes: Any) -> Training:
    plain = {"steps": 2, "batch": 2, "lr": 0.1, "objective": (CrossEntropyTerm(aux=0.1),)}
    return Training.model_validate({"optimizer": "sgd", "momentum": 0.0, **plain, **changes})


def test_the_classifiers_learn_ten_times_as_fast(tmp_path: Path) -> None:
    """One plain SGD step moves each weight by its rate times its gradient."""
    steps = {}
    for times in (1.0, 10.0):
        model = deeplab()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        chosen = settings(steps=1, head_lr=times, weight_decay=0.0, clip=0.0)
        fit(
            make_fabric(Compute(device="cpu")),
            model,
            Objective((CrossEntropyTerm(aux=0.1),)),
            chosen,
            lambda _: Batch(batch().source),
            Run(0, "stage", tmp_path / str(times)),
            set_mode=lambda m: m.train(),
            snapshot=lambda m, s: False,
            heads=head_parameters(model),
        )
        steps[times] = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    heads = [n for n in steps[1.0] if "classifier" in n]
    rest = [n for n in steps[1.0] if "classifier" not in n]
    assert heads
    for name in heads:
        torch.testing.assert_close(steps[10.0][name], 10 * steps[1.0][name], rtol=1e-4, atol=1e-7)
    for name in rest:
        torch.testing.assert_close(steps[10.0][name], steps[1.0][name])


def test_without_a_factor_there_is_one_group() -> None:
    model = deeplab()
    assert len(make_optimizer(model, settings()).param_groups) == 1
    groups = make_optimizer(model, settings(head_lr=10), head_parameters(model)).param_groups
    assert [group["times"] for group in groups] == [1.0, 10.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_schedule_may_reach_beyond_the_last_step() -> None:
    """ADVENT plans 250,000 steps and stops at 120,000."""
    cut = settings(steps=120, horizon=250, schedule="poly")
    whole = settings(steps=250, schedule="poly")
    assert [learning_rate(cut, s) for s in (0, 60, 119)] == [
        learning_rate(whole, s) for s in (0, 60, 119)
    ]
    with pytest.raises(ValueError, match="horizon"):
        settings(steps=120, horizon=100)


def test_each_head_has_its_discriminator_and_both_are_in_the_checkpoint(tmp_path: Path) -> None:
    terms = (CrossEntropyTerm(aux=0.1), AdversarialTerm(weight=1e-3, aux=2e-4, width=4))
    objective = Objective(terms, images=lambda: iter([batch().target.image]))  # type: ignore[union-attr]
    objective.setup(make_fabric(Compute(device="cpu")), deeplab())
    before = {k: v.clone() for k, v in objective.state().items()}
    assert {name.split(".")[1] for name in before} == {"main", "auxiliary"}
    logits = [draw(n, 2, K, 40, 48) for n in range(4)]
    loss, _ = objective(batch(), (logits[0], logits[1]), (logits[2], logits[3]), step=0)
    assert bool(loss.isfinite())
    objective.after(0)
    after = objective.state()
    for head in ("main", "auxiliary"):
        moved = [
            k for k in before if f".{head}.network" in k and not torch.equal(before[k], after[k])
        ]
        assert moved


def test_the_dual_variables_follow_the_main_head() -> None:
    known = PriorTensors(ratio=torch.full((2, K), 1 / K))
    states = []
    for aux in (0.0, 0.5):
        objective = Objective((DualClassRatioTerm(aux=aux),), known)
        objective.setup(make_fabric(Compute(device="cpu")), nn.Identity())
        objective(batch(), None, (draw(1, 2, K, 40, 48), draw(2, 2, K, 40, 48)), step=0)
        objective.after(0)
        states.append(objective.state()["0.log_dual"])
    torch.testing.assert_close(states[0], states[1])


def test_a_3d_deeplab_is_refused() -> None:
    with pytest.raises(ValueError, match="spatial_dims must be 2"):
        DeepLab(kind="deeplab_v2", spatial_dims=3, patch=(8, 8, 8))


def test_weights_that_cannot_be_had_are_told_before_any_image_is_prepared(tmp_path: Path) -> None:
    """And a file's content is part of the stage: other weights train again."""
    from tiny_photos import write_world

    from uda.config.loading import load_recipe
    from uda.errors import DataError, UdaError
    from uda.pipeline.run import run

    def recipe(weights: Path) -> Any:
        return load_recipe(
            "street_phantom",
            [
                *("data.streets=null", f"data.root={tmp_path / 'data'}", "data.size=[48,96]"),
                *(
                    "sources={}",
                    "pretrain.steps=0",
                    "network.stride=16",
                    f"network.weights={weights}",
                ),
                "compute.device=cpu",
            ],
        )

    write_world(tmp_path / "data", game=2, train=1, val=1)
    with pytest.raises(DataError, match="no such file"):
        run(recipe(tmp_path / "absent.pth"), tmp_path / "out", until="pretrain")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"nothing")
    with pytest.raises(UdaError, match=r"broken\.safetensors"):
        run(recipe(broken), tmp_path / "out", until="pretrain")
    backbone = deeplab().get_submodule("backbone")
    assert not list((tmp_path / "out").glob("pretrain"))
    for seed in range(2):
        torch.manual_seed(seed)
        file = tmp_path / "weights.safetensors"
        state = {
            k: torch.rand_like(v) if v.is_floating_point() else v
            for k, v in backbone.state_dict().items()
        }
        save_file(state, file)
        ran = run(recipe(file), tmp_path / "out", until="pretrain")
        assert [done.name for done in ran if done.ran] == ["pretrain"]
        model, _ = load_model(tmp_path / "out" / "pretrain")
        kept = model.get_submodule("backbone").state_dict()
        assert all(torch.equal(kept[name], state[name]) for name in state)
