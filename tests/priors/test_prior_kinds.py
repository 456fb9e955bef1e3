"""Every kind of prior, from a recipe and for a user's model: the files it reads, its values, its ledger."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from conftest import SIZE, SLICES, Tiny, write_nifti

from uda import api
from uda.config.card import DatasetCard
from uda.config.loading import load_recipe
from uda.config.networks import Network
from uda.config.priors import KINDS
from uda.config.recipe import Adapt, Recipe
from uda.data.items import Slices
from uda.data.store import Store
from uda.devices.device import make_fabric
from uda.errors import ConfigError, DataError, ModelError, PriorError
from uda.networks.heads import features_of
from uda.networks.model_file import load_model, save_model
from uda.pipeline import run as pipeline
from uda.pipeline.domains import Domains
from uda.pipeline.network_fit import check_adaptation
from uda.priors import Prior, Seeds, label_maps, label_table, nearest_ratios, size_distribution
from uda.priors.class_activation import fit_tags
from uda.priors.estimate import card_tags
from uda.priors.network_evidence import image_features

CLASSES = ("background", "disk", "ring")
KINDS_OF_PRIOR: dict[str, dict[str, Any]] = {
    "ratio": {"kind": "source_labels"},
    "spatial": {"kind": "spatial", "sigma": 1.5},
    "tags": {"kind": "target_tags"},
    "cam": {"kind": "cam", "min_accuracy": 0, "stride": 2},
    "ml": {"kind": "sizes_ml", "sizes_ml": {"disk": 2.0, "ring": 3.0}},
    "mm2": {"kind": "areas_mm2", "areas_mm2": {"disk": 200.0, "ring": 300.0}},
    "own": {"kind": "predicted"},
    "own_target": {"kind": "predicted", "batchnorm": "target", "per_image": True},
    "nearest": {"kind": "image_level"},
    "logistic": {"kind": "image_level", "method": "logistic"},
    "ridge": {"kind": "image_level", "method": "ridge"},
    "landmarks": {"kind": "landmarks", "segments": 30, "stride": 1},
    "csv": {"kind": "size_csv", "file": "sizes.csv", "column": "gt_size"},
}
PER_IMAGE = {"nearest", "logistic", "ridge", "landmarks"}
SEES_TARGET = {"cam", "ml", "mm2", "own", "own_target", "csv", *PER_IMAGE}
SEES_SOURCE = {"spatial", *PER_IMAGE}


@dataclass(frozen=True)
class Made:
    """A run whose priors are made."""

    tiny: Tiny
    run: Path

    def recipe(self, *overrides: str) -> Recipe:
        return load_recipe(
            self.tiny.recipe, [*self.tiny.overrides, "compute.device=cpu", *overrides]
        )

    def again(self, *overrides: str) -> set[str]:
        """Names of the priors that were estimated again."""
        done = pipeline.run(self.recipe(*overrides), self.run, until="prior")
        return {stage.name.removeprefix("prior-") for stage in done if stage.ran}

    def prior(self, name: str) -> Prior:
        return Prior.load(self.run / f"prior-{name}")

    def stage(self, name: str) -> Any:
        return json.loads((self.run / f"prior-{name}" / "stage.json").read_text())

    def recipe_target(self) -> DatasetCard:
        return Domains(self.recipe(), self.run).target

    def store(self, domain: str, labels: bool) -> Store:
        domains = Domains(self.recipe(), self.run)
        if domain == "source":
            return domains.store(domains.source, "train", labels)
        return domains.store(domains.target, "adapt", labels)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test's run, which the others reuse: the tiny data are the same each time."""
    return tmp_path_factory.mktemp("kept") / "run"


@pytest.fixture
def made(tiny: Tiny, tmp_path: Path, kept: Path) -> Made:
    raw = yaml.safe_load(Path(tiny.recipe).read_text())
    raw["prior"], raw["adapt"] = KINDS_OF_PRIOR, {}
    Path(tiny.recipe).write_text(yaml.safe_dump(raw))
    lines = [f"c{c}_{s}.png;[{900 - s}, {100 + s}, 24]" for c in (0, 1) for s in range(SLICES)]
    (tiny.root / "sizes.csv").write_text("\n".join(["val_ids;gt_size", *lines]) + "\n")
    result = Made(tiny, tmp_path / "run")
    if not kept.exists():
        assert result.again() == {"pretrain", *KINDS_OF_PRIOR}
        shutil.copytree(result.run, kept)
    else:
        shutil.copytree(kept, result.run)
    return result


