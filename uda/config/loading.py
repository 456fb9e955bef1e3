"""Find, read, override and print recipes and dataset cards.

A name is looked up as a path, then in ``./pipelines`` (recipes) or ``./datasets`` (cards), then in the
package. The path of a card in a recipe is looked up from the recipe's folder, then from the current one.
"""

from __future__ import annotations

import copy
import typing
from collections.abc import Mapping, Sequence
from os.path import isfile  # False for invalid names too, where pathlib raises
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from uda.config.augment import Augment
from uda.config.card import DatasetCard
from uda.config.fields import WHOLE
from uda.config.networks import SIZES
from uda.config.recipe import Recipe
from uda.errors import MOST, ConfigError, combine, nearest, raise_all
from uda.files.untrusted import MAX_YAML, parse_yaml, read_text

Kind = Literal["recipe", "card"]
Model = TypeVar("Model", bound=BaseModel)

YAML = (".yaml", ".yml")
"""endings of a path; anything else is a name"""

_PACKAGE = Path(__file__).resolve().parents[1]
_FOLDERS = {"recipe": ("pipelines", "_recipes"), "card": ("datasets", "_cards")}


def search_folders(kind: Kind) -> list[Path]:
    """Folders that hold files of this kind, nearest first."""
    here, shipped = _FOLDERS[kind]
    candidates = [Path(here), _PACKAGE / shipped, _PACKAGE.parent / here]
    found: list[Path] = []
    for folder in candidates:
        if folder.is_dir() and not any(folder.samefile(other) for other in found):
            found.append(folder)
    return found


def available(kind: Kind) -> dict[str, Path]:
    """Files of all recipes or cards by name."""
    names: dict[str, Path] = {}
    for folder in search_folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            if path.stem.isprintable() and not path.name.startswith("."):
                names.setdefault(path.stem, path)
    return names


def find(name: str, kind: Kind) -> Path:
    """File of the recipe or card with this name or path.

    Raises:
        ConfigError: there is no such path or name; proposes the nearest name.
    """
    if Path(name).suffix in YAML and isfile(name):
        return Path(name)
    names = available(kind)
    if name in names:
        return names[name]
    beside = " (in a recipe: from the recipe's folder)" if kind == "card" else ""
    raise ConfigError(
        f"there is no {kind} {name!r}",
        expected=nearest(name, names),
        fix=f"give one of these names, or the path of a .yaml file{beside}; `uda list` shows every {kind}",
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping of plain values.

    Raises:
        ConfigError: the file cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    try:
        raw = parse_yaml(read_text(path, MAX_YAML))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot be read as YAML: {error}", where=path, fix="correct the file"
        ) from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"holds {type(raw).__name__}, not a mapping", where=path, expected="key: value lines"
        )
    return raw


def load_card(name: str) -> DatasetCard:
    """Read the card with this name or path.

    Raises:
        ConfigError: there is no such card, or it has faults; the message lists all.
    """
    path = find(name, "card")
    return parse(DatasetCard, read_yaml(path), path)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe with this name or path and apply ``key.sub=value`` overrides.

    A ``*`` in a key stands for every entry: ``adapt.*.steps=20``.

    Raises:
        ConfigError: there is no such recipe, or it or the overrides have faults; the message lists all of either.
    """
    path = find(name, "recipe")
    recipe = _beside(parse(Recipe, read_yaml(path), path), path)
    return override(recipe, overrides) if overrides else recipe


def _beside(recipe: Recipe, path: Path) -> Recipe:
    """The recipe with the absolute paths of the cards that lie at their path from the recipe's own folder.

    Raises:
        ConfigError: another file lies at that path from the current folder.
    """
    found = {}
    for domain in ("source", "target"):
        name = getattr(recipe.data, domain)
        near = path.parent / name
        if not (Path(name).suffix in YAML and isfile(near)):
            continue
        if isfile(name) and not near.samefile(name):
            raise ConfigError(
                f"data.{domain}: {name!r} means two cards",
                where=f"{near} and {Path(name).absolute()}",
                expected="one file: beside the recipe, or in the current folder",
                fix="give the card's absolute path, or remove one of the two",
            )
        found[domain] = str(near.absolute())
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=found)})


def override(model: Model, overrides: Sequence[str]) -> Model:
    """A copy with ``key.sub=value`` overrides applied; values are read as YAML.

    Raises:
        ConfigError: overrides are not ``key=value``, name no setting, or give an invalid value; lists all.
    """
    raw = model.model_dump(mode="json", context=WHOLE)
    raise_all([f for text in overrides if (f := _fault(raw, text))], "the overrides")
    return parse(type(model), raw, "the overrides " + " ".join(overrides))


def _fault(raw: dict[str, Any], text: str) -> ConfigError | None:
    """Apply one override in place; return the error if that fails."""
    try:
        _apply(raw, text)
    except ConfigError as fault:
        return fault
    return None


def _apply(raw: dict[str, Any], text: str) -> None:
    key, value = read_setting(text)
    _set(raw, key.split("."), value, text)


def read_setting(text: str) -> tuple[str, Any]:
    """Key and value of ``key=value``; the value is read as YAML.

    Raises:
        ConfigError: no key, no ``=``, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override {text!r} is not key=value", expected="key=value, for example seed=1"
        )
    try:
        return key, parse_yaml(value)
    except ValueError as error:
        raise ConfigError(f"override {text!r}: {value!r} is not YAML") from error


