"""``uda prior``: a recipe's priors, or one for your own model."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer
from typer.core import TyperCommand

from uda.cli.options import (
    Device,
    Overrides,
    Quiet,
    Restart,
    Root,
    TrustCode,
    compute_on,
    recipe_of,
    run_until,
)

if TYPE_CHECKING:
    from uda.config.priors import AnyPrior
    from uda.errors import ConfigError
    from uda.priors import Prior

USUAL = "source_labels"


class PriorCommand(TyperCommand):
    """A command whose help ends with the kinds of prior, read from their settings only then."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The usual help, then the kinds."""
        super().format_help(ctx, formatter)
        _print_kinds()


def prior(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose priors to make.")] = None,
    overrides: Overrides = None,
    model: Annotated[
        Path | None, typer.Option(help="Your trained model, instead of a recipe.")
    ] = None,
    kind: Annotated[
        str, typer.Option(metavar="KIND", help=f"Kind of prior, see below. Default: {USUAL}.")
    ] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the kind, e.g. sigma=2."),
    ] = None,
    tags: Annotated[
        Path | None, typer.Option(help="CSV case,slice,<structures> with 0 and 1.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Target images: a folder, or a pattern in quotes.")
    ] = None,
    source: Annotated[str, typer.Option(help="Card of the labelled source.")] = "",
    root: Root = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; with --model the prior.json to write.")
    ] = None,
    trust_code: TrustCode = False,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Make a recipe's priors, or one for your own model."""
    given = {
        "--kind": kind,
        "--set": setting,
        "--tags": tags,
        "--target": target,
        "--source": source,
        "--root": root,
        "--trust-code": trust_code,
    }
    flags = [flag for flag, value in given.items() if value]
    if model is None:
        if recipe is None:
            raise typer.BadParameter("give a recipe, or --model")
        if flags:
            raise typer.BadParameter(f"{flags[0]} is for --model; a recipe names its priors itself")
        _make_recipes(recipe, overrides, out, restart, device, quiet)
        return
    if recipe is not None:
        raise typer.BadParameter("give a recipe or --model, not both")
    spec = _spec(kind or USUAL, setting or ())
    _refuse_unused(spec, flags)
    from uda.files.apart import check_apart
    from uda.files.new import check_file
    from uda.networks.model_file import model_path
    from uda.priors import PRIOR_FILE
    from uda.priors.from_files import prior_of

    path = out or Path(PRIOR_FILE)
    check_file(path)
    check_apart(path, [given for given in (model_path(model), tags, target) if given is not None])
    made = prior_of(
        model,
        spec,
        tags=tags,
        target=target,
        source=source or None,
        root=root,
        compute=compute_on(device),
        trust_code=trust_code,
    )
    made.save(path)
    _print(path, made)


def _make_recipes(
    recipe: str,
    overrides: Sequence[str] | None,
    out: Path | None,
    restart: bool,
    device: str,
    quiet: bool,
) -> None:
    """Make and print the priors that a recipe names."""
    folder = run_until(recipe, overrides, "prior", out, restart, device, quiet)
    from uda.priors import PRIOR_FILE, Prior

    for name in recipe_of(recipe, overrides or []).prior:
        path = folder / f"prior-{name}" / PRIOR_FILE
        _print(path, Prior.load(path))


def _print(path: Path, made: Prior) -> None:
    shares = ", ".join(f"{n} {r:.4g}" for n, r in zip(made.classes, made.ratio, strict=True))
    typer.echo(f"{path}: {shares} ({', '.join(made.supervision)})")


