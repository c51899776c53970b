"""The command line. Each command imports what it needs: most of them start without torch or Ray."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from jobs.commands import app as shortcuts_app
from jobs.options import (
    BEGIN,
    CHECK,
    LOOK,
    RESUMABLE,
    RUN,
    CodeOption,
    ExtendOption,
    JobArgument,
    ProgressOption,
    RunArgument,
    SetOption,
    err,
    flag,
    out,
    resumable,
    typed,
)
from pipeline.progress.style import Style
from workers.errors import PixgradError

if TYPE_CHECKING:
    from jobs.submit import Cluster
    from pipeline.findings import AuditRecord, Finding
    from pipeline.prepare import PreparedJob
    from pipeline.run import Outcome
    from workers.storage import Store

ORDER = (
    *("deepdream", "style", "attribution", "init", "layers", "weights", "schema"),
    *("plan", "run", "retry", "submit", "status", "report", "export", "verify", "audit", "clean"),
)
"""Of the commands in the help: what one begins with comes first."""


class _InOrder(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """In `ORDER`."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="pixgrad",
    cls=_InOrder,
    help="DeepDream, neural style and integrated gradients over whole image collections.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(help="The networks' weights: what there is, and fetching them ahead of a run.")
app.add_typer(shortcuts_app)
app.add_typer(weights_app, name="weights", no_args_is_help=True, rich_help_panel=BEGIN)


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


@app.command(rich_help_panel=RUN)
def run(
    job: JobArgument,
    set_: SetOption = None,
    allow_code: CodeOption = False,
    progress: ProgressOption = Style.AUTO,
    extend: ExtendOption = False,
) -> None:
    """Run a job, or go on with it: the same command resumes. Ray is embedded, or the cluster at RAY_ADDRESS."""
    from jobs.spec import dump_job, prepare_job
    from pipeline.run import run as run_job

    prepared = prepare_job(job, set_ or [], allow_code=allow_code)
    job_yaml = dump_job(prepared.config)
    _tell(prepared, lambda: run_job(prepared, job_yaml=job_yaml, console=err, style=progress, extend=extend), progress)


@app.command(rich_help_panel=RUN)
def retry(
    run: RunArgument,
    set_: SetOption = None,
    allow_code: CodeOption = False,
    progress: ProgressOption = Style.AUTO,
) -> None:
    """Try the failed outputs of a complete run again, as a new round; the same command goes on with it."""
    from jobs.spec import dump_job, recall_job
    from pipeline.run import retry as retry_run
    from workers.storage import open_store

    prepared = recall_job(open_store(run), set_ or [], allow_code=allow_code)
    job_yaml = dump_job(prepared.config)
    _tell(prepared, lambda: retry_run(prepared, job_yaml=job_yaml, console=err, style=progress), progress)


@app.command(rich_help_panel=RUN)
def submit(
    job: JobArgument,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="The Ray dashboard's URL.")
    ],
    set_: SetOption = None,
    allow_code: CodeOption = False,
    extend: ExtendOption = False,
    wait: Annotated[bool, flag("--wait/--no-wait", "Follow the log until the job ends.")] = True,
    stop: Annotated[bool, flag("--stop", "Stop the job: it commits what it can first.")] = False,
    shared_paths: Annotated[
        bool, flag("--shared-paths", "Every node has the job's local paths, as this machine does.")
    ] = False,
    installed: Annotated[bool, flag("--installed", "Run the pixgrad that the cluster has, not this one.")] = False,
) -> None:
    """Run a job on a cluster, through Ray Jobs, or go on with it: the same command follows or resumes."""
    from jobs.spec import load_job
    from jobs.submit import Cluster, SubmitError

    config = load_job(job, set_ or [])
    cluster = Cluster(address)
    if stop:
        submission = cluster.running(config)
        if submission is None:
            raise SubmitError(f"No job of the run at {config.output} is under way at {address}.")
        cluster.stop(submission)
        err.print(f"Stopping {submission}.", markup=False)
    else:
        options = [*["--allow-code"] * allow_code, *["--extend"] * extend]
        submission, fresh = cluster.submit(config, options, shared_paths=shared_paths, installed=installed)
        err.print(f"{submission} {'is submitted' if fresh else 'is under way already'}.", markup=False)
    if wait:
        _follow(cluster, submission, stopping=stop)