def test_every_kind_has_a_name_and_is_made_here() -> None:
    assert {spec["kind"] for spec in KINDS_OF_PRIOR.values()} == set(KINDS)
    assert all(cls.model_fields["kind"].default == kind for kind, cls in KINDS.items())


# What it says --------------------------------------------------------------------------------------


def test_each_prior_is_valid_and_names_its_supervision(made: Made) -> None:
    supervision = {
        "tags": ["source_labels", "target_tags"],
        "cam": ["source_labels", "target_tags"],
        "ml": ["anatomical"],
        "mm2": ["anatomical"],
        "own": ["none"],
        "own_target": ["none"],
        "csv": ["target_sizes"],
    }
    places = made.store("target", labels=False).places()
    for name in KINDS_OF_PRIOR:
        prior = made.prior(name).validate(CLASSES)
        assert list(prior.supervision) == supervision.get(name, ["source_labels"])
        assert made.stage(name)["supervision"] == list(prior.supervision)
        assert bool(torch.isfinite(prior.table(places)).all())
    per_image = {n for n in KINDS_OF_PRIOR if made.prior(n).images is not None}
    assert per_image == {"tags", "cam", "own_target", "csv", *PER_IMAGE}


def test_sizes_and_maps_come_from_the_source_labels(made: Made) -> None:
    labels = made.store("source", labels=True).labels
    sizes = size_distribution(label_table(labels, 3))
    for name in ("ratio", "tags", "cam", "spatial", *PER_IMAGE):
        assert made.prior(name).sizes == sizes
    for name in ("ml", "mm2", "own", "own_target", "csv"):
        assert made.prior(name).sizes is None
    maps = made.prior("spatial").maps
    assert maps is not None
    assert torch.equal(maps, label_maps(labels, 3, 1.5))
    assert made.prior("spatial").ratio == made.prior("ratio").ratio
    assert (made.run / "prior-spatial" / "prior.png").is_file()


def test_landmarks_come_with_the_ratios_of_the_same_method(made: Made) -> None:
    landmarks, places = made.prior("landmarks"), made.store("target", labels=False).places()
    assert torch.equal(landmarks.table(places), made.prior("logistic").table(places))
    assert landmarks.landmarks is not None
    assert landmarks.landmarks.places == tuple(places)
    assert landmarks.landmarks.segments.shape == (2 * SLICES, SIZE, SIZE)
    entry = json.loads((made.run / "prior-landmarks" / "prior.json").read_text())["landmarks"]
    assert entry["kept"] == pytest.approx(0.6, abs=0.5 / entry["superpixels"] + 1e-9)
    assert set(entry["counts"]) == set(CLASSES)
    assert (made.run / "prior-landmarks" / "landmarks.png").is_file()
    others = [name for name in KINDS_OF_PRIOR if made.prior(name).landmarks is not None]
    assert others == ["landmarks"]


def seeds_of(prior: Prior) -> Seeds:
    assert prior.seeds is not None
    return prior.seeds


