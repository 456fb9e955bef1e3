"""Dual variables: where they start, where they go, and what that does to the network."""

from __future__ import annotations

from pathlib import Path

import torch
from scene import batch_of, network, set_up, target_images, term, train

from uda import losses
from uda.training.parts.dual import DualClassRatio


def test_they_start_at_the_prior_and_ascend_to_the_predicted_ratio() -> None:
    student = network()
    objective, part = set_up(student, term("dual_class_ratio", rate=0.5), DualClassRatio)
    torch.testing.assert_close(part.log_dual.exp(), 1 / torch.tensor([0.7, 0.2, 0.1]))
    batch = batch_of(0)
    assert batch.target is not None
    with torch.no_grad():
        logits = student(batch.target.image)
    for step in range(60):
        objective(batch, None, logits, step)
        objective.after(step)
    ratio = losses.class_ratio(logits).mean(0)
    torch.testing.assert_close(part.log_dual.exp() * ratio, torch.ones(3), atol=1e-3, rtol=0)
    prior = torch.tensor([0.7, 0.2, 0.1])
    value = losses.dual_class_ratio(logits, prior, part.log_dual)
    divergence = losses.class_ratio_kl(logits, prior, "prior_to_prediction", "batch")
    torch.testing.assert_close(value, divergence, atol=1e-4, rtol=1e-3)


def test_they_bring_the_data_sets_ratio_to_the_prior(tmp_path: Path) -> None:
    made = [term("dual_class_ratio", rate=0.3)]
    kept, _ = train(
        tmp_path, made, batches=lambda step: batch_of(step % 6), steps=150, save_every=150
    )
    with torch.no_grad():
        ratio = losses.class_ratio(kept.train()(target_images())).mean(0)
    torch.testing.assert_close(ratio, torch.tensor([0.7, 0.2, 0.1]), atol=0.05, rtol=0)
