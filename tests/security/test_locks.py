"""What `make setup` downloads: exact versions, each file with its hash, no build from source."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ["requirements.lock", "requirements-uv.lock", "requirements-audit.lock"]
ENTRY = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9.-]*)==(?P<version>[0-9][A-Za-z0-9.+!]*)"
    r"( ; [^\\\n]+)?(?P<hashes>( \\\n    --hash=sha256:[0-9a-f]{64})+)"
    r"(?P<via>(\n    #[^\n]*)*)"
)


def entries(lock: str) -> dict[str, re.Match[str]]:
    """Every entry by name; the lock holds nothing else."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    found = list(ENTRY.finditer(text))
    rest = ENTRY.sub("", text).split()
    assert rest == [], f"{lock} holds {rest[:5]}"
    return {match["name"]: match for match in found}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_of_a_lock_has_an_exact_version_and_a_hash(lock: str) -> None:
    assert entries(lock)
    assert "://" not in (ROOT / lock).read_text(encoding="utf-8")


def test_what_the_project_needs_and_is_built_with_is_locked() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = re.findall(
        r"^(?:dependencies|dev|requires) = \[(.*?)\]", text, re.MULTILINE | re.DOTALL
    )
    assert len(lists) == 3
    named = {
        re.split(r"[<>=]", word)[0].lower()
        for part in lists
        for word in re.findall(r'"(.*?)"', part)
    }
    assert {"torch", "hatchling", "pytest"} <= named
    assert named - set(entries("requirements.lock")) == set()
    assert set(entries("requirements-uv.lock")) == {"uv"}
    assert "pip-audit" in entries("requirements-audit.lock")


def commands(target: str) -> list[str]:
    """Commands that make would run if no target existed."""
    result = subprocess.run(
        ["make", "--no-print-directory", "-n", target, "VENV=nowhere", "AUDIT_OPTIONS=--dry-run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in result.stdout.replace("\\\n", "").splitlines() if line]


@pytest.mark.parametrize("target", ["setup", "audit"])
def test_nothing_is_installed_without_its_hash(target: str) -> None:
    installs = [line for line in commands(target) if "pip install" in line]
    assert len(installs) >= 3
    for line in installs:
        ours = "--no-deps --no-build-isolation -e ." in line
        hashed = "--require-hashes -r requirements" in line
        built = "--no-build" in line or "--only-binary :all:" in line
        assert ours or (hashed and built), line


def test_the_audit_asks_about_every_lock_and_fails_without_an_answer() -> None:
    (line,) = [line for line in commands("audit") if "pip-audit " in line]
    assert line.startswith(f"for lock in {' '.join(LOCKS)}; do ")
    for option in ("--strict", "--disable-pip", "--require-hashes", "--dry-run", "|| exit 1"):
        assert option in line
    assert not any("pip-audit" in line for line in commands("test"))