def test_seeds_are_where_the_classifier_of_the_tags_looks(made: Made) -> None:
    """Every disk has a tag, so the classifier knows the ring alone: by the definition, on the network's features."""
    made.again()
    prior, store = made.prior("cam"), made.store("target", labels=False)
    places, tags = store.places(), card_tags(made.recipe_target(), made.tiny.root)
    assert torch.equal(prior.table(places), made.prior("tags").table(places))
    seeds = seeds_of(prior)
    assert seeds.places == tuple(places)
    assert seeds.labels.shape == (2 * SLICES, SIZE // 2, SIZE // 2)
    assert seeds.mapped == (2,)
    assert [name for name in KINDS_OF_PRIOR if made.prior(name).seeds is not None] == ["cam"]
    assert (made.run / "prior-cam" / "seeds.png").is_file()

    pipeline.run(made.recipe(), made.run, until="adabn")
    model, _ = load_model(made.run / "adabn")
    images = torch.from_numpy(np.array(store.images))[:, None]
    with torch.no_grad(), features_of(model.eval()) as seen:
        model(images)
    shown = np.array([tags[place] for place in places])
    classifier = fit_tags(seen[0].mean((2, 3)).double().numpy(), shown, 0.1)
    ring = torch.einsum("bdhw,d->bhw", seen[0], torch.from_numpy(classifier.weights[1]).float())
    share = ring.clamp_min(0) / ring.clamp_min(0).amax((1, 2), keepdim=True)
    for number, tagged in enumerate(shown[:, 1]):
        found = bool(ring[number].mean() + classifier.bias[1] > 0)
        expected = torch.where((share[number] >= 0.3) & found & bool(tagged), 2, 255)
        agree = expected == seeds.labels[number]
        assert float(agree.float().mean()) > 0.98
    assert 0 < seeds.shares(CLASSES)["ring"] < 1
    assert seeds.shares(CLASSES)["background"] == seeds.shares(CLASSES)["disk"] == 0


def test_the_record_of_a_cam_prior_says_how_good_its_classifier_is(made: Made) -> None:
    how = made.prior("cam").how
    assert re.search(
        r"answers \d+ % of its tags right; balanced accuracy .* disk unknown, ring", how
    )
    assert how.endswith("no maps of disk")


def test_a_classifier_no_better_than_chance_makes_no_prior(made: Made) -> None:
    """Tags that have nothing to do with the images: a ring in every second slice."""
    tags = made.tiny.root / "t" / "tags.csv"
    lines = [f"c{c},{s},1,{(c + s) % 2}" for c in (0, 1) for s in range(SLICES)]
    tags.write_text("case,slice,disk,ring\n" + "\n".join(lines) + "\n")
    with pytest.raises(PriorError, match=r"balanced accuracy .* disk unknown, ring 0\.\d\d"):
        made.again("prior.cam.min_accuracy=0.99")
    tags.write_text("case,slice,disk,ring\n" + "\n".join(x[:-1] + "1" for x in lines) + "\n")
    with pytest.raises(PriorError, match="by all target images or by none"):
        made.again()


def test_a_row_that_trains_on_seeds_names_the_tags_in_the_table(made: Made) -> None:
    raw = yaml.safe_load(Path(made.tiny.recipe).read_text())
    raw["prior"] = {"cam": KINDS_OF_PRIOR["cam"]}
    raw["adapt"] = {
        "seeded": {
            "steps": 2,
            "batch": 4,
            "lr": 1e-3,
            "select": "last",
            "prior": "cam",
            "augment": {"rotate": 20, "flip": True},
            "objective": [{"term": "seeds"}, {"term": "size_bounds", "bounds": "tags"}],
        }
    }
    Path(made.tiny.recipe).write_text(yaml.safe_dump(raw))
    pipeline.run(made.recipe(), made.run, until="evaluate")
    metrics = json.loads((made.run / "evaluate" / "metrics.json").read_text())
    ledger = {row["name"]: row["supervision"] for row in metrics["rows"]}
    assert ledger["seeded"] == ["source_labels", "target_tags"]
    assert ledger["adabn"] == ["source_labels"]
    logged = (made.run / "adapt-seeded" / "metrics.csv").read_text()
    assert "seeds" in logged.splitlines()[0]


def test_a_3d_network_has_no_seeds(made: Made) -> None:
    with pytest.raises(PriorError, match="'cam' asks the network about single slices"):
        pipeline.run(
            made.recipe("network.spatial_dims=3", "network.patch=[4,32,32]"),
            made.tiny.home / "deep",
            until="prior-cam",
        )
    deep = Network(spatial_dims=3, channels=(4, 8), patch=(4, 32, 32))
    seeded = Adapt.model_validate(
        {"objective": [{"term": "seeds"}], "prior": "cam", "steps": 1, "lr": 1e-3}
    )
    with pytest.raises(ConfigError, match="terms without maps, landmarks and seeds"):
        check_adaptation(seeded, deep)


def test_an_image_without_tags_is_named(made: Made) -> None:
    tags = made.tiny.root / "t" / "tags.csv"
    tags.write_text(tags.read_text().replace("c1,2,1,1\n", ""))
    with pytest.raises(PriorError, match="no tags of 1 of 8 target images: c1 slice 2"):
        made.again()


def test_a_model_without_class_ratio_predicts_the_ratio_of_shown_structures(
    made: Made, tmp_path: Path
) -> None:
    model, info = load_model(made.run / "pretrain")
    own = tmp_path / "own.safetensors"
    save_model(own, model, replace(info, class_ratio=None, presence_ratio=None, sizes=None))
    (made.tiny.root / "t" / "images" / "c2.nii.gz").unlink()
    images, tags = made.tiny.root / "t" / "images", made.tiny.root / "t" / "tags.csv"
    arguments = {"cam": True, "tags": tags, "overrides": ["min_accuracy=0", "stride=2"]}
    found = api.estimate_prior(own, target=images, **arguments)
    assert found.supervision == ("target_tags",)
    assert "mean predicted ratio" in found.how
    predicted = made.prior("own_target").table(made.store("target", labels=False).places())
    ring = torch.arange(2 * SLICES) % SLICES != 0
    assert found.images is not None
    first, second = found.images["c0"][0], found.images["c0"][1]
    assert first[1:] == pytest.approx((float(predicted[:, 1].mean()), 0.0), abs=1e-4)
    assert second[2] == pytest.approx(float(predicted[ring, 2].mean()), abs=1e-4)
    with pytest.raises(PriorError, match="does not know the class ratio"):
        api.estimate_prior(own, tags=tags)


def test_predictions_are_those_of_the_model_before_it_adapts(made: Made) -> None:
    images = torch.from_numpy(np.array(made.store("target", labels=False).images))[:, None]
    model, _ = load_model(made.run / "pretrain")
    with torch.no_grad():
        source = model.eval()(images).softmax(1).mean((2, 3))
    np.testing.assert_allclose(made.prior("own").ratio, source.mean(0), atol=1e-6)

    pipeline.run(made.recipe(), made.run, until="adabn")
    adapted, _ = load_model(made.run / "adabn")
    with torch.no_grad():
        target = adapted.eval()(images).softmax(1).mean((2, 3))
    table = made.prior("own_target").table(made.store("target", labels=False).places())
    np.testing.assert_allclose(table, target, atol=1e-5)
    assert float((source - target).abs().max()) > 1e-3
    assert "of the target" in made.prior("own_target").how


def test_millilitres_and_square_millimetres_agree_on_one_structure(made: Made) -> None:
    slice_mm2 = SIZE * SIZE * 1.5 * 1.5
    assert made.prior("mm2").ratio[1:] == pytest.approx((200 / slice_mm2, 300 / slice_mm2))
    volume_ml = slice_mm2 * SLICES * 4 / 1000
    assert made.prior("ml").ratio[1:] == pytest.approx((2 / volume_ml, 3 / volume_ml))


def test_counts_become_the_shares_of_each_image(made: Made) -> None:
    images = made.prior("csv").images
    assert images is not None
    assert images["c1"][3] == pytest.approx((897 / 1024, 103 / 1024, 24 / 1024))


def test_a_source_slice_without_a_labelled_pixel_counts_for_nothing(made: Made) -> None:
    card, path = made.tiny.home / "source.yaml", made.tiny.root / "s" / "labels" / "c0.nii.gz"
    raw = yaml.safe_load(card.read_text())
    raw["label_values"]["ignore"] = [30]
    card.write_text(yaml.safe_dump(raw))
    label = np.asarray(nibabel.load(path).dataobj).copy()
    label[..., 2] = 30
    write_nifti(path, label)
    assert made.again() == {"pretrain", *KINDS_OF_PRIOR}
    table = label_table(made.store("source", labels=True).labels, 3)
    assert (table.sum(1) == 0).sum() == 1
    for name in KINDS_OF_PRIOR:
        made.prior(name).validate(CLASSES)
    labelled = table.sum(1) > 0
    for name in ("ratio", "spatial"):
        np.testing.assert_allclose(made.prior(name).ratio, table[labelled].mean(0))
    model, fabric = load_model(made.run / "pretrain")[0], make_fabric(made.recipe().compute)
    source, target = made.store("source", labels=False), made.store("target", labels=False)
    known, asked = (image_features(model, Slices(domain), fabric) for domain in (source, target))
    expected = nearest_ratios(known[labelled], table[labelled], asked)
    found = made.prior("nearest").table(target.places())
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_network_without_batchnorm_predicts_with_what_it_has(made: Made) -> None:
    made.again("network.norm=instance")
    assert made.prior("own_target").ratio == made.prior("own").ratio
    assert made.prior("own_target").how == made.prior("own").how


# What it reads -------------------------------------------------------------------------------------


def test_each_prior_hangs_on_the_files_it_reads_and_on_no_others(made: Made) -> None:
    for name in KINDS_OF_PRIOR:
        expected = {"target/adapt"} if name in SEES_TARGET else set()
        expected |= {"source/train"} if name in SEES_SOURCE else set()
        tagged = {"target/tags", "target/adapt names"}
        expected |= {"tags": tagged, "cam": tagged, "csv": {"target/sizes"}}.get(name, set())
        assert set(made.stage(name)["data"]) == expected
    assert made.again() == set()


def test_priors_are_made_again_when_their_files_change(made: Made) -> None:
    images = made.tiny.root / "t" / "images"
    (images / "c2.nii.gz").write_bytes((images / "c1.nii.gz").read_bytes())  # of the test split
    assert made.again() == set()
    (images / "c1.nii.gz").write_bytes((images / "c0.nii.gz").read_bytes())
    assert made.again() == SEES_TARGET
    sizes = made.tiny.root / "sizes.csv"
    sizes.write_text(sizes.read_text().replace("[900,", "[800,"))
    assert made.again() == {"csv"}
    tags = made.tiny.root / "t" / "tags.csv"
    tags.write_text(tags.read_text().replace("c0,0,1,0", "c0,0,1,1"))
    assert made.again() == {"tags", "cam"}
    assert made.again("prior.spatial.sigma=2") == {"spatial"}


def test_no_prior_opens_a_target_label(made: Made) -> None:
    before = {name: made.prior(name) for name in KINDS_OF_PRIOR}
    shutil.rmtree(made.tiny.root / "t" / "labels")
    shutil.rmtree(made.run)
    made.again()
    assert {name: made.prior(name) for name in KINDS_OF_PRIOR} == before


def test_source_files_are_opened_by_the_kinds_that_need_them_alone(made: Made) -> None:
    shutil.rmtree(made.tiny.root / "s")
    shutil.rmtree(made.run / "store")
    for name in KINDS_OF_PRIOR:
        shutil.rmtree(made.run / f"prior-{name}")
    for name in KINDS_OF_PRIOR:
        if name in SEES_SOURCE:
            with pytest.raises(DataError, match=r"images/c0\.nii\.gz"):
                pipeline.run(made.recipe(), made.run, until=f"prior-{name}")
            assert not (made.run / f"prior-{name}").exists()
        else:
            done = pipeline.run(made.recipe(), made.run, until=f"prior-{name}")
            assert done[-1].ran


def test_only_priors_of_a_network_hang_on_seed_and_precision(made: Made) -> None:
    keys = {name: set(made.stage(name)["settings"]) for name in KINDS_OF_PRIOR}
    runs = {name for name in keys if {"seed", "compute"} <= keys[name]}
    assert runs == {"cam", "own", "own_target", *PER_IMAGE}
    assert all(not {"seed", "compute"} & keys[name] for name in set(keys) - runs)


def test_the_same_recipe_makes_the_same_priors_to_the_bit(made: Made) -> None:
    files = sorted([*made.run.glob("prior-*/prior.*"), *made.run.glob("prior-*/landmarks.*")])
    files += sorted(made.run.glob("prior-*/seeds.*"))
    before = [path.read_bytes() for path in files]
    assert len(files) == len(KINDS_OF_PRIOR) + 6  # tensors and picture of maps, landmarks and seeds
    shutil.rmtree(made.run)
    made.again()
    assert [path.read_bytes() for path in files] == before


# Bad input -----------------------------------------------------------------------------------------


def test_a_tag_of_an_unknown_case_is_refused_and_one_of_a_test_case_is_left_out(made: Made) -> None:
    tags = made.tiny.root / "t" / "tags.csv"
    good, ratio = tags.read_text(), made.prior("tags").ratio
    tags.write_text(good + "c2,0,0,0\nc2,1,0,0\n")
    assert made.again() == {"tags", "cam"}
    assert set(made.prior("tags").images or {}) == {"c0", "c1"}
    assert made.prior("tags").ratio == ratio
    tags.write_text(good + "c00,0,1,1\n")
    with pytest.raises(
        DataError, match="tags name 1 images of unknown cases: c00 slice 0"
    ) as caught:
        made.again()
    for text in (str(tags), "did you mean 'c0'?", "uda check"):
        assert text in str(caught.value)


def test_a_tag_of_a_slice_that_is_not_there_stops_adaptation(tiny: Tiny, tmp_path: Path) -> None:
    tags = tiny.root / "t" / "tags.csv"
    tags.write_text(tags.read_text() + "c1,99,1,1\n")
    recipe = load_recipe(tiny.recipe, [*tiny.overrides, "compute.device=cpu"])
    with pytest.raises(PriorError, match="the target does not have: c1 slice 99"):
        pipeline.run(recipe, tmp_path / "run", until="adapt-adami_tags")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("c1_3.png;[897, 103, 24]\n", "no sizes of 1 of 8 target images: c1 slice 3"),
        (None, "the target does not have: c7 slice 0"),
    ],
)
def test_sizes_that_do_not_cover_the_target_exactly_are_refused(
    made: Made, change: str | None, message: str
) -> None:
    path = made.tiny.root / "sizes.csv"
    text = path.read_text()
    path.write_text(text.replace(change, "") if change else text + "c7_0;[1024, 0, 0]\n")
    with pytest.raises(PriorError, match=message) as caught:
        made.again()
    assert str(path) in str(caught.value)


