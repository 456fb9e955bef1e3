"""Recipes and cards: the shipped ones are valid, and one error names every fault of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Tiny
from conftest import card as card_of
from conftest import recipe as recipe_of
from pydantic import ValidationError

from uda.config.card import DatasetCard
from uda.config.loading import available, load_card, load_recipe, override, parse, show
from uda.config.recipe import Adapt, Recipe
from uda.config.terms import ClassRatioTerm
from uda.errors import ConfigError
from uda.pipeline.domains import Domains

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "pipelines").glob("*.y*ml"))
CARDS = sorted((ROOT / "datasets").glob("*.y*ml"))


def by_stem(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def raw_recipe() -> dict[str, Any]:
    return recipe_of(Path())


def raw_card(**changes: Any) -> dict[str, Any]:
    return {**card_of("source", "s", {"train": ["a", "b"]}), **changes}


def fault_of(raw: dict[str, Any], model: type[Any] = Recipe) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(model, raw, "file.yaml")
    assert caught.value.exit_code == 2
    return str(caught.value)


# shipped files


@by_stem(RECIPES)
def test_shipped_recipe_parses_and_is_named_like_its_file(path: Path) -> None:
    assert load_recipe(str(path)).name == path.stem


@by_stem(CARDS)
def test_shipped_card_parses_and_is_named_like_its_file(path: Path) -> None:
    assert load_card(str(path)).name == path.stem


@by_stem(RECIPES)
def test_cards_of_a_shipped_recipe_exist_and_agree(path: Path) -> None:
    recipe = load_recipe(str(path))
    domains = Domains(recipe, Path("nowhere"))
    source, target = domains.source, domains.target
    assert source.classes == target.classes
    assert source.photos == target.photos
    assert source.labels is not None
    assert "train" in source.splits
    assert {"adapt", "test"} <= set(target.splits)
    assert not set(target.splits["adapt"]) & set(target.splits["test"])
    if source.photos:
        assert set(source.colors) == set(target.colors) == set(source.classes)
        return
    assert source.prepare.size == target.prepare.size
    assert not set(source.splits["train"]) & set(source.splits.get("validate", ()))
    factor = 2 ** (len(recipe.network.channels) - 1)
    assert all(side % factor == 0 for side in source.prepare.size)
    if any(prior.kind == "target_tags" for prior in recipe.prior.values()):
        assert target.tags is not None


@by_stem([*RECIPES, *CARDS])
def test_a_shipped_file_can_be_found_by_its_name(path: Path) -> None:
    kind: Any = "recipe" if path in RECIPES else "card"
    assert available(kind)[path.stem].samefile(path)


@by_stem(RECIPES)
def test_show_prints_a_recipe_that_reads_back_as_itself(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(path))
    (tmp_path / "shown.yaml").write_text(show(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "shown.yaml")) == recipe


# faults of a file


def test_every_fault_is_in_one_report() -> None:
    raw = raw_recipe()
    raw["sed"] = 1
    raw["pretrain"]["step"] = 5
    raw["adapt"]["minent"]["objective"][0]["normalised"] = True
    raw["adapt"]["adami_tags"]["lr"] = "fast"
    del raw["data"]["target"]
    text = fault_of(raw)
    assert text.startswith("5 faults in file.yaml")
    for part in ("'sed'", "'pretrain.step'", "normalised", "adapt.adami_tags.lr", "'data.target'"):
        assert part in text


@pytest.mark.parametrize(
    ("place", "key", "proposed"),
    [
        ((), "pretrian", "pretrain"),
        (("pretrain",), "optimiser", "optimizer"),
        (("pretrain", "augment"), "rotation", "rotate"),
        (("adapt", "minent"), "batch_norm", "batchnorm"),
        (("adapt", "minent", "objective", 0), "normalised", "normalized"),
        (("adapt", "adami_tags", "objective", 1), "dirction", "direction"),
        (("adapt", "adami_tags", "objective", 1), "ramp_step", "ramp_steps"),
        (("prior", "tags"), "knd", "kind"),
        (("network",), "chanels", "channels"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_one(
    place: tuple[Any, ...], key: str, proposed: str
) -> None:
    raw = raw_recipe()
    node: Any = raw
    for part in place:
        node = node[part]
    node[key] = 1
    text = fault_of(raw)
    assert f"{key}'" in text
    assert f"did you mean {proposed!r}?" in text


def test_keys_of_a_term_are_proposed_from_that_term_alone() -> None:
    raw = raw_recipe()
    raw["adapt"]["minent"]["objective"][0]["directon"] = "prior_to_prediction"
    text = fault_of(raw)
    assert "class_weights" in text
    assert "direction" not in text.replace("directon", "")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": "many"}, "seed: got 'many'"),
        ({"seed": -1}, "seed: got -1"),
        ({"network": {"channels": [4]}}, "network.channels: got [4]"),
        ({"network": {"kind": "vit"}}, "network.kind: got 'vit'"),
        ({"name": "../x"}, "name: got '../x'"),
        ({"compute": {"precision": "8-bit"}}, "compute.precision: got '8-bit'"),
        ({"evaluate": "yes"}, "evaluate: got 'yes'"),
        ({"data": None}, "data: got None"),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(
    change: dict[str, Any], expected: str
) -> None:
    text = fault_of({**raw_recipe(), **change})
    assert expected in text
    assert "expected:" in text
    assert "file.yaml" in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0, -1e-3])
def test_a_rate_is_a_positive_finite_number(value: float) -> None:
    raw = raw_recipe()
    raw["pretrain"]["lr"] = value
    assert "pretrain.lr" in fault_of(raw)


def test_a_rate_in_scientific_notation_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 1e-3 as text; everyone who writes it means a number."""
    text = yaml.safe_dump(raw_recipe()).replace("lr: 0.001", "lr: 1e-3")
    assert "lr: 1e-3" in text
    (tmp_path / "r.yaml").write_text(text)
    assert load_recipe(str(tmp_path / "r.yaml")).pretrain.lr == 1e-3


