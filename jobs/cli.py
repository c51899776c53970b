"""The command line. Each command imports what it needs: help, plan, status and verify start without torch or Ray."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from workers.errors import PixgradError

if TYPE_CHECKING:
    from pipeline.prepare import PreparedJob
    from pipeline.run import Outcome
    from workers.storage import Store

app = typer.Typer(
    name="pixgrad",
    help="DeepDream, neural style and integrated gradients over whole image collections.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="The networks' weights: what there is, and fetching them ahead of a run.")
app.add_typer(weights_app, name="weights", no_args_is_help=True)

JobArgument = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the job file; repeatable."),
]
CodeOption = Annotated[bool, typer.Option("--allow-code", help="Let the job import a model of your own.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder or prefix.")]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def main() -> None:
    """Run a command; expected errors are a sentence on stderr and an exit code of the design."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(_complain("Interrupted.", 130))
    except PixgradError as error:
        sys.exit(_complain(str(error), error.exit_code))
    except Exception as error:
        if os.environ.get("PIXGRAD_TRACEBACK"):
            raise
        sentence = (
            f"Internal error, {type(error).__name__}: {error}\nPIXGRAD_TRACEBACK=1 shows where; please report it."
        )
        sys.exit(_complain(sentence, 1))


@app.command()
def run(
    job: JobArgument,
    set_: SetOption = None,
    allow_code: CodeOption = False,
    extend: Annotated[bool, typer.Option("--extend", help="Take in what was added to the source.")] = False,
) -> None:
    """Run a job, or go on with it: the same command resumes. Ray is embedded, or the cluster at RAY_ADDRESS."""
    from jobs.spec import dump_job, prepare_job
    from pipeline.run import run as run_job

    prepared = prepare_job(job, set_ or [], allow_code=allow_code)
    _tell(prepared, lambda: run_job(prepared, job_yaml=dump_job(prepared.config), console=err, extend=extend))


@app.command()
def retry(run: RunArgument, set_: SetOption = None, allow_code: CodeOption = False) -> None:
    """Try the failed outputs of a complete run again, as a new round; the same command goes on with it."""
    from jobs.spec import dump_job, recall_job
    from pipeline.run import retry as retry_run
    from workers.storage import open_store

    prepared = recall_job(open_store(run), set_ or [], allow_code=allow_code)
    _tell(prepared, lambda: retry_run(prepared, job_yaml=dump_job(prepared.config), console=err))


@app.command()
def plan(job: JobArgument, set_: SetOption = None, allow_code: CodeOption = False) -> None:
    """Show what a job would do: inputs, frames, units, model, disk; a sample is decoded. Nothing is written."""
    from jobs.spec import prepare_job
    from pipeline.forecast import forecast

    prepared = prepare_job(job, set_ or [], allow_code=allow_code)
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in forecast(prepared):
        table.add_row(name, value)
    out.print(table, markup=False)


@app.command()
def export(
    run: RunArgument,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write to.")],
    class_tree: Annotated[
        bool, typer.Option("--class-tree", help="One folder a label instead of the source's.")
    ] = False,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a contact sheet, too: images down, variants across.")
    ] = None,
) -> None:
    """Write a run's outputs as plain files, in the source's own tree."""
    from pipeline.export import export as export_files
    from pipeline.sheet import ContactSheet
    from pipeline.status import open_run
    from workers.storage import open_store

    store = open_store(run)
    open_run(store)
    collected = ContactSheet() if sheet else None
    outputs = export_files(store, destination, class_tree=class_tree, sheet=collected)
    out.print(f"{outputs} outputs in {destination}", markup=False)
    if sheet and collected:
        collected.save(sheet)
        rest = f", less {collected.left_out} that didn't fit" if collected.left_out else ""
        out.print(f"Contact sheet: {sheet}{rest}", markup=False)


