"""The commands that need no job file, and the one that writes a first one."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from jobs.options import BEGIN, CodeOption, SetOption, err, flag, out, resumable, typed
from jobs.presets import names
from workers.errors import PixgradError
from workers.records import Task

if TYPE_CHECKING:
    from jobs.shortcuts import Shortcut
    from workers.storage import Store

MOST_TOLD = 3
"""Failures that are told at the end, and classes."""

app = typer.Typer()

Source = Annotated[
    list[str], typer.Argument(metavar="SRC", help="An image, a folder, *.tar, a table, or a URI of these.")
]
Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="A folder; for one image a file, too.")]
_PRESET = "What to start from: {}."
DreamPreset = Annotated[str, typer.Option(metavar="NAME", help=_PRESET.format(", ".join(names("deepdream"))))]
StylePreset = Annotated[str, typer.Option(metavar="NAME", help=_PRESET.format(", ".join(names("style"))))]
AttributionPreset = Annotated[str, typer.Option(metavar="NAME", help=_PRESET.format(", ".join(names("attribution"))))]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", help="The pictures' shorter side.")]
Seed = Annotated[int | None, typer.Option(help="What is random follows from it.")]
Model = Annotated[str | None, typer.Option(metavar="NAME", help="The network; `pixgrad weights list` shows some.")]
Iterations = Annotated[
    int | None, typer.Option(metavar="N", help="Steps at each octave or scale: more is stronger, and slower.")
]
Overwrite = Annotated[bool, flag("--overwrite", "Replace pictures, and another job's run.")]
SaveJob = Annotated[
    Path | None, typer.Option(metavar="JOB.yaml", help="Write the job file that this amounts to, and run nothing.")
]


@app.command(rich_help_panel=BEGIN)
def deepdream(
    source: Source,
    out: Out,
    preset: DreamPreset = "default",
    layer: Annotated[list[str] | None, typer.Option(metavar="NAME", help="What to amplify; repeatable.")] = None,
    guide: Annotated[str | None, typer.Option(metavar="IMG", help="A picture whose features to amplify.")] = None,
    octaves: Annotated[int | None, typer.Option(metavar="N", help="Sizes to dream at: more for larger forms.")] = None,
    iterations: Iterations = None,
    size: Size = None,
    seed: Seed = None,
    model: Model = None,
    set_: SetOption = None,
    save_job: SaveJob = None,
    overwrite: Overwrite = False,
    allow_code: CodeOption = False,
) -> None:
    """Dream pictures: amplify what a layer of the network sees in them."""
    options = {"layers": layer, "guide": guide, "octaves": octaves, "iterations": iterations}
    options |= {"size": size, "seed": seed, "model": model}
    _do("deepdream", source, out, preset, options, set_, save_job, overwrite=overwrite, allow_code=allow_code)


@app.command(rich_help_panel=BEGIN)
def style(
    source: Source,
    style: Annotated[list[str], typer.Option(metavar="IMG", help="A picture, folder or glob; repeatable.")],
    out: Out,
    preset: StylePreset = "default",
    strength: Annotated[float | None, typer.Option(help="0: hardly touched, 1: nothing but style.")] = None,
    assign: Annotated[
        str | None, typer.Option(metavar="HOW", help="all | random | cycle | a column of the table.")
    ] = None,
    iterations: Iterations = None,
    size: Size = None,
    seed: Seed = None,
    model: Model = None,
    set_: SetOption = None,
    save_job: SaveJob = None,
    overwrite: Overwrite = False,
    allow_code: CodeOption = False,
) -> None:
    """Paint pictures in the style of others: each in every style, unless --assign says otherwise."""
    options = {"styles": style, "strength": strength, "assign": assign, "iterations": iterations}
    options |= {"size": size, "seed": seed, "model": model}
    _do("style", source, out, preset, options, set_, save_job, overwrite=overwrite, allow_code=allow_code)


@app.command(rich_help_panel=BEGIN)
def attribution(
    source: Source,
    out: Out,
    preset: AttributionPreset = "default",
    target: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="predicted | label | a name or index; repeatable.")
    ] = None,
    top: Annotated[int | None, typer.Option(metavar="K", help="The K most probable classes.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="The side of the square that the network is given.")
    ] = None,
    seed: Seed = None,
    model: Model = None,
    set_: SetOption = None,
    save_job: SaveJob = None,
    overwrite: Overwrite = False,
    allow_code: CodeOption = False,
) -> None:
    """Explain pictures: which pixels speak for a class and which against, with the error of the map."""
    if target and top:
        raise PixgradError("Give --target or --top, not both.")
    targets = target[0] if target and len(target) == 1 else target
    options = {"target": targets, "top": top, "size": size, "seed": seed, "model": model}
    _do("attribution", source, out, preset, options, set_, save_job, overwrite=overwrite, allow_code=allow_code)


@app.command(rich_help_panel=BEGIN)
def init(
    task: Annotated[Task, typer.Argument(metavar="[TASK]", help="deepdream, style or attribution.")] = "deepdream",
    job: Annotated[Path, typer.Argument(metavar="[JOB.yaml]", help="The file to write.")] = Path("job.yaml"),
) -> None:
    """Write a commented job file to begin with."""
    from jobs.shortcuts import starter_job

    _write_new(job, starter_job(task))
    out.print(
        f"{job} is a job; put your own images in it, then: {shlex.join(['pixgrad', 'plan', str(job)])}", markup=False
    )


def _do(
    task: Task,
    sources: Sequence[str],
    place: str,
    preset: str,
    options: dict[str, Any],
    overrides: Sequence[str] | None,
    save_job: Path | None,
    *,
    overwrite: bool,
    allow_code: bool,
) -> None:
    from jobs.shortcuts import shortcut

    if len(sources) > 1:
        raise PixgradError(
            f"Give one SRC, not {' and '.join(sources[:3])}: a folder, or a pattern in quotes ('*.jpg')."
        )
    asked = shortcut(task, sources[0], place, options, overrides or [], preset=preset, called=_flag)
    if save_job:
        _write_new(save_job, asked.text())
        out.print(f"{save_job} is the job file of this; nothing was run. Run it with:", markup=False)
        out.print(shlex.join(["pixgrad", "run", str(save_job)]), markup=False)
        return
    _run(asked, overwrite=overwrite, allow_code=allow_code)


def _flag(option: str) -> str:
    """Of an option, which is repeated where its name in Python is a plural."""
    return f"--{option.removesuffix('s')}" if option in ("layers", "styles") else f"--{option}"


def _run(asked: Shortcut, *, overwrite: bool, allow_code: bool) -> None:
    """Run a shortcut's job and tell what was made; the process ends with its exit code."""
    job = asked.prepare(allow_code=allow_code, overwrite=overwrite)
    err.print(f"The run is kept in {asked.place.run}; if it is interrupted, the same command goes on.", markup=False)
    with resumable():
        outcome = asked.run(job, err)
    counts, run = outcome.counts, asked.place.run
    pictures = "No picture was made" if not counts.ok else "1 picture" if counts.ok == 1 else f"{counts.ok} pictures"
    out.print(f"{pictures} in {asked.place.out}" if counts.ok else f"{pictures}.", markup=False)
    for sentence in _noteworthy(job.store):
        out.print(f"  {sentence}", markup=False)
    out.print(f"Rows:    {run}/manifest.parquet", markup=False)
    if counts.failed:
        out.print(f"Again:   {shlex.join(['pixgrad', 'retry', str(run)])} && {typed()}", markup=False)
    raise typer.Exit(outcome.exit_code)


def _noteworthy(store: Store) -> Iterator[str]:
    """The first few failures, and the classes that were explained where there are only a few."""
    from pipeline.commit import latest_rows

    rows = [row for table in latest_rows(store) for row in table.slice(0, 1000).to_pylist()]
    failed = [f"{unquote(row['uri'])}: {row['error']}" for row in rows if row["status"] == "failed"]
    yield from failed[:MOST_TOLD]
    if len(failed) > MOST_TOLD:
        yield "and more failures; the rows tell of each"
    if len(rows) <= MOST_TOLD:
        named = [row for row in rows if row.get("target_name")]
        yield from (f"{unquote(row['uri'])}: {row['target_name']} ({row['probability']:.0%})" for row in named)


def _write_new(path: Path, text: str) -> None:
    """Write a file that isn't there yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise PixgradError(f"{path} exists, and is left as it is: choose another name.") from None
    except OSError as error:
        raise PixgradError(f"{path} can't be written: {error.strerror}.") from None
