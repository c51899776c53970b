"""How a run ended, told: what was made, where it is, and the exact command to go on, try again or export."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from jobs.options import RESUMABLE, is_submitted, typed
from pipeline.progress.event_log import event_line
from pipeline.progress.run_log import find_log
from pipeline.progress.style import Style
from pipeline.progress.words import duration
from pipeline.status import read_standing
from pipeline.summary import read_summary, summary_lines
from workers.errors import PixgradError
from workers.layout import MANIFEST

if TYPE_CHECKING:
    from pipeline.prepare import PreparedJob
    from pipeline.run import Outcome

OTHERS_RUN = 5
"""The exit code where the run's log is about the work of others."""


@dataclass(frozen=True)
class Teller:
    """Tells of a job's end: results on `out`, what went wrong on `err`; as JSON, too, where progress was shown so."""

    job: PreparedJob
    out: Console
    err: Console
    style: Style

    def complete(self, outcome: Outcome) -> None:
        """Every output has its row."""
        counts, place = outcome.counts, self.job.store.url
        self._say(f"{counts.ok} of {counts.outputs} outputs made, {counts.failed} failed.")
        for code, count in counts.failures.items():
            self._say(f"  {count} {code}")
        if summary := read_summary(self.job.store):
            for line in summary_lines(summary):
                self._say(line)
        commands = {"export": _command("export", place, "DEST")}
        if counts.failed:
            commands["retry"] = _command("retry", place)
        places = {"run": place, "rows": f"{place}/{MANIFEST}", "log": self._log()}
        self._say(f"Took:    {duration(outcome.seconds)}\nRun:     {place}\nRows:    {places['rows']}")
        if places["log"]:
            self._say(f"Log:     {places['log']}")
        self._say(f"Files:   {commands['export']}")
        if counts.failed:
            self._say(f"Again:   {commands['retry']}")
        if outcome.exit_code == 3:
            allowed = self.job.config.max_failed
            self._complain(f"More outputs failed than max_failed ({allowed:g}) allows; the rows say why.")
        made = {"outputs": counts.outputs, "ok": counts.ok, "failures": counts.failures}
        self._end(outcome.exit_code, **made, seconds=round(outcome.seconds, 3), **places, commands=commands)

    def stopped(self, error: PixgradError) -> None:
        """The run stopped before its end."""
        self._complain(str(error))
        commands = {}
        if error.exit_code in RESUMABLE:
            if done := self._committed():
                self._complain(done)
            commands["resume"] = typed()
            if not is_submitted():
                self._complain(f"To go on: {commands['resume']}")
        if error.exit_code != OTHERS_RUN:
            self._point_to_log()
        self._end(error.exit_code, error=str(error), run=self.job.store.url, log=self._log(), commands=commands)

    def broken(self) -> None:
        """An internal error ended the run; the log has its traceback."""
        self._point_to_log()

    def _point_to_log(self) -> None:
        if log := self._log():
            self._complain(f"Details: {log}")

    def _log(self) -> str | None:
        with suppress(PixgradError):  # the store may be what stopped the run
            if name := find_log(self.job.store):
                return f"{self.job.store.url}/{name}"
        return None

    def _committed(self) -> str | None:
        with suppress(PixgradError):
            standing = read_standing(self.job.store)
            plus = "" if standing.listed else "+"
            return f"{standing.committed} of {standing.units}{plus} units are committed and stay."
        return None

    def _say(self, words: str) -> None:
        self.out.print(words, markup=False)

    def _complain(self, words: str) -> None:
        if self.style is not Style.JSON:
            self.err.print(words, markup=False)

    def _end(self, exit_code: int, **facts: Any) -> None:
        if self.style is Style.JSON:
            self.err.file.write(event_line("end", {"exit_code": exit_code, **facts}))


def _command(*words: str) -> str:
    return shlex.join(["pixgrad", *words])
