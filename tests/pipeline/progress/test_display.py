"""What a terminal, a log and a program are shown."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from pipeline.progress import words
from pipeline.progress.display import Lines, Screen, display
from pipeline.progress.screen import screen
from pipeline.progress.style import Style
from pipeline.progress.tally import Load, Tally


@pytest.fixture
def tally() -> Tally:
    """Half of a run of 1,200 outputs on two GPUs, with all there is to tell."""
    tally = Tally(gpus=1.0, total=1_200, listing=False)
    for worker in ("worker-1", "worker-2", "worker-3"):
        tally.see("worker_starting", {"worker": worker}, now=0.0)
        tally.see("worker_ready", {"worker": worker}, now=5.0)
    tally.see("worker_died", {"worker": "worker-2", "error": "killed"}, now=6.0)
    for second in range(101):
        tally.ack(6, now=20.0 + second)
    tally.see(
        "committed",
        {"unit": 0, "outputs": 64, "failures": {"truncated": 3}, "seconds": {"decode": 1, "compute": 9}},
        now=120.0,
    )
    tally.load = Load(cpus=3.9, memory=4_800_000_000, gpu=0.92, gpu_memory=61_000_000_000)
    return tally


def drawn(tally: Tally, width: int, note: str | None = None) -> list[str]:
    """The lines as `rich.live` draws them."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None, soft_wrap=True)
    lines = console.render_lines(screen("pets: deepdream with vgg19", tally, 120.0, note), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def test_a_line_says_all_there_is_to_say(tally: Tally) -> None:
    assert words.sentence(tally, 120.0) == (
        "606/1,200 outputs (50%) · 6.0/s (3.0/s a GPU) · 2 min to go · 2 workers, 1 replaced · "
        "decode 10%, compute 90% · GPU 92% busy, 61.0 GB on it, 3.9 cores busy, 4.8 GB · failed: 3 truncated"
    )


def test_at_the_beginning_it_says_what_it_waits_for() -> None:
    assert words.sentence(Tally(), 0.0) == "0/0+ outputs · no worker yet, Ray is starting"


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal_and_none_wraps(tally: Tally, width: int) -> None:
    lines = drawn(tally, width, note="12:00 worker-2 died and is replaced: " + "a long story " * 20)
    labels = ["pets:", None, "speed", "time", "workers", "stages", "use", "failed", "last"]
    assert [line.split()[0] if label else None for line, label in zip(lines, labels, strict=True)] == labels
    assert max(map(len, lines)) <= width - len("^C") - 1, "or what Ctrl-C echoes would wrap"
    assert "606/1,200" in lines[1] and lines[-1].endswith("…")


def test_names_are_no_markup(tally: Tally) -> None:
    tally.failures["[bold]odd[/]"] = 1
    assert any("[bold]odd[/]" in line for line in drawn(tally, 140))


def test_json_lines_hold_progress_and_events(tally: Tally) -> None:
    console = Console(file=io.StringIO(), width=20)
    with display(console, "pets", Style.JSON) as shown:
        shown.tell("worker_died", {"worker": "worker-2", "error": "killed", "details": "a long\ntraceback"})
        shown.show(tally, 120.0)
        shown.show(tally, 120.1)  # too early for another line
        shown.show(tally, 120.2, final=True)
    assert isinstance(console.file, io.StringIO)
    died, *progress = [json.loads(line) for line in console.file.getvalue().splitlines()]
    assert died.pop("time") and died == {"event": "worker_died", "worker": "worker-2", "error": "killed"}
    assert [line["event"] for line in progress] == ["progress", "progress"] and progress[0]["done"] == 606


def test_what_is_no_terminal_or_a_dumb_one_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def kind(file: io.StringIO) -> type:
        with display(Console(file=file), "pets") as shown:
            return type(shown)

    monkeypatch.setenv("TERM", "xterm-256color")
    assert kind(Terminal()) is Screen and kind(io.StringIO()) is Lines
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert kind(io.StringIO()) is Lines, "colours are wanted in a log; nothing can be redrawn there"
    monkeypatch.setenv("TERM", "dumb")
    assert kind(Terminal()) is Lines


def test_lines_tell_of_trouble_at_once_and_of_progress_now_and_then(tally: Tally) -> None:
    file = io.StringIO()
    lines = Lines(Console(file=file))
    lines.show(Tally(), 0.0)
    assert file.getvalue() == "", "there is nothing to tell yet"
    for _ in range(3):
        lines.show(tally, 120.0)
    lines.tell("worker_ready", {"worker": "worker-2"})
    lines.tell("worker_hung", {"worker": "worker-2", "waiting_for": None})
    progress, hung = file.getvalue().splitlines()
    assert progress.startswith("606/1,200 outputs (50%)") and hung == "worker-2 hung and is replaced"


@pytest.mark.parametrize(
    ("rate", "told"), [(12.34, "12.3/s"), (1.0, "1.0/s"), (0.5, "30.0/min"), (0.01, "36.0/h"), (0.0001, "0.4/h")]
)
def test_rates_in_words(rate: float, told: str) -> None:
    assert words.per(rate) == told
