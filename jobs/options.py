"""What commands share: their options, their two consoles, and what they say when a run can go on."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pipeline.progress.style import Style
from workers.errors import PixgradError


def flag(name: str, help: str) -> Any:
    """An option without a value, shown as such."""
    return typer.Option(name, metavar="", help=help)


JobArgument = Annotated[Path, typer.Argument(metavar="JOB.yaml", help="The job file.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key of the job file; repeatable."),
]
CodeOption = Annotated[bool, flag("--allow-code", "Let the job import a model of your own.")]
ExtendOption = Annotated[bool, flag("--extend", "Take in what was added to the source.")]
ProgressOption = Annotated[
    Style,
    typer.Option(
        "--progress",
        help="Shown on stderr: live on a terminal, plain or JSON lines, or none; auto is live or plain.",
    ),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder or prefix.")]

BEGIN, RUN, LOOK, CHECK = "Begin", "Run", "Look", "Check"
"""Parts of the help."""

RESUMABLE = (4, 130)
"""Exit codes of runs that the same command goes on with."""

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def resumable() -> Iterator[None]:
    """A run that stops inside says with which command it goes on: the one that was typed."""
    try:
        yield
    except PixgradError as error:
        if error.exit_code in RESUMABLE and not is_submitted():
            err.print(f"To go on: {typed()}", markup=False)
        raise


def is_submitted() -> bool:
    """Whether this is the process of a submitted job: `submit`, which knows the command, says how that goes on."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def typed() -> str:
    """The command as it was typed."""
    return shlex.join(["pixgrad", *sys.argv[1:]])
