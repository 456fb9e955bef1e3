"""``uda``: its small verbs, and its entry point, which turns errors into one message and an exit code."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from uda import __version__
from uda.cli.check import check
from uda.cli.convert import convert, simulate, tags
from uda.cli.options import (
    Allow,
    Device,
    Out,
    Overrides,
    Quiet,
    RecipeName,
    Restart,
    Result,
    Root,
    Steps,
    TrustCode,
    compute_on,
    exit_on_fallback,
    recipe_of,
    run_stages,
    run_until,
    steps_of,
)
from uda.cli.printing import print_page, print_seeds, print_table
from uda.cli.prior import PriorCommand, prior
from uda.cli.suggest import suggest
from uda.config.methods import DEFAULT, OWN

if TYPE_CHECKING:
    from uda.prediction.outcome import Outcome

EXIT_CODES = """Exit codes:
  0  done
  1  the run failed on the way
  2  wrong arguments, files or data
  3  no adapted model was safe and better; the earlier one was kept
130  stopped by Ctrl-C (SIGINT)
143  stopped by SIGTERM"""

app = typer.Typer(
    name="uda",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"uda {__version__}")
        raise typer.Exit


@app.callback()
def uda(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Adapt a trained segmentation network to images nobody has labelled."""


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    seeds: Annotated[
        str, typer.Option(help="Several seeds, e.g. 0,1,2: one run each, then mean ± sd.")
    ] = "",
    rows: Annotated[
        str,
        typer.Option(
            help="Only these rows of the table, e.g. minent,adami; source_only and adabn are always there."
        ),
    ] = "",
    restart: Restart = False,
    allow_fallback: Allow = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a recipe: pretrain, priors, adapt, evaluate, report.

    Complete stages are skipped, so the same command continues an interrupted run.
    """
    from uda.pipeline.run import default_out

    base = recipe_of(recipe, [*(overrides or []), f"compute.device={device}"])
    folder, chosen = out or default_out(base), [row.strip() for row in rows.split(",") if rows]
    if not seeds:
        done = run_stages(base, folder, None, restart, quiet, chosen)
        print_table(folder)
        exit_on_fallback([one.folder for one in done], allow_fallback)
        return
    from uda.config.loading import override
    from uda.files.links import check_output

    check_output(folder)
    folders, stages = [], []
    for seed in _seeds(seeds):
        folders.append(folder / f"seed-{seed}")
        done = run_stages(
            override(base, [f"seed={seed}"]), folders[-1], None, restart, quiet, chosen
        )
        stages += [one.folder for one in done]
    print_seeds(folders, folder / "seeds.json")
    exit_on_fallback(stages, allow_fallback)


def _seeds(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and len(part) < 19 for part in parts):
        raise typer.BadParameter(f"--seeds is {text!r}; expected numbers such as 0,1,2")
    seeds = [int(part) for part in parts]
    if len(set(seeds)) < len(seeds):
        raise typer.BadParameter(f"--seeds is {text!r}, which names a seed twice")
    return seeds


@app.command()
def pretrain(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Out = None,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Train a recipe's network on the labelled source."""
    run_until(recipe, overrides, "pretrain", out, restart, device, quiet)


app.command(cls=PriorCommand)(prior)


