"""The house rules: imports go one way, target labels stay out of training, nothing dangerous is called."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from uda.types import TargetBatch

PACKAGE = Path(__file__).parents[1] / "uda"

# A module may import from a line above its own, from its own package, and nothing else of ours.
LAYERS = (
    ("errors", "types", "sizes", "ranges", "colors"),
    ("fields", "reading", "links"),
    ("network_specs", "augment_specs", "guard_specs"),
    ("terms", "prior_specs", "methods", "cards"),
    ("config", "checkpoint"),
    ("recipes", "stage_folder"),
    ("data",),
    ("norms", "fitting"),
    ("foreign",),
    ("networks",),
    ("models",),
    ("heads", "tally"),
    ("losses", "priors", "twin"),
    ("parts",),
    ("objective",),
    ("world",),
    ("syncnorm",),
    ("logs", "compute", "gather", "interruption"),
    ("training_state",),
    ("selection",),
    ("trainer",),
    ("windows", "surfaces"),
    ("prediction", "metrics", "overlap"),
    ("overlays", "summaries", "conventions", "photos", "trust"),
    ("outcomes",),
    ("scoring",),
    ("evaluation_photos", "evaluation_volumes"),
    ("evaluation",),
    ("report_words", "report_shapes"),
    ("report_files", "report_table"),
    ("report_html", "report_classes"),
    ("report_figures", "report_heat", "report_page", "report_papers", "report_seeds"),
    ("report_pictures", "report_figures_selection"),
    ("report_photos", "report_selection"),
    ("report_adaptation",),
    ("prediction_pictures", "prediction_page"),
    ("prediction_folder",),
    ("report",),
    ("validation", "domain_ranges"),
    ("guarding", "workplace"),
    ("batches",),
    ("stages", "environment"),
    ("prior_stage",),
    ("domains",),
    ("rendering",),
    ("plan",),
    ("pipeline",),
    ("check_rules", "check_layout"),
    ("check_report", "check_photo_rules"),
    ("check_photos",),
    ("presets", "check", "importing", "convert"),
    ("check_page", "nnunet"),
    ("own",),
    ("api",),
    ("cli_runs", "cli_tables"),
    ("cli_predict", "cli_prior", "cli_check", "cli_import", "cli_convert"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]
EACH_FILE = pytest.mark.parametrize(
    "path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES]
)
EACH_MODULE = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE)) for path in MODULES]
)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(path: Path) -> str:
    """Dotted name below the package: ``data.store``, ``losses``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room(name: str) -> str:
    return name.partition(".")[0]


def imports(path: Path) -> set[str]:
    """Our own modules a file imports: at its head, inside functions, and for type checking alike."""
    known = {dotted(file) for file in FILES}
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("uda.") for a in node.names if a.name.startswith("uda.")}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "uda":
            base = (node.module or "").removeprefix("uda").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in known else base)
    return found - {""}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def test_every_module_has_its_layer() -> None:
    assert {room(dotted(path)) for path in MODULES} == set(LEVEL)


@EACH_MODULE
def test_imports_go_one_way(path: Path) -> None:
    own = room(dotted(path))
    upward = {
        name
        for name in imports(path)
        if room(name) != own and (room(name) not in LEVEL or LEVEL[room(name)] >= LEVEL[own])
    }
    assert upward == set()


