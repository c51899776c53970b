"""What shortcuts start from: `<task>-<name>.yaml` is a job file without source and output."""

from __future__ import annotations

from importlib.resources import files


def names(task: str) -> list[str]:
    """The names of a task's presets, the default first."""
    found = [entry.name for entry in files(__name__).iterdir()]
    own = [name.removeprefix(f"{task}-").removesuffix(".yaml") for name in found if name.startswith(f"{task}-")]
    return ["default", *sorted({*own} - {"default"})]


def text(task: str, name: str) -> str:
    """The YAML of a preset."""
    return (files(__name__) / f"{task}-{name}.yaml").read_text("utf-8")