def test_an_unknown_term_is_answered_with_the_terms_there_are() -> None:
    raw = raw_recipe()
    raw["adapt"]["minent"]["objective"] = [{"term": "entropie"}]
    text = fault_of(raw)
    assert "entropie" in text
    assert "did you mean 'entropy'" in text
    assert "class_ratio_kl" in text


@pytest.mark.parametrize("key", ["name", "title", "data", "pretrain"])
def test_a_missing_key_is_named(key: str) -> None:
    raw = raw_recipe()
    del raw[key]
    assert f"key '{key}' is missing" in fault_of(raw)


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(raw_recipe()) + "seed: 1\nseed: 2\n")
    with pytest.raises(ConfigError, match="key 'seed' is given twice") as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_a_nested_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("label_values: {background: [0], myo: [1], myo: [2]}\n")
    with pytest.raises(ConfigError, match="key 'myo' is given twice"):
        load_card(str(path))


@pytest.mark.parametrize(
    "content",
    ["a: [1, 2", "- 1\n- 2\n", "", "just text", "!!python/object/apply:os.getcwd []", "? [a]\n: 1"],
)
def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_recipe(str(path))


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="there is no recipe 'cardiac_phantm'") as caught:
        load_recipe("cardiac_phantm")
    assert "did you mean 'cardiac_phantom'?" in str(caught.value)