def test_no_module_imports_itself_through_others() -> None:
    graph = {dotted(path): imports(path) - {dotted(path)} for path in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("api")


def test_losses_know_shapes_and_errors_and_nothing_else() -> None:
    known = {name for path in (PACKAGE / "losses").glob("*.py") for name in imports(path)}
    assert {room(name) for name in known} == {"errors", "types", "losses"}


def test_the_loop_knows_no_stage_no_network_and_no_data_set() -> None:
    known = imports(PACKAGE / "trainer.py")
    assert known.isdisjoint({"models", "stages", "priors", "recipes", "data.cases", "data.store"})


def test_a_target_batch_has_no_room_for_labels() -> None:
    assert [field.name for field in dataclasses.fields(TargetBatch)] == ["image", "index"]


READERS = {
    "data.volumes",
    "data.sources",
    "data.photo_labels",
    "data.store",
    "data.writing",
    "evaluation",
    "evaluation_photos",
    "evaluation_volumes",
    "conventions",
    "check",
    "check_photos",
    "convert",
}
"""Who may open a label file: the store for labelled splits, what scores, checks or converts data."""


def test_only_who_scores_checks_or_converts_opens_labels_outside_the_store() -> None:
    users = {
        dotted(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name)
        and node.id in {"map_labels", "prepare_label", "read_label", "read_classes"}
    }
    assert users <= READERS
    assert {"data.sources", "evaluation_volumes", "check", "convert"} <= users


def test_no_stage_knows_who_may_open_labels() -> None:
    for name in ("stages", "prior_stage", "trainer", "objective", "summaries"):
        assert imports(PACKAGE / f"{name}.py").isdisjoint(READERS - {"data.store"})
    users = {
        n
        for n in LEVEL
        if (PACKAGE / f"{n}.py").is_file() and "convert" in imports(PACKAGE / f"{n}.py")
    }
    assert users == {"cli_convert"}


STORES = ("store", "self.store", "target", "source", "validation")
READ_FROM = {("labelled", "items"), *(("labels", store) for store in STORES)}


def test_only_source_training_and_validation_read_the_labels_of_a_store() -> None:
    readers = {
        (dotted(path), function.name)
        for path in FILES
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and (node.attr, ast.unparse(node.value)) in READ_FROM
    }
    assert readers == {
        ("data.sampling", "source_batch"),
        ("data.items", "labelled"),
        ("stages", "train_supervised"),
        ("validation", "validation_scores"),
        ("prior_stage", "_spatial"),
        ("prior_stage", "_image_level"),
    }


@EACH_FILE
@pytest.mark.parametrize("name", ["print", "eval", "exec", "compile", "__import__", "breakpoint"])
def test_no_call_that_prints_or_runs_text(path: Path, name: str) -> None:
    called = {call.func.id for call in calls(path) if isinstance(call.func, ast.Name)}
    assert name not in called


@EACH_FILE
def test_no_assert_statement(path: Path) -> None:
    """A user's fault needs an error with its remedy, and ``python -O`` removes assertions."""
    assert not [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]


@EACH_FILE
def test_no_pickle(path: Path) -> None:
    for node in ast.walk(tree(path)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        roots = {name.partition(".")[0] for name in names}
        assert roots.isdisjoint({"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"})
    for call in calls(path):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "load":
            continue
        owner, named = ast.unparse(call.func.value), {k.arg: k.value for k in call.keywords}
        if owner == "torch":
            assert ast.unparse(named["weights_only"]) == "True"
        if owner in {"np", "numpy"}:
            assert ast.unparse(named.get("allow_pickle", ast.Constant(False))) == "False"
        assert owner != "yaml"  # safe_load only


@EACH_FILE
def test_no_import_by_a_name_from_outside(path: Path) -> None:
    """``importlib`` serves the lazy public API alone, whose names are written there."""
    by_name = [c for c in calls(path) if ast.unparse(c.func).endswith("import_module")]
    assert not by_name or path == PACKAGE / "__init__.py"


@EACH_FILE
def test_no_star_import(path: Path) -> None:
    names = [
        alias.name
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert "*" not in names


@EACH_FILE
def test_no_room_is_called_by_what_it_is_not(path: Path) -> None:
    assert path.stem not in {"utils", "util", "base", "common", "helpers", "misc"}


def test_a_module_says_what_it_is_for() -> None:
    assert [dotted(path) for path in FILES if not ast.get_docstring(tree(path))] == []