def _set(node: Any, keys: list[str], value: Any, text: str) -> None:
    name, rest = keys[0], keys[1:]
    if isinstance(node, list) and (
        name == "*" or (name.isdecimal() and len(name) < 10 and int(name) < len(node))
    ):
        entries: list[Any] = list(range(len(node))) if name == "*" else [int(name)]
    elif isinstance(node, dict) and (name == "*" or name in node):
        entries = list(node) if name == "*" else [name]
    else:
        inside = (
            node if isinstance(node, dict) else range(len(node) if isinstance(node, list) else 0)
        )
        names = [str(n) for n in inside]
        raise ConfigError(
            f"override {text!r}: there is no setting {name!r}", expected=nearest(name, names)
        )
    for entry in entries:
        if rest:
            if node[entry] is None and not rest[1:]:
                node[entry] = {}
                node[entry][rest[0]] = copy.deepcopy(value)
            else:
                _set(node[entry], rest, value, text)
        else:
            before = copy.copy(node)
            node[entry] = copy.deepcopy(value)
            if isinstance(before, dict):
                node.update(_stands_for(name, value, before, text))


def _stands_for(name: str, value: Any, before: dict[str, Any], text: str) -> dict[str, Any]:
    """The settings of a node that an override by a name stands for; those beside the name stay.

    Args:
        before: the node as it was.
    """
    if name == "generalize" and "low_resolution" in before:
        old, new = (
            parse(Augment, {name: one}, f"override {text!r}").model_dump(mode="json", context=WHOLE)
            for one in (before[name], value)
        )
        return {key: setting for key, setting in new.items() if before[key] == old[key]}
    if name == "size" and "channels" in before:
        return {"channels": SIZES.get(str(value), before["channels"])}
    return {}


def parse(model: type[Model], raw: Mapping[str, Any], where: str | Path) -> Model:
    """Validate a mapping.

    Raises:
        ConfigError: lists every fault, unknown keys with the nearest valid name.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False)
        inside = {f["loc"][:depth] for f in found for depth in range(len(f["loc"]))}
        # skip a container's fault if a part of it is faulty: the container's ("too short") only follows
        outermost = [f for f in found if f["loc"] not in inside]
        faults = [_explain(model, fault, where) for fault in outermost[:MOST]]
        raise combine(faults, str(where), len(outermost)) from None


def _explain(model: type[BaseModel], fault: Any, where: str | Path) -> ConfigError:
    location = [str(part) for part in fault["loc"]]
    if location[:1] in (["network"], ["prepare"]):
        location = location[:1] + location[2:]  # drop the union tag that pydantic inserts
    key = ".".join(location) or "the whole file"
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(model, location[:-1])
        return ConfigError(
            f"unknown key {key!r}", where=where, expected=nearest(location[-1], fields)
        )
    if fault["type"] == "union_tag_invalid":
        context = fault["ctx"]
        return ConfigError(
            f"{key}.{context['discriminator'].strip(chr(39))}: got {context['tag']!r}",
            where=where,
            expected=nearest(context["tag"], context["expected_tags"].replace("'", "").split(", ")),
        )
    if fault["type"] == "missing":
        return ConfigError(f"key {key!r} is missing", where=where, fix="add it")
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return ConfigError(f"{key}: {message}", where=where, fix=f"correct {key}")
    return ConfigError(f"{key}: got {fault['input']!r}", where=where, expected=message)


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Names of the settings at a location of a nested model; pydantic inserts union tags into locations."""
    reached = [model]
    for part in location:
        fields = [r.model_fields[part] for r in reached if part in r.model_fields]
        inner = [m for field in fields for m in _models(field.annotation)]
        tagged = [r for r in reached if any(f.default == part for f in r.model_fields.values())]
        reached = inner or tagged or reached
    return [name for r in reached for name in r.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every pydantic model inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in typing.get_args(annotation) for m in _models(argument)]


def show(recipe: Recipe) -> str:
    """The complete recipe, defaults included, as YAML that can be run."""
    complete = recipe.model_dump(mode="json", context=WHOLE)
    return yaml.safe_dump(complete, sort_keys=False, allow_unicode=True, width=100)