@app.command()
def status(run: RunArgument, as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say how far a run is, from its files alone."""
    from pipeline.status import read_status
    from workers.storage import open_store

    found = read_status(open_store(run))
    if as_json:
        facts = {"state": found.state, "units": found.units, "committed": found.committed, "images": found.images}
        print(json.dumps({**facts, "outputs": found.outputs, "listed": found.listed, "failures": found.failures}))
    else:
        out.print("\n".join(found.lines()), markup=False)


@app.command()
def verify(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    recompute: Annotated[int, typer.Option(metavar="N", min=0, help="Make N sampled outputs again, too.")] = 0,
    seed: Annotated[int, typer.Option(help="Which sample --recompute draws.")] = 0,
    scratch: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Where --recompute writes; all nodes must reach it."),
    ] = None,
    allow_code: CodeOption = False,
) -> None:
    """Check a run's promises again from its files alone; exits with 6 if one is broken."""
    from pipeline.verify import verify as verify_run
    from workers.storage import open_store

    store = open_store(run)
    report = verify_run(store)
    told = report.lines()
    if recompute and report.root:
        again, faults = _recompute(store, recompute, seed, scratch, allow_code=allow_code)
        report.faults += faults
        told += again
    if as_json:
        print(json.dumps(asdict(report)))
    else:
        for fault in report.faults:
            err.print(fault, markup=False)
        out.print("\n".join(told), markup=False)
    raise typer.Exit(6 if report.faults else 0)


def _recompute(
    store: Store, count: int, seed: int, scratch: str | None, *, allow_code: bool
) -> tuple[list[str], list[str]]:
    """What to tell of the outputs made again, and which of it are faults."""
    from jobs.spec import recall_job
    from pipeline.recompute import recompute

    found = recompute(recall_job(store, allow_code=allow_code), count, seed=seed, scratch=scratch, console=err)
    told = f"{found.outputs} sampled outputs (seed {seed}) made again, {len(found.differing)} came out otherwise."
    if not found.elsewhere:
        return [told], found.differing
    return [told, *found.differing, f"No fault, as the last bits may differ here: {found.elsewhere}."], []


@app.command()
def clean(
    run: RunArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove shards that no row names, and what writes that were cut short have left behind."""
    from pipeline.clean import clean as clean_run
    from workers.storage import open_store

    cleaned = clean_run(open_store(run), dry_run=dry_run)
    for entry in [*cleaned.orphans, *cleaned.leftovers]:
        out.print(entry.name, markup=False)
    out.print(
        f"{len(cleaned.orphans)} orphans and {len(cleaned.leftovers)} leftovers, {cleaned.bytes} bytes, "
        f"{'would be ' if dry_run else ''}removed.",
        markup=False,
    )


@app.command()
def layers(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, as in the job file.")],
    weights: Annotated[str, typer.Option(help="Its weights, as in the job file.")] = "DEFAULT",
    allow_code: CodeOption = False,
) -> None:
    """List a network's layers, with the defaults of each task."""
    from workers.description import prepare_model
    from workers.params import ModelParams

    description = prepare_model(ModelParams(name=model, weights=weights), allow_code=allow_code).description
    table = Table("layer", "kind", "channels", "stride", "least side", "default for", box=None, pad_edge=False)
    for layer in description.layers:
        default_for = ", ".join(t for t, names in description.default_layers.items() if layer.name in names)
        facts = (layer.channels, layer.stride, layer.min_side)
        table.add_row(layer.name, layer.kind, *("" if f is None else str(f) for f in facts), default_for)
    out.print(table)


@weights_app.command("list")
def weights_list(
    search: Annotated[str, typer.Argument(metavar="[NAME]", help="Only models whose name contains this.")] = "",
) -> None:
    """List the weights that a job file can name, and which of them are on this machine."""
    from workers.description import catalogue

    table = Table("model", "weights", "here", "licence", "from", box=None, pad_edge=False)
    for entry in catalogue():
        if search.lower() in entry.model.lower():
            table.add_row(entry.model, entry.weights, "yes" if entry.path else "", entry.licence or "", entry.source)
    out.print(table)


@weights_app.command("fetch")
def weights_fetch(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, as in the job file.")],
    weights: Annotated[str, typer.Option(help="Its weights, as in the job file.")] = "DEFAULT",
) -> None:
    """Fetch a model's weights ahead of a run, and say where they are and what they hash to."""
    from workers.description import prepare_model
    from workers.params import ModelParams

    file = prepare_model(ModelParams(name=model, weights=weights)).weights
    out.print(f"{file.path}\nsha256 {file.sha256}", markup=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job file, for editors."""
    from jobs.spec import json_schema

    print(json.dumps(json_schema(), indent=2))


def _tell(job: PreparedJob, work: Callable[[], Outcome]) -> None:
    """Do the work of a run and tell how it ended; the process ends with its exit code."""
    try:
        outcome = work()
    except PixgradError as error:
        if error.exit_code in (4, 130):
            err.print(f"To go on: {shlex.join(['pixgrad', *sys.argv[1:]])}", markup=False)
        raise
    counts, place = outcome.counts, job.store.url
    out.print(f"{counts.ok} of {counts.outputs} outputs made, {counts.failed} failed.", markup=False)
    for code, count in counts.failures.items():
        out.print(f"  {count} {code}", markup=False)
    out.print(f"Run:     {place}\nRows:    {place}/manifest.parquet", markup=False)
    out.print(f"Files:   {shlex.join(['pixgrad', 'export', place, 'DEST'])}", markup=False)
    if counts.failed:
        out.print(f"Again:   {shlex.join(['pixgrad', 'retry', place])}", markup=False)
    if outcome.exit_code == 3:
        err.print(
            f"More outputs failed than max_failed ({job.config.max_failed:g}) allows; the rows say why.", markup=False
        )
    raise typer.Exit(outcome.exit_code)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        out.print(version("pixgrad"), markup=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def _complain(sentence: str, exit_code: int) -> int:
    err.print(sentence, markup=False)
    return exit_code
