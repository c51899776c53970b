"""Numbers, times and names as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_to_bytes

LONGEST_TEXT = 300

EXACT = 2**53
"""Whole numbers beyond this are rounded by a browser."""

_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")

CODES = {
    "missing": "There is no such file.",
    "unreadable": "The file is there, but reading it is refused or breaks off.",
    "empty": "The file has no bytes.",
    "not_an_image": "The file has the signature of no image format.",
    "unsupported": "An image of a format or kind that isn't read.",
    "truncated": "Some of the image data is missing.",
    "corrupt": "The image data is damaged.",
    "too_large": "More bytes or pixels than the job allows.",
    "too_small": "The picture doesn't fill the frame that the job asks for.",
    "not_finite": "The result held values that are not finite numbers.",
    "no_label": "The label was to be explained, and the image has none.",
    "unknown_class": "The label names no class of the network.",
    "same_class": "Both sides of the contrast are one class for this image.",
    "unknown_style": "The style column names none of the job's styles.",
    "worker_died": "The process ended whenever this output was at work, twice with nothing beside it.",
    "timeout": "Work on this output showed no progress for longer than the job allows.",
    "out_of_memory": "Memory ran out over this output with nothing beside it.",
    "unexpected": "Something that was not foreseen went wrong with this output alone.",
}
"""What error codes mean."""

EXITS = {
    0: "complete",
    1: "internal error",
    2: "bad job or usage",
    3: "complete, too many failed",
    4: "stopped, resumable",
    5: "belongs to another",
    6: "damaged files",
    130: "interrupted",
}
"""What the exit code of a session means."""


def count(value: int) -> str:
    """12,345"""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """1 image, 12,345 images"""
    return f"{value:,} {noun}{'' if value == 1 else 's'}"


def figure(value: float | None, digits: int = 3) -> str:
    """A measured number with so many significant digits: 0.0123, 1,230, 4.56e-7; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:.{digits}g}"


def share(part: float, whole: float) -> str:
    """A percentage that is 0 or 100 only if all or none are meant: 12 %, 0.3 %, < 0.1 %, > 99.9 %."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if 99.9 < percent < 100:
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) or 10 <= percent <= 90 else f"{percent:.1f} %"


def rate(outputs_a_second: float | None) -> tuple[str, str]:
    """A rate as a number and its unit, per second, minute or hour."""
    if outputs_a_second is None:
        return "–", "a second"
    for unit, seconds in (("a second", 1), ("a minute", 60)):
        if outputs_a_second * seconds >= 1:
            return figure(outputs_a_second * seconds, 2), unit
    return figure(outputs_a_second * 3600, 2), "an hour"


def moment(iso: str | None) -> str:
    """A time of run.json, for people: 2026-11-25 00:26:36 UTC."""
    try:
        return f"{datetime.fromisoformat(iso or ''):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return "–"


def seconds_between(began: str | None, ended: str | None) -> float | None:
    """Seconds from one time of run.json to another, None if one is missing."""
    try:
        return (datetime.fromisoformat(ended or "") - datetime.fromisoformat(began or "")).total_seconds()
    except ValueError:
        return None


def readable(name: str) -> str:
    """A percent-encoded name as text: undecodable bytes replaced; characters that show nothing or turn the text around

    are written out, so that no name looks like another.
    """
    text = unquote_to_bytes(name).decode("utf-8", "replace")
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def image_name(row: Mapping[str, Any]) -> str:
    """The file, or the member of a container, that a row's image is; without folders."""
    name = readable(row["member"] if row["member"] and not row["member"].startswith("#") else row["uri"])
    return name.rstrip("/").rpartition("/")[2] or name or "(no name)"


def image_place(row: Mapping[str, Any]) -> str:
    """The whole of it."""
    return " : ".join(readable(part) for part in (row["uri"], row["member"]) if part)


def cell(value: Any) -> str | float | int | bool | None:
    """A value of a row as JSON can hold it; what is long is cut."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) <= EXACT else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}…"
