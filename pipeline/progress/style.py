"""How progress is shown, as the command line says it. Imports nothing: help needs it."""

from __future__ import annotations

from enum import StrEnum


class Style(StrEnum):
    """`auto`: `live` on a terminal that can, else `plain`."""

    AUTO = "auto"
    LIVE = "live"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"
