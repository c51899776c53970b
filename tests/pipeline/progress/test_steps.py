"""The steps of an audit, shown in each style."""

from __future__ import annotations

import io
import json
import logging

import pytest
from rich.console import Console

from pipeline.progress.steps import BEGINNING, shown_steps
from pipeline.progress.style import Style
from workers.audit import Step


def shown(style: Style) -> str:
    console = Console(file=io.StringIO(), width=80)
    with shown_steps(console, style) as tell:
        tell(Step("image", 2, 8))
        tell(Step("loss of weights", 1, 6))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_line_for_each_step_where_nothing_can_be_redrawn() -> None:
    assert shown(Style.AUTO) == shown(Style.PLAIN)
    assert shown(Style.PLAIN).splitlines() == [BEGINNING, "Axioms: image 2 of 8", "Axioms: loss of weights 1 of 6"]


def test_steps_as_json_or_not_at_all() -> None:
    first = json.loads(shown(Style.JSON).splitlines()[0])
    assert {name: first[name] for name in ("event", "what", "number", "of")} == {
        "event": "axioms",
        "what": "image",
        "number": 2,
        "of": 8,
    }
    assert shown(Style.NONE) == ""


def test_the_log_has_them_in_every_style(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pixgrad"):
        shown(Style.NONE)
    assert caplog.messages[0] == "Axioms: image 2 of 8"