# contradictions


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"label_values": {"background": [0], "disk": [10], "ring": [10]}},
            "one raw value to two classes",
        ),
        ({"label_values": {"background": [0], "disk": [10]}}, "says nothing about ['ring']"),
        (
            {"label_values": {"background": [0], "disk": [10], "ring": [20], "rign": [3]}},
            "['rign'], which are not in classes",
        ),
        ({"classes": ["background", "disk", "disk"]}, "class names repeat"),
        ({"classes": ["background"]}, "classes"),
        ({"images": "images/all.nii.gz"}, "images: the pattern must contain {case}"),
        ({"labels": "labels.nii.gz"}, "labels: the pattern must contain {case}"),
        ({"splits": {"train": ["a", "a"]}}, "split 'train' names a case twice"),
        ({"splits": {"train": [1001]}}, "splits.train.0: got 1001"),
        ({"prepare": {"size": [32, 32], "clip": [99, 1]}}, "clip must rise"),
        ({"prepare": {"size": [32, 32], "normalize": [300, -100]}}, "window must rise"),
        ({"prepare": {"size": [32, 32], "orientation": "RAL"}}, "prepare.orientation"),
        ({"prepare": {"size": [32]}}, "prepare.size"),
        ({"prepare": {"size": [32, 0]}}, "prepare.size.1: got 0"),
        ({"prepare": {"size": [32, 32], "spacing": 0}}, "prepare.spacing: got 0"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in fault_of(raw_card(**changes), DatasetCard)


def test_ignored_values_need_no_class() -> None:
    values = {"background": [0], "disk": [10], "ring": [20], "ignore": [99, 255]}
    assert parse(DatasetCard, raw_card(label_values=values), "x").label_values["ignore"] == (
        99,
        255,
    )


RATIO = {"term": "class_ratio_kl", "direction": "prior_to_prediction"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objective": [RATIO]}, "terms ['class_ratio_kl'] need a prior"),
        (
            {"objective": [{"term": "entropy", "class_weights": "inverse_ratio"}]},
            "terms ['entropy'] need a prior",
        ),
        (
            {"objective": [{"term": "entropy"}, {"term": "dice"}]},
            "terms ['dice'] need source labels; set source_free: false",
        ),
        ({"source_free": False}, "source_free is false but no term uses the source"),
        (
            {"objective": [{"term": "dice"}], "source_free": False},
            "no term uses the target images",
        ),
        ({"objective": []}, "objective"),
        ({"objective": [{"term": "class_ratio_kl"}], "prior": "ratio"}, "direction' is missing"),
        ({"prior": "ratoi"}, "no prior 'ratoi'; did you mean 'ratio'?"),
    ],
)
def test_an_adaptation_that_cannot_be_is_refused(changes: dict[str, Any], expected: str) -> None:
    raw = raw_recipe()
    raw["adapt"]["minent"] |= changes
    assert expected in fault_of(raw)


def test_two_views_that_look_alike_are_refused() -> None:
    raw = raw_recipe()
    raw["pretrain"]["objective"].append({"term": "view_agreement"})
    raw["pretrain"]["augment"] = {"views": 2, "rotate": 20, "flip": True}
    assert "augment changes none; set augment.generalize" in fault_of(raw)
    for change in ({"gamma": 0.2}, {"bezier": {}}, {"generalize": "light"}):
        parse(Recipe, raw | {"pretrain": raw["pretrain"] | {"augment": {"views": 2} | change}}, "r")


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("noise", 1e300),
        ("brightness", 101),
        ("blur", 1e9),
        ("bias", {"strength": 1e30}),
        ("low_resolution", {"factor": 1e300}),
        ("elastic", {"displacement": 1e9}),
        ("location_scale", {"shift": 1e30}),
    ],
)
def test_augmentation_that_leaves_no_image_is_refused_by_name(key: str, change: Any) -> None:
    raw = raw_recipe()
    raw["pretrain"]["augment"] = {key: change}
    fault = fault_of(raw)
    assert f"pretrain.augment.{key}" in fault
    assert "less than or equal to" in fault


@pytest.mark.parametrize("name", ["source_only", "adabn", "target_supervised", "x_oracle"])
def test_names_of_the_tables_own_rows_are_taken(name: str) -> None:
    raw = raw_recipe()
    raw["adapt"][name] = raw["adapt"]["minent"]
    assert "this row name is taken" in fault_of(raw)


@pytest.mark.parametrize(
    ("sources", "variants", "row"),
    [
        (["a", "a_b"], ["b_c", "c"], "a_b_c"),
        (["a"], ["x", "a_x"], "a_x"),
        (["x"], ["x", "last"], "x_last"),
        (["source_only"], ["oracle"], "source_only_oracle"),
    ],
)
def test_no_two_rows_have_one_name(sources: list[str], variants: list[str], row: str) -> None:
    raw = raw_recipe()
    raw["sources"] = {name: {} for name in sources}
    raw["adapt"] = dict.fromkeys(variants, raw["adapt"]["minent"])
    assert f"adapt.{row}: this row name is taken" in fault_of(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("network.size=[1, 2]", "network.size: got [1, 2]"),
        ("network={size: [base]}", "network.size: got ['base']"),
        ("network={size: base, channels: 5}", "size 'base' stands for channels"),
        ("network={size: base, channels: null}", "size 'base' stands for channels"),
        ("pretrain.augment.generalize=[light]", "generalize: got ['light']"),
        ("pretrain.augment={generalize: {a: b}}", "generalize: got {'a': 'b'}"),
        ("adapt.minent={preset: [minent], steps: 2, lr: 1e-3}", "no preset ['minent']"),
    ],
)
def test_a_list_in_place_of_a_name_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(parse(Recipe, raw_recipe(), "x"), [text])
    assert expected in str(caught.value)


