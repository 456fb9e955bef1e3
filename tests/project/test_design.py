"""The house rules: imports go one way, target labels stay out of training, nothing dangerous is called."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

from uda.types import TargetBatch

PACKAGE = Path(__file__).parents[2] / "uda"

# A room may import from rooms on a line above its own, and inside itself.
FLOORS = (
    ("errors", "types"),
    ("files", "losses"),
    ("config",),
    ("data",),
    ("networks",),
    ("devices",),
    ("priors", "selection"),
    ("training", "report"),
    ("prediction", "check"),
    ("evaluation",),
    ("pipeline",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
DOORS = 20
"""entries of the package's root at the most: what a screen shows at a glance"""
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]


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


def test_the_root_fits_on_a_screen() -> None:
    doors = {path.relative_to(PACKAGE).parts[0] for path in FILES}
    assert len(doors) <= DOORS
    assert {door.removesuffix(".py") for door in doors} == {*LEVEL, "__init__"}


def test_imports_go_one_way_between_rooms() -> None:
    upward = {
        f"{dotted(path)} imports {name}"
        for path in MODULES
        for name in imports(path)
        if room(name) != room(dotted(path))
        and LEVEL.get(room(name), len(LEVEL)) >= LEVEL[room(dotted(path))]
    }
    assert upward == set()


def test_no_module_imports_itself_through_others() -> None:
    """The sorter raises ``CycleError`` with the modules of a circle."""
    graph = {dotted(path): imports(path) - {dotted(path)} for path in MODULES}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("errors") < order.index("api")


def test_losses_know_shapes_and_errors_and_nothing_else() -> None:
    known = {name for path in (PACKAGE / "losses").glob("*.py") for name in imports(path)}
    assert {room(name) for name in known} == {"errors", "types", "losses"}


def test_the_loop_knows_no_stage_no_network_and_no_data_set() -> None:
    known = imports(PACKAGE / "training" / "loop.py")
    assert known.isdisjoint(
        {
            *(
                "networks.model_file",
                "pipeline.stages",
                "priors",
                "config.loading",
                "data.cases",
                "data.store",
            ),
        }
    )


def test_a_target_batch_has_no_room_for_labels() -> None:
    assert [field.name for field in dataclasses.fields(TargetBatch)] == ["image", "index"]


READERS = {
    "data.volumes",
    "data.sources",
    "data.photo_labels",
    "data.store",
    "data.writing",
    "data.convert",
    "evaluation.evaluate",
    "evaluation.photos",
    "evaluation.volumes",
    "evaluation.sifa",
    "check.volumes",
    "check.photos",
    "data.annotations.label_files",
    "data.annotations.simulate",
}
"""Who may open a label file: the store for labelled splits, what scores, checks or converts data, and annotations,
which a user gives of cases that no score is computed on."""


def test_only_who_scores_checks_or_converts_opens_labels_outside_the_store() -> None:
    users = {
        dotted(path)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name)
        and node.id in {"map_labels", "prepare_label", "read_label", "read_classes"}
    }
    assert users <= READERS
    assert {"data.sources", "evaluation.volumes", "check.volumes", "data.convert"} <= users


def test_no_stage_knows_who_may_open_labels() -> None:
    for name in (
        "pipeline/stages",
        "pipeline/pretraining",
        "priors/estimate",
        "priors/network_evidence",
        "training/loop",
        "training/objective",
    ):
        assert imports(PACKAGE / f"{name}.py").isdisjoint(READERS - {"data.store"})
    users = {dotted(path) for path in FILES if "data.convert" in imports(path)}
    assert users == {"cli.convert", "pipeline.rendering"}  # which also draws what is marked


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
        ("training.batches", "_annotated_batches"),  # labels of annotations, of no store
        ("training.batches", "drawn"),
        ("pipeline.pretraining", "train_supervised"),
        ("pipeline.validation", "validation_scores"),
        ("pipeline.calibration", "_predictions"),
        ("priors.estimate", "_spatial"),
        ("priors.estimate", "_image_level"),
    }


def test_no_call_that_prints_or_runs_text() -> None:
    forbidden = {"print", "eval", "exec", "compile", "__import__", "breakpoint"}
    called = {
        (dotted(path), call.func.id)
        for path in FILES
        for call in calls(path)
        if isinstance(call.func, ast.Name)
    }
    assert {(path, name) for path, name in called if name in forbidden} == set()


def test_no_assert_statement() -> None:
    """A user's fault needs an error with its remedy, and ``python -O`` removes assertions."""
    found = {
        (dotted(path), node.lineno)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert)
    }
    assert found == set()


PICKLES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def test_no_pickle() -> None:
    for path in FILES:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert PICKLES.isdisjoint(name.partition(".")[0] for name in names), path


def test_what_could_unpickle_is_told_not_to() -> None:
    for path in FILES:
        for call in calls(path):
            if not isinstance(call.func, ast.Attribute) or call.func.attr != "load":
                continue
            owner, named = ast.unparse(call.func.value), {k.arg: k.value for k in call.keywords}
            if owner == "torch":
                assert ast.unparse(named["weights_only"]) == "True", path
            if owner in {"np", "numpy"}:
                assert ast.unparse(named.get("allow_pickle", ast.Constant(False))) == "False", path
            assert owner != "yaml", path  # safe_load only


def test_no_import_by_a_name_from_outside() -> None:
    """``importlib`` serves the lazy public API alone, whose names are written there."""
    users = {
        path
        for path in FILES
        for call in calls(path)
        if ast.unparse(call.func).endswith("import_module")
    }
    assert users == {PACKAGE / "__init__.py"}


def test_no_star_import() -> None:
    names = {
        (dotted(path), alias.name)
        for path in FILES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {path for path, name in names if name == "*"} == set()


def test_no_file_is_called_by_what_it_is_not() -> None:
    metaphors = {
        "twin",
        "world",
        "own",
        "tally",
        "outcomes",
        "workplace",
        "summaries",
        "norms",
        "fitting",
    }
    vague = {"utils", "util", "base", "common", "helpers", "misc"}
    assert {path.stem for path in FILES} & (metaphors | vague) == set()


def test_a_module_says_what_it_is_for() -> None:
    assert [dotted(path) for path in FILES if not ast.get_docstring(tree(path))] == []
