"""Jobs without a job file: a preset, a source, a place for the pictures, and the few options people reach for."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs import presets
from jobs.document import Document, KeyPath, OptionName, override, put, read_document
from jobs.mistakes import nearest
from jobs.places import Place, place_of
from jobs.spec import check_document, dump_job, json_schema, prepare_document
from jobs.template import commented_job
from pipeline.export import PICTURE_ENDINGS, export, export_picture
from pipeline.prepare import PreparedJob
from pipeline.provenance import OtherJobError
from workers.errors import PixgradError
from workers.records import Task

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.run import Outcome

_OPTIONS = {
    "size": "images.short_side",
    "seed": "seed",
    "model": "model.name",
    "layers": "deepdream.stages.0.layers",
    "octaves": "deepdream.stages.0.octaves",
    "guide": "deepdream.stages.0.guide",
    "styles": "style.styles",
    "strength": "style.strength",
    "assign": "style.assign",
    "target": "attribution.target",
}
"""The key of the job file that an option sets; `_settings` has those that set it in another form."""


class UsageError(PixgradError):
    """What was asked for can't be."""


@dataclass(frozen=True)
class Shortcut:
    """A job put together from a preset, options and a place."""

    document: Document
    place: Place

    @property
    def name(self) -> str:
        """The job's, from its place's."""
        return self.place.out.absolute().stem

    def text(self) -> str:
        """The job file that it amounts to. Raises JobFileError."""
        check_document(self.document, self.name)
        head = "Made by `pixgrad … --save-job`. `pixgrad run` runs it; then, for the pictures:\n"
        folder = self.place.out.parent if self.place.is_file else self.place.out
        head += shlex.join(["pixgrad", "export", str(self.place.run), str(folder)])
        return commented_job(self.document.values, json_schema(), head)

    def prepare(self, *, allow_code: bool = False, overwrite: bool = False) -> PreparedJob:
        """The job made ready to run in its place, which is looked at, as is the source. Raises PixgradError.

        With `overwrite`, files may be in the way, and the run of another job is removed.
        """
        job = prepare_document(self.document, self.name, allow_code=allow_code)
        self.place.check(job.variants.names, overwrite=overwrite)
        job.check_source()
        try:
            job.own_run()
        except OtherJobError as error:
            if not overwrite:
                raise OtherJobError(f"{error} --overwrite begins anew in its place.") from None
            self.place.discard_run()
        return job

    def run(self, job: PreparedJob, console: Console) -> Outcome:
        """Run the job that `prepare` gave, or go on with it, and write its pictures. Raises PixgradError."""
        from pipeline.run import run

        outcome = run(job, job_yaml=dump_job(job.config), console=console)
        if self.place.is_file:
            export_picture(job.store, self.place.out)
        else:
            export(job.store, self.place.out, class_tree=False)
        return outcome


def shortcut(
    task: Task,
    source: str | Path,
    out: str | Path,
    options: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    preset: str = "default",
    called: Callable[[str], str] = str,
) -> Shortcut:
    """The job of `task` over `source` with its pictures in `out`; options that are None stay as the preset has them.

    `called` says what an option is called where it is asked for, for what may be wrong with it.
    Raises JobFileError, PlaceError, UsageError.
    """
    place = place_of(str(source), out, (*PICTURE_ENDINGS, ".npy") if task == "attribution" else PICTURE_ENDINGS)
    document = _read_preset(task, preset)
    document = put(document, ("source",), {"uri": str(source)}, OptionName(""))
    document = put(document, ("output",), str(place.run), OptionName("OUT: "))
    for option, value in options.items():
        if value is not None:
            for path, setting in _settings(task, option, value).items():
                document = put(document, path, setting, OptionName(f"{called(option)}: "))
    for assignment in overrides:
        if assignment.partition("=")[0].strip() in ("source", "source.uri", "output"):
            raise UsageError(f"--set {assignment}: SRC and OUT say that here; for another run write a job file.")
        document = override(document, assignment)
    return Shortcut(document, place)


def starter_job(task: Task) -> str:
    """A job file to begin with: the default preset of a task over an imagined source."""
    values = _read_preset(task, "default").values
    values |= {"source": {"uri": "photos"}, "output": f"runs/{task}"}
    if task == "style":
        values["style"] = {"styles": ["paintings/*.jpg"], **values["style"]}
    head = "A pixgrad job: put your own images for `source`. Keys behind # stand at their defaults.\n"
    head += "`pixgrad plan` tells what the job would do, `pixgrad run` runs it."
    return commented_job(values, json_schema(), head)


def _read_preset(task: Task, name: str) -> Document:
    known = presets.names(task)
    if name not in known:
        close = nearest(name, known)
        hint = f', did you mean "{close}"?' if close else "."
        raise UsageError(f"There is no preset {name!r} for {task}{hint} There are {', '.join(known)}.")
    return read_document(presets.text(task, name), f"preset {name}")


def _settings(task: Task, option: str, value: Any) -> dict[KeyPath, Any]:
    """The keys that an option sets, and to what."""
    match option:
        case "size" if task == "attribution":
            return {("images", "short_side"): None, ("images", "frame"): [value, value]}
        case "iterations" if task == "deepdream":
            return {("deepdream", "stages", "0", "iterations"): value}
        case "iterations":
            return {("style", "iterations"): value}
        case "top":
            return {("attribution", "target"): {"top": value}}
        case _:
            return {tuple(_OPTIONS[option].split(".")): value}
