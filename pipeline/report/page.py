"""The page: facts in, HTML out. Every name is escaped by the template; nothing outside the page is asked for."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pipeline.progress.words import duration
from pipeline.report import words
from pipeline.report.sources import by_image


def render(template: str, facts: Mapping[str, Any]) -> str:
    """The page of the given facts, with a policy that allows its own script and style sheet and pictures beside it."""
    style, script = _text("report.css"), _text("report.js")
    policy = {
        "default-src": "'none'",
        "img-src": "'self' file:",
        "style-src": _hash(style),
        "script-src": _hash(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    content = "; ".join(f"{name} {value}" for name, value in policy.items())
    return _environment().get_template(template).render(**facts, style=style, script=script, policy=content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(words, name)
        for name in ("count", "counted", "figure", "share", "moment", "readable", "image_name", "image_place")
    }
    environment.filters |= {"duration": duration, "by_image": by_image}
    return environment


def _text(name: str) -> str:
    return (files("pipeline.report") / "templates" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