def test_pretraining_takes_no_target_term() -> None:
    raw = raw_recipe()
    raw["pretrain"]["objective"].append({"term": "entropy"})
    assert "terms ['entropy'] need unlabelled target images" in fault_of(raw)


def test_nothing_changes_once_it_is_read() -> None:
    recipe = parse(Recipe, raw_recipe(), "x")
    for place, key in (
        (recipe, "seed"),
        (recipe.pretrain, "lr"),
        (recipe.pretrain.augment, "flip"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(place, key, 1)


# overrides


def changed(*texts: str) -> Recipe:
    return override(parse(Recipe, raw_recipe(), "x"), texts)


def test_an_override_changes_its_setting_and_no_other() -> None:
    found = changed("pretrain.lr=0.5")
    assert found.pretrain.lr == 0.5
    assert override(found, ["pretrain.lr=0.001"]) == parse(Recipe, raw_recipe(), "x")


def test_a_wildcard_changes_every_entry() -> None:
    found = changed("adapt.*.steps=3", "adapt.*.objective.*.weight=2")
    assert {variant.steps for variant in found.adapt.values()} == {3}
    weights = {term.weight for variant in found.adapt.values() for term in variant.objective}
    assert weights == {2}


def test_an_index_reaches_into_a_list() -> None:
    found = changed("adapt.adami_tags.objective.1.over=batch").adapt["adami_tags"]
    term = found.objective[1]
    assert isinstance(term, ClassRatioTerm)
    assert term.over == "batch"


@pytest.mark.parametrize("name", ["light", "strong"])
def test_settings_beside_a_named_set_stay_when_another_set_is_chosen(name: str) -> None:
    def recipe(**named: str) -> Recipe:
        raw = raw_recipe()
        raw["pretrain"]["augment"] = {"views": 2, "rotate": 7, "bias": {"p": 0.9}, **named}
        return parse(Recipe, raw, "a recipe")

    for first in (recipe(), recipe(generalize="strong")):
        chosen = override(first, [f"pretrain.augment.generalize={name}"])
        assert chosen == recipe(generalize=name)
    none = override(chosen, ["pretrain.augment.generalize=null"]).pretrain.augment
    assert (none.rotate, none.views, none.shear, none.class_bezier) == (7, 2, 0, None)


def test_the_order_of_two_overrides_of_a_set_does_not_matter() -> None:
    recipe = parse(Recipe, raw_recipe(), "a recipe")
    both = ["pretrain.augment.views=2", "pretrain.augment.generalize=light"]
    assert override(recipe, both) == override(recipe, both[::-1])


def test_an_override_opens_a_section_that_is_null() -> None:
    found = changed("data.phantom.seed=5")
    assert found.data.phantom is not None
    assert found.data.phantom.seed == 5


def test_values_are_read_as_yaml() -> None:
    found = changed("data.root=null", "network.channels=[2, 4]", "pretrain.augment.flip=false")
    assert found.data.root is None
    assert found.network.channels == (2, 4)
    assert found.pretrain.augment.flip is False


def test_the_last_of_two_overrides_wins() -> None:
    assert changed("seed=1", "seed=2").seed == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sed=1", "did you mean 'seed'?"),
        ("pretrain.step=1", "did you mean 'steps'?"),
        ("adapt.minet.steps=1", "did you mean 'minent'?"),
        ("adapt.minent.objective.3.weight=1", "there is no setting '3'"),
        ("adapt.minent.objective.x.weight=1", "there is no setting 'x'"),
        ("seed", "is not key=value"),
        ("=1", "is not key=value"),
        ("seed=[1", "is not YAML"),
        ("seed=x", "seed: got 'x'"),
        ("pretrain.lr.deep=1", "there is no setting 'deep'"),
        ("pretrain.steps.deep=1", "there is no setting 'deep'"),
        ("title.deep=1", "there is no setting 'deep'"),
        ("prior.ratio=null", "prior.ratio"),
        ("adapt.minent.prior.deep=1", "adapt.minent.prior"),
    ],
)
def test_an_override_that_cannot_be_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        changed(text)
    assert expected in str(caught.value)