def test_sizes_of_larger_images_are_refused(made: Made) -> None:
    path = made.tiny.root / "sizes.csv"
    path.write_text(path.read_text().replace("[900,", "[9000,"))
    with pytest.raises(DataError, match="a prepared slice has 1024"):
        made.again()


def test_missing_sizes_are_refused(made: Made) -> None:
    (made.tiny.root / "sizes.csv").unlink()
    with pytest.raises(DataError, match="sizes cannot be read"):
        made.again()


# A user's own model --------------------------------------------------------------------------------

OWN: dict[str, Callable[[Made], dict[str, Any]]] = {
    "ratio": lambda made: {},
    "spatial": lambda made: {"spatial": True, "overrides": ["sigma=1.5"]},
    "tags": lambda made: {"tags": made.tiny.root / "t" / "tags.csv"},
    "cam": lambda made: {
        "cam": True,
        "tags": made.tiny.root / "t" / "tags.csv",
        "overrides": ["min_accuracy=0", "stride=2"],
    },
    "ml": lambda made: {"sizes_ml": {"disk": 2.0, "ring": 3.0}},
    "mm2": lambda made: {"areas_mm2": {"disk": 200.0, "ring": 300.0}},
    "own": lambda made: {"predicted": True},
    "own_target": lambda made: {
        "predicted": True,
        "overrides": ["batchnorm=target", "per_image=true"],
    },
    "nearest": lambda made: {"image_level": "nearest"},
    "logistic": lambda made: {"image_level": "logistic"},
    "ridge": lambda made: {"image_level": "ridge"},
    "landmarks": lambda made: {
        "landmarks": True,
        "overrides": ["segments=30", "stride=1"],
    },
    "csv": lambda made: {"sizes_csv": made.tiny.root / "sizes.csv", "column": "gt_size"},
}