def _follow(cluster: Cluster, submission: str, *, stopping: bool) -> None:
    """Show a job's log; the process ends with the job's exit code, or with 0 once a job is stopped as asked."""
    from pipeline.signals import interrupted_at_once

    try:
        with interrupted_at_once():
            ending = cluster.follow(submission, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        err.print(f"\nThe job goes on. To follow it: {typed()}\nTo stop it:  {typed()} --stop", markup=False)
        raise typer.Exit(130) from None
    if ending.sentence:
        err.print(ending.sentence, markup=False)
    if ending.exit_code in RESUMABLE and not stopping:
        err.print(f"To go on: {typed()}", markup=False)
    raise typer.Exit(0 if stopping and ending.exit_code == 130 else ending.exit_code)


@app.command(rich_help_panel=RUN)
def plan(
    job: JobArgument,
    set_: SetOption = None,
    allow_code: CodeOption = False,
    as_json: Annotated[bool, flag("--json", "As JSON.")] = False,
    measure: Annotated[
        int, typer.Option(metavar="N", min=0, help="Make N sampled outputs, too, and say how long all will take.")
    ] = 0,
    price: Annotated[
        float | None, typer.Option(metavar="PER_HOUR", min=0, help="What a worker's hour costs, for --measure.")
    ] = None,
    scratch: Annotated[
        str | None, typer.Option(metavar="URI", help="Where --measure writes; a worker must reach it.")
    ] = None,
    progress: ProgressOption = Style.AUTO,
) -> None:
    """Show what a job would do: inputs, frames, units, model, disk; a sample is decoded. The run isn't written to."""
    from jobs.spec import prepare_job
    from pipeline.forecast import forecast

    if not measure and (price is not None or scratch is not None):
        raise typer.BadParameter("--price and --scratch go with --measure N.")
    found = forecast(prepare_job(job, set_ or [], allow_code=allow_code), max(measure, 1))
    facts, rows = found.as_dict(), list(found.rows())
    if measure:
        from pipeline.measure import measure as measure_job

        measured = measure_job(found, measure, price=price, scratch=scratch, console=err, style=progress)
        facts["measured"] = measured.as_dict()
        rows += measured.rows()
    if as_json:
        print(json.dumps(facts))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    (Console(highlight=False) if out.is_terminal else out).print(table)


@app.command(rich_help_panel=LOOK)
def export(
    run: RunArgument,
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="The folder to write to.")],
    class_tree: Annotated[bool, flag("--class-tree", "One folder a label instead of the source's.")] = False,
    original_geometry: Annotated[
        bool, flag("--original-geometry", "Maps also at the size of their source images.")
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
    outputs = export_files(
        store, destination, class_tree=class_tree, original_geometry=original_geometry, sheet=collected
    )
    out.print(f"{outputs} outputs in {destination}", markup=False)
    if sheet and collected:
        collected.save(sheet)
        rest = f", less {collected.left_out} that didn't fit" if collected.left_out else ""
        out.print(f"Contact sheet: {sheet}{rest}", markup=False)


@app.command(rich_help_panel=LOOK)
def status(
    run: RunArgument,
    as_json: Annotated[bool, flag("--json", "As JSON.")] = False,
    watch: Annotated[bool, flag("--watch", "Follow it to the end of its session.")] = False,
) -> None:
    """Say how far a run is, from its files alone; with --watch, follow it, and exit as it does."""
    from pipeline.progress.display import display
    from pipeline.progress.watch import begun
    from pipeline.progress.watch import watch as watch_run
    from pipeline.status import read_status
    from workers.storage import open_store

    store = open_store(run)
    if watch:
        with display(out, begun(store).title, Style.JSON if as_json else Style.AUTO) as shown:
            watch_run(store, shown)
    found = read_status(store)
    if as_json:
        facts = {"state": found.state, "units": found.units, "committed": found.committed, "images": found.images}
        print(json.dumps({**facts, "outputs": found.outputs, "listed": found.listed, "failures": found.failures}))
    else:
        out.print("\n".join(found.lines()), markup=False)
    if watch:
        raise typer.Exit(found.exit_code)


@app.command(rich_help_panel=CHECK)
def verify(
    run: RunArgument,
    as_json: Annotated[bool, flag("--json", "As JSON.")] = False,
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


@app.command(rich_help_panel=CHECK)
def audit(
    run: RunArgument,
    sample: Annotated[int | None, typer.Option(metavar="N", min=1, help="Make the audit anew, on N images.")] = None,
    as_json: Annotated[bool, flag("--json", "As JSON.")] = False,
    allow_code: CodeOption = False,
) -> None:
    """Show the axioms of attribution checked on a run's own network and images; exits with 6 if one doesn't hold.

    They are checked first where that wasn't done yet.
    """
    from pipeline.findings import read_audit
    from workers.layout import AUDIT
    from workers.storage import open_store

    store = open_store(run)
    found = read_audit(store) if sample is None else None
    if found is None:
        with resumable():
            found = _audit(store, sample, allow_code=allow_code)
    if as_json:
        print(json.dumps(json.loads(store.read(AUDIT))))
    else:
        (Console(highlight=False) if out.is_terminal else out).print(_table(found))
        for sentence in filter(None, (found.summary, found.hint)):
            out.print(sentence, markup=False)
    raise typer.Exit(0 if found.sound else 6)


def _audit(store: Store, sample: int | None, *, allow_code: bool) -> AuditRecord:
    from jobs.spec import recall_job
    from pipeline.prepare import JobError
    from pipeline.run import audit as make_audit
    from workers.params import AttributionParams, AuditParams

    job = recall_job(store, allow_code=allow_code)
    if not isinstance(job.config.section, AttributionParams):
        raise JobError(f"{store.url} is a run of {job.config.task}; only attribution has axioms to audit.")
    asked = job.config.audit or AuditParams()
    return make_audit(job, asked if sample is None else asked.model_copy(update={"sample": sample}), err)


def _table(audit: AuditRecord) -> Table:
    """The findings, below the names of their axioms so that they fit on a narrow terminal."""
    table = Table("", "figure", "at most", "verdict", box=None, pad_edge=False)
    by_axiom: dict[str, list[Finding]] = {}
    for finding in audit.findings:
        by_axiom.setdefault(finding.axiom, []).append(finding)
    for axiom, findings in by_axiom.items():
        table.add_row(Text(axiom, style="bold"))
        for finding in findings:
            figure = "" if finding.figure is None else f"{finding.figure:.2g}"
            what = f"{'control: ' * finding.control}{finding.what}{f' ({finding.note})' if finding.note else ''}"
            style = "" if finding.as_expected else "bold red"
            row = Padding(Text(what), (0, 0, 0, 2)), figure, f"{finding.tolerance:.2g}", Text(finding.words)
            table.add_row(*row, style=style)
    return table


@app.command(rich_help_panel=CHECK)
def clean(
    run: RunArgument,
    dry_run: Annotated[bool, flag("--dry-run", "Only say what would be removed.")] = False,
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


@app.command(rich_help_panel=LOOK)
def report(
    run: RunArgument,
    output: Annotated[
        str, typer.Option("-o", "--out", "--output", metavar="FOLDER", help="Left out: RUN/report.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Which outputs are sampled.")] = 0,
) -> None:
    """Write a static page about a run: pictures, measures, failures, throughput, provenance."""
    from pipeline.report.report import PAGE, write_report
    from workers.storage import open_store

    to = open_store(output or f"{run.rstrip('/')}/report")
    write_report(open_store(run), to, seed=seed)
    out.print(f"{to.url.rstrip('/')}/{PAGE}", markup=False)


@app.command(rich_help_panel=BEGIN)
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
    search: Annotated[str, typer.Argument(metavar="[NAME]", help="All models whose name contains this.")] = "",
    everything: Annotated[bool, flag("--all", "Also those that a hub has and this machine hasn't.")] = False,
) -> None:
    """List the weights that are on this machine or install with pip; with NAME or --all, all that a job can name."""
    from workers.description import catalogue

    table = Table("model", "weights", "here", "licence", "from", box=None, pad_edge=False)
    known = [entry for entry in catalogue() if search.lower() in entry.model.lower()]
    shown = known if search or everything else [e for e in known if e.path or e.source.startswith("pip")]
    for entry in shown:
        table.add_row(entry.model, entry.weights, "yes" if entry.path else "", entry.licence or "", entry.source)
    out.print(table)
    if len(shown) < len(known):
        out.print(
            f"{len(known) - len(shown)} more can be fetched: --all, or a part of a NAME, lists them.", markup=False
        )


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


@app.command(rich_help_panel=BEGIN)
def schema() -> None:
    """Print the JSON Schema of a job file, for editors."""
    from jobs.spec import json_schema

    print(json.dumps(json_schema(), indent=2))


def _tell(job: PreparedJob, work: Callable[[], Outcome], progress: Style = Style.AUTO) -> None:
    """Do the work of a run and tell how it ended; the process ends with its exit code."""
    from jobs.ending import Teller

    teller = Teller(job, out, err, progress)
    try:
        outcome = work()
    except PixgradError as error:
        teller.stopped(error)
        raise typer.Exit(error.exit_code) from None
    except Exception:
        teller.broken()
        raise
    teller.complete(outcome)
    raise typer.Exit(outcome.exit_code)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        out.print(version("pixgrad"), markup=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, metavar="", help="Print it.")
    ] = False,
) -> None:
    pass


def _complain(sentence: str, exit_code: int) -> int:
    err.print(sentence, markup=False)
    return exit_code
