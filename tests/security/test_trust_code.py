"""TorchScript is its author's code: torch sees none of it without the caller's word, whatever a file says of itself."""

from __future__ import annotations

import copy
import io
import sys
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from foreign_networks import Plain, exported, repacked, scripted, used
from safetensors.torch import save_file
from torch import Tensor, nn

from uda import api
from uda.cli import main as cli
from uda.config.recipe import Compute
from uda.errors import ModelError
from uda.files.atomic import CHECKSUM, load_tensors
from uda.files.digests import sha256_of
from uda.files.stage_folder import STAGE_FILE
from uda.networks.foreign import digest, kind_of, load_program
from uda.networks.importing import import_model
from uda.networks.model_file import MODEL_FILE, PROGRAM, TRUSTED, Trained, load_model
from uda.selection import Choice, Judge, choose

CPU = Compute(device="cpu")
SIZE = (1, 32, 32)


@pytest.fixture(scope="module")
def script() -> bytes:
    torch.manual_seed(0)
    return scripted(used(Plain(), SIZE))


@pytest.fixture
def unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch must not read a program."""

    def opened(*args: Any, **more: Any) -> None:
        raise AssertionError("torch reads the program")

    monkeypatch.setattr(torch.jit, "load", opened)


def injected(data: bytes, code: str, parameter: str = "") -> bytes:
    """The program whose code was changed after torch's printer wrote it."""
    head = "image: Tensor) -> Tensor:\n"
    done: list[str] = []

    def change(name: str, content: bytes) -> bytes:
        text = content.decode("latin-1")
        if not name.endswith(".py") or head not in text or "relu" not in text:
            return content
        done.append(name)
        text = text.replace(head, f"image: Tensor{parameter}) -> Tensor:\n{code}")
        return text.encode("latin-1")

    changed = repacked(data, change)
    assert done
    return changed


MAPPED = 'getattr(torch, "from_" "file")("trap", True, 4, dtype=0, layout=None, device=None, pin_memory=None)'
CODE: dict[str, tuple[str, str]] = {
    "a default that writes while it loads": (
        "",
        f", n: int=torch.numel(torch.fill_({MAPPED}, 65))",
    ),
    "a save under a name of two parts": ('    getattr(torch, "sa" "ve")(image, "trap")\n', ""),
    "a file read and printed": (f"    print(annotate(List[float], ({MAPPED}).tolist()))\n", ""),
    "an operator over two lines": ("    t = ops.\\\n   export_test.foo(image)\n", ""),
    "an operator by getattr": (
        '    t = getattr(ops, "profiler")._record_function_enter_new("abc", None)\n    print(t)\n',
        "",
    ),
    "an operator behind a comment": (
        '    t = (ops. # c\n   profiler . _record_function_enter_new("abc", None))\n    print(t)\n',
        "",
    ),
    "escapes for the terminal": (
        '    print("\\033]0;owned\\007\\033[31mhello\\033[0m")\n',
        "",
    ),
    "a save in plain words": ('    torch.save(image, "trap")\n', ""),
    "an operator of images": ('    ops.image.write_file("trap", image)\n', ""),
    "an object": ("    t = __torch__.torch.classes.quantized.A(image)\n", ""),
    "no harm": ("", ""),
}