@app.command(epilog=f"Methods: {', '.join(OWN)}.")
def adapt(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose variants to run.")] = None,
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(help="One variant of the recipe.")] = "",
    model: Annotated[
        Path | None, typer.Option(help="Your trained model, instead of a recipe.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Your unlabelled images: a folder, or a pattern in quotes.")
    ] = None,
    method: Annotated[str, typer.Option(help="Method, see below.")] = DEFAULT,
    prior: Annotated[
        Path | None,
        typer.Option(help="prior.json. Default: the class ratio of the model's training labels."),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Folder of what is marked on some images: points.csv, scribbles/, …"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Setting of the method, e.g. steps=200."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    out: Result = None,
    trust_code: TrustCode = False,
    restart: Restart = False,
    allow_fallback: Allow = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Adapt a recipe's variants, or your own model to your own images."""
    if model is None:
        if recipe is None:
            raise typer.BadParameter("give a recipe, or --model and --target")
        stage = f"adapt-{only}" if only else "adapt"
        run_until(recipe, overrides, stage, out, restart, device, quiet, allow_fallback)
        return
    if target is None:
        raise typer.BadParameter("--model needs --target, your images")
    from uda import api
    from uda.files.atomic import read_json
    from uda.files.stage_folder import STAGE_FILE, recorded_hash
    from uda.priors import Prior

    folder = out or Path("checkpoints") / f"{target.resolve().name.strip('*._')}-{method}"
    earlier = recorded_hash(folder)
    path = api.adapt(
        model,
        target,
        folder,
        method=method,
        overrides=setting or [],
        prior=None if prior is None else Prior.load(prior),
        annotations=annotations,
        seed=seed,
        compute=compute_on(device),
        restart=restart,
        quiet=quiet,
        trust_code=trust_code,
    )
    record = read_json(folder / STAGE_FILE)
    selection, settings = record.get("selection", {}), record["settings"]
    typer.echo(
        f"{'model before adaptation' if selection.get('fallback') else 'adapted model'}: {path}"
    )
    if isinstance(settings, dict):
        kept = selection.get("kept", "the last step")
        typer.echo(f"method: {settings['preset']}, {settings['steps']} steps; kept: {kept}")
    if earlier not in (None, recorded_hash(folder)):
        typer.echo("replaced the earlier result, which had other images or settings", err=True)
    if not record.get("batchnorm", True):
        told = "the network has no BatchNorm layer, so AdaBN changes nothing; the page names another baseline"
        typer.echo(told, err=True)
    print_page(path.parent)
    exit_on_fallback([path.parent], allow_fallback)


@app.command()
def evaluate(
    recipe: Annotated[str | None, typer.Argument(help="Recipe whose table to make.")] = None,
    overrides: Overrides = None,
    model: Annotated[Path | None, typer.Option(help="A model, instead of a recipe.")] = None,
    card: Annotated[str, typer.Option(help="Card of the labelled images.")] = "",
    root: Root = None,
    split: Annotated[str, typer.Option(help="Split of the card.")] = "test",
    postprocess: Steps = None,
    out: Result = None,
    trust_code: TrustCode = False,
    restart: Restart = False,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Score a recipe's models, or one model, on labelled images."""
    if model is None:
        if recipe is None:
            raise typer.BadParameter("give a recipe, or --model and --card")
        if postprocess:
            raise typer.BadParameter(
                "--postprocess needs --model; a recipe sets evaluate.postprocess"
            )
        print_table(run_until(recipe, overrides, "evaluate", out, restart, device, quiet))
        return
    if not card:
        raise typer.BadParameter("--model needs --card")
    from uda.api import evaluate_model

    folder = out or Path("checkpoints") / f"{model.resolve().stem}-on-{Path(card).stem}"
    evaluate_model(
        model,
        card,
        root,
        folder,
        split=split,
        steps=steps_of(postprocess),
        compute=compute_on(device),
        trust_code=trust_code,
    )
    print_table(folder)


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="model.safetensors, or the folder that holds it.")],
    images: Annotated[Path, typer.Option(help="Images: a folder, or a pattern in quotes.")],
    out: Annotated[Path, typer.Option(help="Folder for the label maps.")],
    entropy: Annotated[
        bool, typer.Option("--entropy", help="Also write entropy maps: where the model is unsure.")
    ] = False,
    postprocess: Steps = None,
    trust_code: TrustCode = False,
    device: Device = "auto",
) -> None:
    """Segment a folder of images with a model.

    Each label map lies on its image's own grid. report.html beside the maps lists doubtful cases first;
    they do not change the exit code.
    """
    from uda import api

    outcomes = []
    for outcome in api.predict(
        model,
        images,
        out,
        entropy=entropy,
        postprocess=steps_of(postprocess),
        compute=compute_on(device),
        trust_code=trust_code,
    ):
        outcomes.append(outcome)
        if outcome.fault:
            typer.echo(f"{outcome.case}: {outcome.fault}", err=True)
        else:
            already = " (already there)" if outcome.skipped else ""
            if outcome.edited:
                already = " (changed since uda wrote it, and kept)"
            typer.echo(f"{outcome.case}: {outcome.file}{already}")
    _print_doubtful(outcomes, out)