def test_a_model_alone_gives_the_priors_that_a_recipe_gives(made: Made) -> None:
    images = made.tiny.root / "t" / "images"
    (images / "c2.nii.gz").unlink()
    domains = {
        "target": images,
        "source": str(made.tiny.home / "source.yaml"),
        "root": made.tiny.root,
    }
    assert set(OWN) == set(KINDS_OF_PRIOR)
    for name, arguments in OWN.items():
        found = api.estimate_prior(made.run / "pretrain", **arguments(made), **domains)
        expected = made.prior(name)
        assert found.supervision == expected.supervision
        assert found.how == expected.how
        assert found.sizes == expected.sizes
        np.testing.assert_allclose(found.ratio, expected.ratio, atol=1e-5)
        places = made.store("target", labels=False).places()
        torch.testing.assert_close(
            found.table(places), expected.table(places), atol=1e-5, rtol=1e-4
        )
        assert (found.maps is None) == (expected.maps is None)
        if found.maps is not None and expected.maps is not None:
            assert torch.equal(found.maps, expected.maps)
        assert (found.landmarks is None) == (expected.landmarks is None)
        if found.landmarks is not None and expected.landmarks is not None:
            assert torch.equal(found.landmarks.segments, expected.landmarks.segments)
            assert torch.equal(found.landmarks.classes, expected.landmarks.classes)
        assert (found.seeds is None) == (expected.seeds is None)
        if found.seeds is not None and expected.seeds is not None:
            agree = found.seeds.labels == expected.seeds.labels
            assert float(agree.float().mean()) > 0.99  # BatchNorm saw other batches


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"predicted": True, "spatial": True}, PriorError, "at once: predicted, spatial"),
        ({"sizes_ml": {"disk": 1.0, "ring": 1.0}}, PriorError, "--target FOLDER"),
        ({"areas_mm2": {"disk": 1.0, "ring": 1.0}}, PriorError, "--target FOLDER"),
        ({"predicted": True}, PriorError, "--target FOLDER"),
        ({"cam": True, "target": "images"}, PriorError, "case,slice,disk,ring"),
        ({"cam": True, "overrides": ["foreground=0"]}, ConfigError, "foreground"),
        ({"cam": True, "overrides": ["background=0.5"]}, ConfigError, "background is above"),
        ({"image_level": "ridge", "source": "card"}, PriorError, "--target FOLDER"),
        ({"spatial": True}, PriorError, "--source CARD"),
        ({"image_level": "ridge", "target": "images"}, PriorError, "--source CARD"),
        ({"image_level": "forest"}, ConfigError, "'forest'"),
        ({"sizes_csv": "s.csv"}, ConfigError, "column"),
        ({"predicted": True, "overrides": ["sigma=1"]}, ConfigError, "valid: batchnorm"),
        ({"spatial": True, "overrides": ["sigma=-1"]}, ConfigError, "sigma"),
        ({"predicted": True, "supervision": "none"}, ConfigError, "'supervision'"),
        ({"sizes_ml": {"disk": 1.0}, "supervision": "gossip"}, ConfigError, "'gossip'"),
        ({"sizes_ml": {"disk": -1.0, "ring": 1.0}}, ConfigError, "sizes_ml.disk: got -1"),
        ({"areas_mm2": {"disk": 1.0, "rign": 1.0}, "target": "images"}, PriorError, "'ring'"),
    ],
)
def test_what_cannot_be_made_says_why(
    made: Made, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    places = {"images": made.tiny.root / "t" / "images", "card": made.tiny.home / "source.yaml"}
    for key in ("target", "source"):
        if key in arguments:
            arguments = {**arguments, key: str(places[arguments[key]])}
    with pytest.raises(error) as caught:
        api.estimate_prior(made.run / "pretrain", root=made.tiny.root, **arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["background", "ring", "disk"]}, "3 classes"),
        ({"prepare": {"orientation": "RAS", "size": [16, 16]}}, "slices of card 'source' are"),
    ],
)
def test_a_source_that_is_not_the_models_is_refused(
    made: Made, changes: dict[str, Any], message: str
) -> None:
    card = made.tiny.home / "source.yaml"
    card.write_text(yaml.safe_dump({**yaml.safe_load(card.read_text()), **changes}))
    with pytest.raises((PriorError, ModelError), match=message):
        api.estimate_prior(
            made.run / "pretrain", spatial=True, source=str(card), root=made.tiny.root
        )