@pytest.mark.parametrize("kind", CODE)
def test_no_program_of_torchscript_is_opened_without_the_word(
    kind: str,
    script: bytes,
    tiny: Tiny,
    unopened: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    here = tiny.home / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (tiny.home / "network.pt").write_bytes(injected(script, *CODE[kind]))
    said = command(
        "import", tiny.home / "network.pt", "--card", tiny.home / "source.yaml", capfd=capfd
    )
    assert "TorchScript" in said
    assert "network.pt" in said
    for way in ("torch.export.export", "--weights", "--trust-code", "trust_code=True"):
        assert way in said
    assert list(here.iterdir()) == []


def command(*words: object, capfd: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run ``uda``, which must refuse, with nothing on stdout; returns its message."""
    capfd.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["uda", *map(str, words), "--out", "out"])
        patch.delenv("UDA_DEBUG", raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
    out, err = capfd.readouterr()
    assert ended.value.code == code, err
    assert out == ""
    assert "\x1b" not in err
    return err


@pytest.fixture
def model(script: bytes, tiny: Tiny) -> Path:
    path = tiny.home / "net.pt"
    path.write_bytes(script)
    ratio = {"disk": 0.1, "ring": 0.2}
    return import_model(
        path,
        tiny.home / "model",
        card=str(tiny.home / "source.yaml"),
        class_ratio=ratio,
        trust_code=True,
    )


def test_every_verb_asks_again(
    model: Path,
    tiny: Tiny,
    unopened: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    here, images = tiny.home / "here", tiny.root / "t" / "images"
    here.mkdir()
    monkeypatch.chdir(here)
    card = tiny.home / "target.yaml"
    for verb, *words in (
        ("adapt", "--model", model, "--target", images),
        ("predict", "--model", model.parent, "--images", images),
        ("suggest", "--model", model, "--images", images),
        ("evaluate", "--model", model, "--card", card, "--root", tiny.root),
        ("prior", "--model", model),
        ("prior", "--model", model, "--kind", "predicted", "--target", images),
    ):
        said = command(verb, *words, "--device", "cpu", capfd=capfd)
        assert "TorchScript" in said
        assert "--trust-code" in said
        assert str(model.parent) in said
    asked: list[Callable[[], object]] = [
        lambda: load_model(model),
        lambda: Trained.load(model.parent),
        lambda: api.adapt(model, images, "out", compute=CPU),
        lambda: api.predict(model, images, "out", compute=CPU),
        lambda: api.suggest(model, images, compute=CPU),
        lambda: api.evaluate_model(model, str(card), tiny.root, here / "out", compute=CPU),
        lambda: api.estimate_prior(model, compute=CPU),
    ]
    for ask in asked:
        with pytest.raises(ModelError, match="trust_code=True"):
            ask()
    assert not [path for path in here.rglob("*") if path.is_file()]


def test_with_the_word_every_verb_opens_it(
    model: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.home)
    images, card = tiny.root / "t" / "images", tiny.home / "target.yaml"
    settings = ("--set", "steps=2", "--set", "batch=2", "--method", "minent")
    for verb, *words in (
        ("import", tiny.home / "net.pt", "--card", tiny.home / "source.yaml", "--out", "again"),
        ("adapt", "--model", model, "--target", images, *settings, "--out", "adapted", "--quiet"),
        ("predict", "--model", "adapted", "--images", images, "--out", "masks"),
        ("suggest", "--model", "adapted", "--with", model, "--images", images, "--k", "1"),
        ("evaluate", "--model", model, "--card", card, "--root", tiny.root, "--out", "scores"),
        ("prior", "--model", model, "--out", "prior.json"),
    ):
        line = [
            "uda",
            verb,
            *words,
            "--trust-code",
            *(() if verb == "import" else ("--device", "cpu")),
        ]
        monkeypatch.setattr(sys, "argv", [str(word) for word in line])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code in (0, 3), capfd.readouterr().err  # 3: kept the model as it was
    program = (tiny.home / "net.pt").read_bytes()
    assert f"trusted code: SHA-256 {digest(program)}" in capfd.readouterr().out
    for path in (model, tiny.home / "again", tiny.home / "adapted"):
        assert load_model(path, trust_code=True)[1].origin[TRUSTED] == digest(program)


def test_a_run_folder_with_a_program_in_it_is_refused(
    model: Path, tiny: Tiny, unopened: None
) -> None:
    """Recipes train networks of ours or registered ones; only a stranger puts TorchScript into their folders."""
    recipe = tiny.load()
    run = tiny.home / "run"
    planted = api.pretrain(recipe, run) / MODEL_FILE
    before = sha256_of(planted)
    planted.write_bytes(model.read_bytes())
    stage = planted.parent / STAGE_FILE
    forged = stage.read_text().replace(before, sha256_of(planted))
    assert forged != stage.read_text()
    stage.write_text(forged)
    with pytest.raises(ModelError, match="TorchScript"):
        api.evaluate(recipe, run)


def test_a_record_in_the_file_is_no_permission(model: Path, unopened: None, tmp_path: Path) -> None:
    tensors, metadata = load_tensors(model)
    assert TRUSTED in metadata["uda"]
    metadata.pop(CHECKSUM)
    metadata["uda"] = metadata["uda"].replace('"origin": {', '"origin": {"trust_code": "true", ')
    metadata["trust_code"] = "true"
    save_file(tensors, tmp_path / MODEL_FILE, metadata)
    with pytest.raises(ModelError, match="TorchScript"):
        load_model(tmp_path)


def test_a_file_from_before_the_record_opens_with_the_word(model: Path) -> None:
    tensors, metadata = load_tensors(model)
    metadata.pop(CHECKSUM)
    sha = digest(tensors[PROGRAM].numpy().tobytes())
    metadata["uda"] = metadata["uda"].replace(f', "{TRUSTED}": "{sha}"', "")
    assert TRUSTED not in metadata["uda"]
    save_file(tensors, model, metadata)
    with pytest.raises(ModelError, match="TorchScript"):
        load_model(model)
    assert load_model(model, trust_code=True)[0](torch.zeros(1, *SIZE)).shape == (1, 3, 32, 32)


def test_a_script_that_calls_itself_exported_is_refused(
    script: bytes, model: Path, unopened: None
) -> None:
    for trust in (False, True):
        with pytest.raises(ModelError, match="is a torchscript program"):
            load_program("exported", script, "x", trust)
    tensors, metadata = load_tensors(model)
    metadata.pop(CHECKSUM)
    metadata["uda"] = metadata["uda"].replace('"torchscript"', '"exported"')
    save_file(tensors, model, metadata)
    with pytest.raises(ModelError, match="is a torchscript program"):
        load_model(model)


def both(one: bytes, other: bytes) -> bytes:
    """An archive with the parts of two programs."""
    buffer = io.BytesIO(one)
    with zipfile.ZipFile(buffer, "a") as archive, zipfile.ZipFile(io.BytesIO(other)) as more:
        for name in more.namelist():
            if name not in archive.namelist():
                archive.writestr(name, more.read(name))
    return buffer.getvalue()


def test_an_archive_of_both_kinds_is_refused(script: bytes, unopened: None) -> None:
    program = exported(used(Plain(), SIZE), SIZE)
    for data in (both(script, program), both(program, script)):
        with pytest.raises(ModelError, match="could run code when it is opened"):
            load_program(kind_of(data, "x"), data, "x")


def test_another_program_than_the_trusted_one_needs_its_own_word(
    model: Path, script: bytes, tmp_path: Path
) -> None:
    """A run opens its own snapshots again, and a killed run those that lie in its folder."""
    trusted, _ = load_model(model, trust_code=True)
    assert load_model(model, known=trusted)[1].origin[TRUSTED] == digest(script)
    tensors, metadata = load_tensors(model)
    metadata.pop(CHECKSUM)
    other = injected(script, *CODE["a save in plain words"])
    tensors[PROGRAM] = torch.frombuffer(bytearray(other), dtype=torch.uint8)
    save_file(tensors, tmp_path / MODEL_FILE, metadata)
    with pytest.raises(ModelError, match="TorchScript"):
        load_model(tmp_path, known=trusted)


class Memory(nn.Module):
    """Prints when it is saved, copied or opened."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 3

    def forward(self, image: Tensor) -> Tensor:
        return image * self.passes

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        print("\x1b[31mhello\x1b[0m")  # noqa: T201
        return self.passes, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        print("\x1b[31mhello\x1b[0m")  # noqa: T201
        self.passes, self.training = state


class Talks(nn.Module):
    """Prints and warns in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.memory = nn.Conv2d(1, 3, 1), Memory()

    def forward(self, image: Tensor) -> Tensor:
        print("\x1b]0;owned\x07\x1b[31mhello\x1b[0m")  # noqa: T201
        warnings.warn("\x1b[31mhello\x1b[0m", stacklevel=1)
        return self.last(self.memory(image))


def test_what_a_trusted_program_prints_never_reaches_the_terminal(
    tiny: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    path, images = tiny.home / "net.pt", tiny.root / "t" / "images"
    path.write_bytes(scripted(Talks()))
    assert "hello" in capfd.readouterr().out  # as torch saved it
    shown = warnings.showwarning
    ours: dict[str, Any] = {"compute": CPU, "trust_code": True}
    card = str(tiny.home / "source.yaml")
    model = import_model(path, tiny.home / "model", card=card, trust_code=True)
    settings = ("steps=2", "batch=2")
    model = api.adapt(model, images, tiny.home / "out", method="minent", overrides=settings, **ours)
    list(api.predict(model, images, tiny.home / "masks", **ours))
    copy.deepcopy(load_model(model, trust_code=True)[0])(torch.zeros(1, *SIZE))
    said = capfd.readouterr()
    assert "hello" not in said.out + said.err
    assert warnings.showwarning is shown
    with pytest.warns(FutureWarning, match="deprecated"):
        torch.jit.load(path)
    assert "\x1b[31mhello" in capfd.readouterr().out  # torch alone shows it


class Raises(nn.Module):
    def __init__(self, allowed: int) -> None:
        super().__init__()
        self.last, self.allowed = nn.Conv2d(1, 3, 1), allowed

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[0] > self.allowed:
            raise RuntimeError("\x1b[31mhello\x1b[0m")
        return self.last(image)


def test_what_a_trusted_program_raises_is_shown_as_text(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tiny.home)
    path, card = tiny.home / "net.pt", tiny.home / "source.yaml"
    path.write_bytes(scripted(Raises(0)))
    said = command("import", path, "--card", card, "--trust-code", capfd=capfd)
    assert "\\x1b[31mhello" in said
    path.write_bytes(scripted(Raises(2)))
    model = import_model(path, tiny.home / "model", card=str(card), trust_code=True)
    words = ("--target", tiny.root / "t" / "images", "--method", "minent", "--set", "batch=3")
    said = command(
        *("adapt", "--model", model, *words, "--trust-code", "--device", "cpu", "--quiet"),
        capfd=capfd,
        code=2,
    )
    assert "\\x1b[31mhello" in said


def test_the_same_code_would_run_without_this_check(
    script: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("a default that writes while it loads", "a save in plain words"):
        data = injected(script, *CODE[kind])
        load_program("torchscript", data, "x", trust_code=True)(torch.zeros(2, *SIZE))
        assert (tmp_path / "trap").exists()
        (tmp_path / "trap").unlink()


def test_a_guarded_run_keeps_a_snapshot_of_the_trusted_program(
    model: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def last(judge: Judge) -> Choice:
        chosen = choose(judge.scores())
        return replace(chosen, name=judge.candidates[-1].name)

    monkeypatch.setattr(Judge, "choose", last)
    adapted = api.adapt(
        model,
        tiny.root / "t" / "images",
        tiny.home / "out",
        method="minent",
        overrides=("steps=2", "batch=2"),
        compute=CPU,
        trust_code=True,
    )
    _, info = load_model(adapted, trust_code=True)
    assert info.step == 2
    assert TRUSTED in info.origin
