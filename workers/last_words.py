"""What a process printed before it died: Ray sends its workers' output to files. No torch, no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

TAIL_BYTES = 4000
"""Of each file."""

_RAYS_OWN = (":job_id:", ":actor_name:", ":task_name:")


def output_files() -> tuple[str, ...]:
    """The files that this process's stdout and stderr go to; none where they aren't files, or can't be asked."""
    found = []
    for descriptor in (1, 2):
        try:
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
        except OSError:
            continue
        if path.is_file():
            found.append(str(path))
    return tuple(found)


def last_words(files: Sequence[str]) -> str:
    """The ends of these files; "" if they are empty or gone."""
    return "\n".join(filter(None, map(_tail, files)))


def _tail(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            file.seek(max(0, Path(name).stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
            return "\n".join(line for line in lines if not line.startswith(_RAYS_OWN)).strip()
    except OSError:
        return ""
