"""Centroid pseudo-labels: whose features, how sampled, on which grid."""

from __future__ import annotations

from pathlib import Path

import torch
from scene import batch_of, network, objective_of, set_up, target_images, term, train

from uda import losses
from uda.networks.heads import features_of
from uda.training.parts.centroids import CentroidLabels
from uda.types import TargetBatch


def test_labels_are_the_nearest_centroids_of_the_rounds_network_on_the_features_grid() -> None:
    _, part = set_up(network(), term("centroid_pseudo_labels", pixels=50), CentroidLabels)
    part.begin(0)
    assert part.centroids is not None
    assert part.centroids.shape == (3, 12)
    torch.testing.assert_close(part.centroids.norm(dim=1), torch.ones(3))
    image = target_images()[:2]
    notes = part.annotate(TargetBatch(image, torch.arange(len(image))))
    with torch.no_grad(), features_of(part.teacher) as seen:
        part.teacher(image)
    assert seen[0].shape == (2, 12, 16, 16)
    coarse = losses.assign_centroids(seen[0], part.centroids)
    assert torch.equal(notes[:, 0].long(), coarse.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_centroids_stay_within_a_round_and_move_at_the_next() -> None:
    student = network()
    _, part = set_up(student, term("centroid_pseudo_labels", round_steps=3), CentroidLabels)
    part.begin(0)
    assert part.centroids is not None
    first = part.centroids.clone()
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.5)
    part.begin(1)
    assert torch.equal(part.centroids, first)
    part.begin(3)
    assert not torch.equal(part.centroids, first)


def test_the_network_learns_its_centroid_labels(tmp_path: Path) -> None:
    made = [term("centroid_pseudo_labels", round_steps=1000)]
    objective = objective_of(*made)
    kept, _ = train(
        tmp_path,
        made,
        objective=objective,
        batches=lambda step: batch_of(step % 6),
        steps=150,
        save_every=150,
    )
    labels = objective.parts[0].annotate(
        TargetBatch(target_images(), torch.arange(len(target_images())))
    )
    assert labels is not None
    with torch.no_grad():
        found = kept.train()(target_images()).argmax(1)
        start = network().train()(target_images()).argmax(1)
    agreement, before = (float((x == labels[:, 0].long()).float().mean()) for x in (found, start))
    assert agreement > before
    assert agreement > 0.7
