"""Scoring of photographs: IoU from confusion matrices at the size of the files (:mod:`uda.evaluation.miou`).

Threads read the images again for each row, ahead of the network, so memory does not grow with their number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from uda.config.card import PhotoPrepare
from uda.config.colors import palette
from uda.config.postprocess import NO_STEPS, Postprocess
from uda.data.cases import Case
from uda.data.images import ordered, resize_photo
from uda.data.sources import photo_classes
from uda.devices.distributed import share, sum_arrays, this_process
from uda.errors import ModelError, UdaError
from uda.evaluation.miou import IOU_RULES, Confusion, summarise_iou
from uda.evaluation.rows import Row, Task
from uda.files.atomic import atomic_path, write_json, write_text
from uda.files.csv_files import csv_text
from uda.networks.model_file import ModelInfo, check_classes, load_model, union
from uda.prediction.photos import (
    PreparedPhoto,
    classes_of,
    entropy_of,
    multi_scale_classes,
    photo_logits,
    read_prepared,
    shown_labels,
    shown_size,
    write_classes,
)

SINGLE_SCALE = (
    "Logits of the prepared size, interpolated (bilinear) to the file's pixels, then the largest."
)

Labelled = tuple[PreparedPhoto, NDArray[np.uint8]]


class PhotoScorer:
    """Predicts and scores rows on the same photographs; see :class:`uda.evaluation.rows.Scorer`."""

    measure = "iou"
    rules = (SINGLE_SCALE, *IOU_RULES)

    def __init__(self, task: Task) -> None:
        if not isinstance(task.info.prepare, PhotoPrepare):
            raise ModelError("the model's images are volumes, but the card's are photographs")
        self.cases, self.card, self.prepare = task.cases, task.card, task.info.prepare
        self.settings, self.fabric = task.settings, task.fabric
        self.workers, self.out, self.trust_code = task.workers, task.out, task.trust_code
        self.matrices: dict[str, NDArray[np.int64]] = {}
        self.predicted: dict[str, Row] = {}
        self.scaled: list[dict[str, Any]] = []

    def row(self, row: Row, extra: Sequence[str] = ()) -> dict[str, Any]:
        model, info = self._model(row.model)
        scaling = self.settings.convention == "multi_scale" and not row.steps.on
        scales = self.settings.scales if scaling else ()
        saved = self.out / "predictions" / row.name if self.settings.save_predictions else None
        plain, scaled = self._matrices(model, scales, saved, row.steps)
        self.matrices[row.name], self.predicted[row.name] = plain, row
        supervision = list(union(info.supervision, extra))
        if scaled is not None:
            scores = self._summary(scaled)
            self.scaled.append({"name": row.name, "supervision": supervision, **scores})
        return {
            "name": row.name,
            "stage": row.stage,
            "supervision": supervision,
            "step": info.step,
            **self._summary(plain),
        }

    def mean(self, model: Path) -> float:
        matrices, _ = self._matrices(self._model(model)[0])
        return self._summary(matrices)["iou"]["mean"] or 0.0

    def conventions(self) -> dict[str, Any]:
        if not self.scaled:
            return {}
        scales = ", ".join(f"{scale:g}" for scale in self.settings.scales)
        rule = f"Mean probabilities of the image at scales {scales} and of its mirror images."
        return {"multi_scale": {"rules": [rule, *IOU_RULES], "rows": self.scaled}}

    def _model(self, path: Path) -> tuple[nn.Module, ModelInfo]:
        model, info = load_model(path, trust_code=self.trust_code)
        check_classes(info, self.card, path)
        return model.to(self.fabric.device), info

    def _summary(self, matrices: NDArray[np.int64]) -> dict[str, Any]:
        return summarise_iou(matrices, self.card.classes, self.settings.subsets)

    def _matrices(
        self,
        model: nn.Module,
        scales: Sequence[float] = (),
        saved: Path | None = None,
        steps: Postprocess = NO_STEPS,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """Confusion matrices ``[images, k, k]``, and with ``scales`` also those of the multi-scale prediction."""
        count, device = len(self.card.classes), self.fabric.device
        plain, scaled = (Confusion(count, len(self.cases), device) for _ in range(2))
        own = share(len(self.cases), this_process())
        for number, (photo, reference) in zip(own, self._read(own), strict=True):
            label = torch.from_numpy(reference).to(device, non_blocking=True)
            logits = photo_logits(model, self.fabric, photo, self.prepare, steps)
            found = classes_of(logits, photo.size)
            plain.add(number, found, label)
            if saved is not None:
                path = saved / f"{photo.case.name}.png"
                write_classes(path, found.cpu().numpy(), palette(self.card))
            if scales:
                found = multi_scale_classes(model, self.fabric, photo, self.prepare, scales)
                scaled.add(number, found, label)
        names = [case.name for case in self.cases]
        return sum_arrays(plain.matrices(names)), sum_arrays(
            scaled.matrices(names)
        ) if scales else None

    def _read(self, numbers: Sequence[int]) -> Iterator[Labelled]:
        """Photographs and their labels, decoded ahead by threads."""

        def read(case: Case) -> Labelled:
            photo = read_prepared(case, self.prepare)
            return photo, photo_classes(case, photo.geometry, self.card)

        found = ordered(read, [self.cases[number] for number in numbers], self.workers)
        with contextlib.closing(found):
            for one in found:
                if isinstance(one, UdaError):
                    raise one
                yield one

    def write(self, ranked: str) -> None:
        self._write_cases()
        self._write_overlays(ranked)

    def _write_cases(self) -> None:
        rows = [["row", "case", "structure", "iou", "state"]]
        for row, matrices in self.matrices.items():
            for case, matrix in zip(self.cases, matrices, strict=True):
                for name, value, state in image_scores(matrix, self.card.classes):
                    number = "" if value is None else f"{value:.6f}"
                    rows.append([row, case.name, name, number, state])
        write_text(self.out / "cases.csv", csv_text(rows))

    def _write_overlays(self, ranked: str) -> None:
        """Write pictures of three photographs; every row's model predicts them again."""
        means = [_image_mean(matrix, self.card.classes) for matrix in self.matrices[ranked]]
        order = np.argsort(means, kind="stable")
        picks = {"worst": order[0], "median": order[len(order) // 2], "best": order[-1]}
        photos = list(self._read([int(number) for number in picks.values()]))
        arrays: dict[str, Any] = {}
        entries = []
        for key, (rank, (photo, reference)) in enumerate(zip(picks, photos, strict=True)):
            size = shown_size(self.prepare.size)
            arrays[f"image_{key}"] = resize_photo(photo.planes.transpose(1, 2, 0), size)
            arrays[f"reference_{key}"] = shown_labels(reference, size)
            case = photo.case.name
            entry = {"case": case, "slice": 0, "rank": rank, "row": ranked}
            entries.append({**entry, "key": str(key), "aspect": 1.0})
        for name, row in self.predicted.items():
            model, _ = self._model(row.model)
            for key, (photo, _) in enumerate(photos):
                size = shown_size(self.prepare.size)
                logits = photo_logits(model, self.fabric, photo, self.prepare, row.steps)
                found = classes_of(logits, photo.size).cpu().numpy()
                arrays[f"{name}__{key}"] = shown_labels(found, size)
                entropy = (entropy_of(logits) * 255).round().to(torch.uint8).cpu().numpy()
                arrays[f"{name}__entropy__{key}"] = shown_labels(entropy, size)
        with atomic_path(self.out / "overlays.npz") as path:
            np.savez_compressed(path, **arrays)
        write_json(self.out / "overlays.json", entries)


def image_scores(
    matrix: NDArray[np.int64], classes: Sequence[str]
) -> list[tuple[str, float | None, str]]:
    """Class, IoU and state (``ok``, ``missed``, ``spurious``, ``n/a``) of one image."""
    hits, shown, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    states = {(True, True): "ok", (True, False): "missed", (False, True): "spurious"}
    scores: list[tuple[str, float | None, str]] = []
    for k, name in enumerate(classes):
        union_ = int(shown[k] + predicted[k] - hits[k])
        state = states.get((bool(shown[k]), bool(predicted[k])), "n/a")
        scores.append((name, float(hits[k] / union_) if union_ else None, state))
    return scores


def _image_mean(matrix: NDArray[np.int64], classes: Sequence[str]) -> float:
    found = [value for _, value, _ in image_scores(matrix, classes) if value is not None]
    return float(np.mean(found)) if found else 0.0