def test_a_tag_of_an_image_that_is_not_in_the_folder_is_refused(made: Made) -> None:
    tags, images = made.tiny.root / "t" / "tags.csv", made.tiny.root / "t" / "images"
    tags.write_text(tags.read_text() + "c7,0,1,1\n")
    with pytest.raises(DataError, match="unknown cases: c7 slice 0"):
        api.estimate_prior(made.run / "pretrain", tags=tags, target=images)
    unchecked = api.estimate_prior(made.run / "pretrain", tags=tags)
    (few := images.parent / "few").mkdir()
    for name in ("c0.nii.gz", "c1.nii.gz"):
        (few / name).symlink_to(images / name)
    with pytest.raises(PriorError, match="the target does not have: c7 slice 0"):
        api.adapt(
            made.run / "pretrain",
            str(few),
            made.run / "out",
            method="adami",
            prior=unchecked,
            overrides=["steps=1"],
        )


def test_a_model_file_without_sizes_still_gives_its_ratio(made: Made, tmp_path: Path) -> None:
    """Model files from before models held the sizes of their classes."""
    model, info = load_model(made.run / "pretrain")
    assert info.sizes is not None
    raw = json.loads(info.to_json())
    del raw["sizes"]
    older = type(info).from_json(json.dumps(raw), tmp_path)
    assert older.sizes is None
    assert older.to_json() == json.dumps(raw, sort_keys=True)
    save_model(tmp_path / "model.safetensors", model, older)
    assert api.estimate_prior(tmp_path).sizes is None
    assert api.estimate_prior(tmp_path).ratio == made.prior("ratio").ratio
    with pytest.raises(ModelError, match="description is incomplete"):
        type(info).from_json(json.dumps({**raw, "sizes": [1]}), tmp_path)