def test_every_override_that_cannot_be_is_listed() -> None:
    with pytest.raises(ConfigError, match="2 faults in the overrides") as caught:
        changed("sed=1", "seed=2", "titel=x")
    assert "'sed'" in str(caught.value)
    assert "'titel'" in str(caught.value)


def test_overrides_are_applied_to_a_recipe_as_it_is_loaded(tiny: Tiny) -> None:
    assert load_recipe(tiny.recipe, ["seed=9"]).seed == 9


def test_an_override_cannot_make_a_variant_impossible() -> None:
    with pytest.raises(ConfigError, match="need a prior"):
        changed("adapt.adami_tags.prior=null")


def test_defaults_of_a_variant_are_those_of_the_schema() -> None:
    minent = parse(Recipe, raw_recipe(), "x").adapt["minent"]
    assert minent == Adapt.model_validate(raw_recipe()["adapt"]["minent"])
    assert (minent.source_free, minent.batchnorm, minent.ema) == (True, "train", 0.0)


# settings that came later


def test_a_setting_that_came_later_can_be_changed_and_is_shown(tiny: Tiny) -> None:
    assert "splits" not in tiny.load().data.model_dump(mode="json")
    changed = tiny.load("data.splits.target.test=[c1]", "data.splits.source.validate=train")
    assert changed.data.splits.target == {"adapt": None, "test": ("c1",), "train": None}
    assert changed.data.splits.source == {"train": None, "validate": "train"}
    shown = yaml.safe_load(show(tiny.load()))
    assert shown["data"]["splits"]["source"] == {"train": None, "validate": None}
    assert parse(Recipe, shown, "shown") == tiny.load()


# data.splits


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ({"tset": ["c1"]}, "there is no role 'tset'; did you mean 'test'?"),
        ({"test": []}, "test is []"),
        ({"test": [1, 2]}, "a list of cases in quotes"),
        ({"test": ""}, "test is ''"),
        ({"adapt": ["c1", "c1"]}, "adapt names a case twice"),
        ({"adapt": 3}, "adapt is 3"),
    ],
)
def test_cases_that_cannot_be_chosen_cost_one_message(roles: dict[str, Any], words: str) -> None:
    raw = raw_recipe()
    raw["data"]["splits"] = {"target": roles}
    fault = fault_of(raw)
    assert words in fault
    assert "data.splits.target" in fault
    assert "faults" not in fault


# cards beside a recipe


def test_a_card_beside_its_recipe_is_found_from_everywhere(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_recipe()
    raw["data"] |= {"source": "source.yaml", "target": "../home/target.yaml"}
    file = tiny.home / "mine.yaml"
    file.write_text(yaml.safe_dump(raw))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = load_recipe(str(file)).data
    assert load_card(data.source).name == "source"
    assert load_card(data.target).name == "target"
    shown = elsewhere / "shown.yaml"
    shown.write_text(show(load_recipe(str(file))))
    assert load_recipe(str(shown)).data == data
    monkeypatch.chdir(tiny.home)
    assert load_card(load_recipe("mine.yaml").data.target).name == "target"


def test_two_cards_at_one_path_are_refused_and_an_override_is_of_the_current_folder(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_recipe()
    raw["data"] |= {"source": "source.yaml", "target": str(tiny.home / "target.yaml")}
    (tiny.home / "mine.yaml").write_text(yaml.safe_dump(raw))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (elsewhere / "here.yaml").write_text(yaml.safe_dump(raw_card(name="here")))
    assert (
        load_card(
            load_recipe(str(tiny.home / "mine.yaml"), ["data.source=here.yaml"]).data.source
        ).name
        == "here"
    )
    (elsewhere / "source.yaml").write_text(yaml.safe_dump(raw_card()))
    with pytest.raises(ConfigError, match="means two cards") as caught:
        load_recipe(str(tiny.home / "mine.yaml"))
    assert str(elsewhere / "source.yaml") in str(caught.value)
    assert str(tiny.home / "source.yaml") in str(caught.value)
    (elsewhere / "source.yaml").unlink()
    (tiny.home / "source.yaml").unlink()
    with pytest.raises(ConfigError, match="from the recipe's folder"):
        load_card(load_recipe(str(tiny.home / "mine.yaml")).data.source)
