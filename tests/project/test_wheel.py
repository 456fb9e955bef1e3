"""The wheel, built here and used from a folder that is not the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = folder.glob("uda_seg-*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def uda(installed: Path, cwd: Path, *arguments: str) -> str:
    """Run the wheel's own ``uda``; the first line it prints is the package's folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import uda; print(uda.__file__);"
        "from uda.cli.main import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(installed))
    return done.stdout


def test_recipes_and_cards_ship_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    listed = uda(installed, tmp_path, "list")
    names = [
        path.stem for folder in ("pipelines", "datasets") for path in (ROOT / folder).glob("*.yaml")
    ]
    assert names
    assert [name for name in names if name not in listed] == []


def test_the_wheel_runs_a_recipe_outside_the_repository(installed: Path, tmp_path: Path) -> None:
    few = [
        "pretrain.steps=1",
        "sources={}",
        *(f"data.streets.{key}=2" for key in ("source", "target", "test")),
    ]
    uda(installed, tmp_path, "pretrain", "street_phantom", *few, "--quiet")
    assert (tmp_path / "checkpoints/street_phantom/pretrain/model.safetensors").is_file()


def test_the_wheel_holds_the_package_and_nothing_of_a_run(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"uda"}


def test_the_wheel_says_that_it_is_typed(installed: Path) -> None:
    assert (installed / "uda" / "py.typed").is_file()


def test_the_templates_of_the_pages_ship_in_the_wheel(installed: Path) -> None:
    folder = Path("uda/report/templates")
    shipped, ours = ({file.name for file in (at / folder).iterdir()} for at in (installed, ROOT))
    assert shipped == ours
    assert "page.html" in ours