def _print_doubtful(outcomes: Sequence[Outcome], out: Path) -> None:
    """Print on stderr the cases not to trust, with the reason; stdout keeps to one line for each label map."""
    from uda.errors import visible
    from uda.prediction.outcome import ordered
    from uda.prediction.page import PAGE

    doubtful = [one for one in ordered(outcomes) if one.flags]
    for one in doubtful:
        more = f"; {len(one.flags) - 1} more" if len(one.flags) > 1 else ""
        said = visible(f"not to be trusted: {one.case}: {one.flags[0].what}{more}")
        typer.echo(said, err=True)
    failed = sum(bool(one.fault) for one in outcomes)
    predicted, kind = len(outcomes) - failed, "predicted case(s)" if failed else "case(s)"
    count = f"{len(doubtful)} of {predicted} {kind} not to be trusted as they are"
    count = count if predicted else "no case was predicted"
    typer.echo(f"{count}; report: {out / PAGE}", err=True)
    if failed:
        typer.echo(f"{failed} case(s) failed", err=True)
        raise typer.Exit(2)


app.command()(suggest)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folder, or one for each seed.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page. Default: <run>/report.")
    ] = None,
) -> None:
    """Print a run's table and write its page.

    Of several runs, one for each seed, print mean ± sd.
    """
    if len(runs) > 1:
        print_seeds(runs, None)
        return
    from uda.files.apart import check_apart
    from uda.files.output import output_folder
    from uda.files.stage_folder import check_files, recorded_files
    from uda.report.page import write_report

    own = runs[0] / "report"
    folder = out or own
    if folder.resolve() != own.resolve():
        check_apart(folder, [runs[0]])
    check_files(runs[0] / "evaluate")
    with output_folder(folder, also=recorded_files(folder)):
        write_report(runs[0], folder)
    print_table(runs[0], out)


app.command()(check)


@app.command(name="import")
def import_(
    network: Annotated[
        Path,
        typer.Argument(help="File of torch.export.save (.pt2), or of torch.jit.save if trusted."),
    ],
    card: Annotated[
        str, typer.Option(help="Card of its training images: classes and preparation.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors.")],
    weights: Annotated[
        Path | None, typer.Option(help="State dict (.safetensors, .pt) to load into the network.")
    ] = None,
    one_logit: Annotated[
        bool, typer.Option("--one-logit", help="Its output is one logit, of class 1 of two.")
    ] = False,
    output: Annotated[
        str, typer.Option(help="Key or position of the logits among several outputs.")
    ] = "",
    ratio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STRUCTURE=SHARE",
            help="Share of a structure in the training images, e.g. lv=0.04; for priors.",
        ),
    ] = None,
    patch: Annotated[
        str, typer.Option(help="Slices, rows and columns that a 3-D network sees, e.g. 32,96,96.")
    ] = "",
    trust_code: TrustCode = False,
) -> None:
    """Turn a trained PyTorch network into a model file.

    adapt, predict, evaluate and prior take it.
    """
    size, shares = _patch(patch), _shares(ratio)
    from uda.errors import visible
    from uda.networks.importing import import_model
    from uda.networks.model_file import TRUSTED, load_model

    path = import_model(
        network,
        out,
        card=card,
        weights=weights,
        one_logit=one_logit,
        output=int(output) if output.isdecimal() and len(output) < 10 else output or None,
        class_ratio=shares,
        spatial_dims=2 if size is None else 3,
        patch=size,
        trust_code=trust_code,
    )
    _, info = load_model(path, trust_code=trust_code)
    typer.echo(f"{path}: {len(info.classes)} classes ({', '.join(info.classes)})")
    typer.echo(visible(f"weights: {info.origin['weights']}"))
    if TRUSTED in info.origin:
        typer.echo(f"trusted code: SHA-256 {info.origin[TRUSTED]}")


