"""The command line as a person types it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from jobs import cli
from workers import description


class Said(NamedTuple):
    """A command's exit code and words."""

    code: int
    out: str
    err: str


@pytest.fixture
def pixgrad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def call(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["pixgrad", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0 if code is None else 1, said.out, said.err)

    return call


@pytest.fixture(scope="module")
def described_once() -> Iterator[None]:
    """What a model is, asked of its own process once a module: each such process imports torch anew."""
    answers: dict[str, Any] = {}
    ask = description._ask

    def ask_once(request: dict[str, Any]) -> dict[str, Any]:
        question = json.dumps(request)
        if question not in answers:
            answers[question] = ask(request)
        return answers[question]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(description, "_ask", ask_once)
        yield
