"""The table that the measurements print."""

from __future__ import annotations

import os
from typing import NamedTuple


class Row(NamedTuple):
    """A line: what was measured, the result, the goal if there is one, and whether it is reached."""

    what: str
    measured: str
    goal: str = ""
    holds: bool | None = None


def print_row(row: Row) -> None:
    """Print a line, with the machine's load average of the last minute beside it."""
    verdict = {True: "holds", False: "falls short", None: ""}[row.holds]
    print(f"{row.what:58}  {row.measured:58}  {row.goal:14}  {verdict:11}  {os.getloadavg()[0]:4.1f}", flush=True)


def print_head() -> None:
    """Print the names of the columns."""
    print(f"{'what':58}  {'measured':58}  {'goal':14}  {'verdict':11}  load", flush=True)