def _spec(kind: str, settings: Sequence[str]) -> AnyPrior:
    """The settings of a kind of prior, from ``key=value`` and ``key.structure=value``.

    Raises:
        ConfigError: an unknown kind or key, a key given twice, one that is missing, or a value that does not fit.
    """
    from uda.config.loading import parse, read_setting
    from uda.config.priors import KINDS
    from uda.errors import ConfigError, nearest, raise_all

    if kind not in KINDS:
        raise ConfigError(
            f"there is no kind of prior {kind!r}",
            where="--kind",
            expected=nearest(kind, KINDS),
            fix="give one of these; `uda prior --help` describes each",
        )
    raw: dict[str, Any] = {}
    for text in settings:
        key, value = read_setting(text)
        name, dot, structure = key.partition(".")
        place = raw.setdefault(name, {}) if dot else raw
        last = structure if dot else name
        if not isinstance(place, dict) or last in place:
            raise ConfigError(f"--set gives {key!r} twice", fix="give it once")
        place[last] = value
    where = f"--set, for a prior of kind {kind!r}"
    raise_all(_faults(kind, raw), where)
    return parse(KINDS[kind], raw, where)


def _faults(kind: str, given: Collection[str]) -> list[ConfigError]:
    """One fault for each setting that the kind does not have, and one for those that it needs and that are missing."""
    from uda.config.priors import KINDS
    from uda.errors import ConfigError, nearest

    settings = {name: _settings(cls) for name, cls in KINDS.items()}
    known, faults = settings[kind], []
    for name in given:
        if name not in known:
            others = [f"--kind {other}" for other, names in settings.items() if name in names]
            faults.append(
                ConfigError(
                    f"a prior of kind {kind!r} has no setting {name!r}",
                    expected=nearest(name, known) if known else "no --set: it has no settings",
                    fix=f"use {' or '.join(others)}"
                    if others
                    else "`uda prior --help` lists the settings of each kind",
                )
            )
    needed = [name for name, field in KINDS[kind].model_fields.items() if field.is_required()]
    if missing := [known[name] for name in needed if name not in given]:
        faults.append(
            ConfigError(
                f"a prior of kind {kind!r} needs a setting that is not given",
                expected=" ".join(f"--set {text}" for text in missing),
                fix="add it; `uda prior --help` lists the settings of each kind",
            )
        )
    return faults


def _settings(kind: type[AnyPrior]) -> dict[str, str]:
    """How each setting of a kind is written: with its default, or with what to put there."""
    written = {}
    for name, field in kind.model_fields.items():
        if not field.is_required():
            written[name] = f"{name}={json.dumps(field.default)}".replace('"', "")
        elif get_origin(field.annotation) is dict:
            written[name] = f"{name}.STRUCTURE=NUMBER"
        else:
            written[name] = f"{name}={name.upper()}"
    del written["kind"]
    return written


def _inputs() -> Mapping[str, tuple[type[AnyPrior], ...]]:
    """Which kinds use an option."""
    from uda.config.priors import NEEDS_SOURCE, NEEDS_TAGS, NEEDS_TARGET, TagPrior

    return {
        "--tags": NEEDS_TAGS,
        "--target": (*NEEDS_TARGET, TagPrior),
        "--source": NEEDS_SOURCE,
        "--root": NEEDS_SOURCE,
    }


def _refuse_unused(spec: AnyPrior, flags: Sequence[str]) -> None:
    """Refuse an option that this kind of prior does not use: its user meant another kind."""
    from uda.errors import ConfigError

    for flag, kinds in _inputs().items():
        if flag in flags and not isinstance(spec, kinds):
            names = ", ".join(kind.model_fields["kind"].default for kind in kinds)
            raise ConfigError(
                f"a prior of kind {spec.kind!r} does not use {flag}",
                expected=f"--kind with one of {names}",
                fix=f"say with --kind what to make of it, or leave {flag} out",
            )


def _print_kinds() -> None:
    """Print a panel with each kind: what it is, the options it uses, and its settings."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from uda.config.priors import KINDS

    table = Table.grid(padding=(0, 2, 0, 0))
    inputs = _inputs()
    for name, kind in KINDS.items():
        table.add_row(Text(name, "bold cyan"), (kind.__doc__ or "").partition("\n")[0])
        used = [flag for flag, kinds in inputs.items() if kind in kinds]
        if settings := list(_settings(kind).values()):
            used.append("· settings: " + ", ".join(settings))
        if used:
            table.add_row("", Text(" ".join(used), "dim"))
    Console().print(Panel(table, title="Kinds", title_align="left", border_style="dim"))