def _patch(text: str) -> tuple[int, ...] | None:
    parts = text.split(",") if text else []
    if parts and (
        len(parts) != 3 or not all(part.strip().isdecimal() and len(part) < 19 for part in parts)
    ):
        raise typer.BadParameter(f"--patch is {text!r}; expected three numbers such as 32,96,96")
    return tuple(int(part) for part in parts) or None


def _shares(values: Sequence[str] | None) -> dict[str, float] | None:
    shares = {}
    for value in values or ():
        name, equals, number = value.partition("=")
        try:
            shares[name] = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise typer.BadParameter(
                f"--ratio is {value!r}; expected structure=share, e.g. lv=0.04"
            )
    return shares or None


app.command()(convert)
app.command()(tags)
app.command()(simulate)


@app.command()
def show(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Print a recipe with every default and change filled in.

    The output is itself a recipe.
    """
    from uda.config.loading import show as resolved

    typer.echo(resolved(recipe_of(recipe, overrides or [])), nl=False)


@app.command(name="list")
def list_() -> None:
    """List the recipes and cards that have a name."""
    from uda.config.loading import available, read_yaml
    from uda.errors import UdaError, one_line

    for kind in ("recipe", "card"):
        typer.echo(f"{kind}s")
        for name, path in available(kind).items():
            try:
                title = str(read_yaml(path).get("title", ""))
            except UdaError as error:
                title = error.what.partition("\n")[0]
            typer.echo(one_line(f"  {name:<24} {title.strip()}"))


def _check_call() -> None:
    """Refuse empty arguments, and a deleted current folder, where libraries end the process without a message of ours.

    An empty path would mean the current folder.
    """
    from uda.errors import ConfigError

    for before, argument in itertools.pairwise(sys.argv):
        if argument == "" or re.fullmatch("--[a-z-]+=", argument):
            name = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise ConfigError(
                f"{name} is empty",
                fix="give a value, or leave it out; a shell variable may be unset",
            )
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError(
            "the current folder does not exist any more", fix="`cd` to another folder"
        ) from None


def _work() -> None:
    """Run the command; where all went well, say if a disk did not take what it printed."""
    from uda.cli.streams import check_printed

    try:
        app()
    except SystemExit as ended:
        if not ended.code:
            check_printed()
        raise


def main() -> None:
    """Run ``uda``: an error becomes one message and an exit code. Of several processes only the first one prints."""
    from uda.cli.streams import steady_streams
    from uda.devices.distributed import launched, repeated
    from uda.errors import LONGEST, RunError, UdaError, one_line
    from uda.training.signals import Stopped, stopping_on_signals

    steady_streams()
    try:
        if not launched().first:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        _check_call()
        with stopping_on_signals():
            _work()
    except Stopped as stop:
        if launched().first:
            typer.echo(stop, err=True)
        sys.exit(stop.exit_code)
    except UdaError as error:
        if not repeated(error):
            typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command continues from the last checkpoint", err=True)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("UDA_DEBUG"):
            raise
        if isinstance(error, OSError):
            refused = RunError(
                f"the disk or the system refused: {error}",
                fix="make room or give permission, then run the same command to continue",
            )
            typer.echo(f"error: {refused}", err=True)
        else:
            typer.echo(
                f"unexpected {type(error).__name__}: {one_line(str(error))[:LONGEST]}", err=True
            )
            typer.echo("this is a bug in uda; UDA_DEBUG=1 shows where", err=True)
        sys.exit(1)
