"""pixgrad: DeepDream, neural style and integrated gradients over image collections, as Ray batch jobs.

Jobs, as the commands of the same names do them, but giving the run opened:

- `deepdream`, `style`, `attribution`: from a preset, with plain pictures at the end;
- `run`: a job file, or the same as a dict;
- `open_run`: a run that was made before, as a table (`Run.table`), pictures (`Run.images`) and maps (`Run.maps`).

The algorithms on tensors, for notebooks, with no Ray and no files:

- `load_network`, `read_image`, `to_images`, `draw_map`;
- `dream`, `stylise`, `integrated_gradients`.

Expected failures raise `PixgradError`, with one sentence that says what to do. torch and Ray are imported when
something needs them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.reader import Run
    from workers.errors import PixgradError
    from workers.notebook import draw_map, dream, integrated_gradients, load_network, read_image, stylise, to_images
    from workers.records import Task

__version__ = version("pixgrad")

__all__ = [
    "PixgradError",
    "Run",
    "attribution",
    "deepdream",
    "draw_map",
    "dream",
    "integrated_gradients",
    "load_network",
    "open_run",
    "read_image",
    "run",
    "style",
    "stylise",
    "to_images",
]

_LAZY = dict.fromkeys(
    ("draw_map", "dream", "integrated_gradients", "load_network", "read_image", "stylise", "to_images"),
    "workers.notebook",
) | {"Run": "pipeline.reader", "PixgradError": "workers.errors"}
"""Where names come from that are imported when they are first asked for."""


def deepdream(
    source: str | Path,
    out: str | Path,
    *,
    preset: str = "default",
    layers: Sequence[str] | None = None,
    guide: str | Path | None = None,
    octaves: int | None = None,
    iterations: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    allow_code: bool = False,
    progress: bool = True,
) -> Run:
    """Dream the pictures of `source`, as `pixgrad deepdream` does, and write them to `out`.

    `source`: an image, a folder, tars, a table, or a URI of these. `out`: a folder; for one image a file, too. What is
    None stays as the preset has it; `settings` are overrides of the job file, "key.path=value" each. `size` is the
    pictures' shorter side in pixels. The run is kept beside the pictures, hidden, and the same call goes on with it;
    with `overwrite` another job's run and pictures are replaced. `progress`: tell on stderr how far it is.

    Raises PixgradError. Images that fail are rows of the run and raise nothing.
    """
    options = {"layers": None if layers is None else list(layers), "guide": _text(guide), "octaves": octaves}
    options |= {"iterations": iterations, "size": size, "seed": seed, "model": model}
    return _shortcut("deepdream", source, out, options, settings, preset, overwrite, allow_code, progress)


def style(
    source: str | Path,
    out: str | Path,
    styles: str | Path | Sequence[str | Path],
    *,
    preset: str = "default",
    strength: float | None = None,
    assign: str | None = None,
    iterations: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    allow_code: bool = False,
    progress: bool = True,
) -> Run:
    """Paint the pictures of `source` in the style of others, as `pixgrad style` does, and write them to `out`.

    `styles`: images, folders or globs. `strength`: from 0, hardly touched, to 1, nothing but style. `assign`: all
    (each picture in every style) | random | cycle | a column of the source's table. The rest is as for `deepdream`.
    """
    named = [styles] if isinstance(styles, str | Path) else styles
    options = {"styles": [str(each) for each in named], "strength": strength, "assign": assign}
    options |= {"iterations": iterations, "size": size, "seed": seed, "model": model}
    return _shortcut("style", source, out, options, settings, preset, overwrite, allow_code, progress)


def attribution(
    source: str | Path,
    out: str | Path,
    *,
    preset: str = "default",
    target: str | int | Sequence[str | int] | None = None,
    top: int | None = None,
    size: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    settings: Sequence[str] = (),
    overwrite: bool = False,
    allow_code: bool = False,
    progress: bool = True,
) -> Run:
    """Explain the pictures of `source`, as `pixgrad attribution` does, and write maps and heatmaps to `out`.

    `target`: predicted | label | a class by name or index, or a list of classes; or else `top`, as many of the most
    probable ones. `size` is the side in pixels of the square that the network is given. The rest is as for `deepdream`.
    """
    wanted = target if target is None or isinstance(target, str | int) else list(target)
    options = {"target": wanted, "top": top, "size": size, "seed": seed, "model": model}
    return _shortcut("attribution", source, out, options, settings, preset, overwrite, allow_code, progress)


def run(
    job: str | Path | Mapping[str, Any],
    settings: Sequence[str] = (),
    *,
    extend: bool = False,
    allow_code: bool = False,
    progress: bool = True,
) -> Run:
    """Run a job, or go on with it, as `pixgrad run` does: a job file, or what one holds as a dict.

    `settings` are overrides, "key.path=value" each; `extend` takes in what was added to the source. Raises
    PixgradError. Images that fail are rows of the run and raise nothing.
    """
    from jobs.spec import dump_job, prepare_job, prepare_values
    from pipeline.reader import Run
    from pipeline.run import run as run_job

    if isinstance(job, Mapping):
        prepared = prepare_values(job, settings, allow_code=allow_code)
    else:
        prepared = prepare_job(job, settings, allow_code=allow_code)
    run_job(prepared, job_yaml=dump_job(prepared.config), console=_console(progress), extend=extend)
    return Run(prepared.store.url)


def open_run(path: str | Path) -> Run:
    """The run at a folder or an object store's prefix, or that of the pictures in a folder. Raises PixgradError."""
    from pipeline.reader import Run

    return Run(path)


def _shortcut(
    task: Task,
    source: str | Path,
    out: str | Path,
    options: Mapping[str, Any],
    settings: Sequence[str],
    preset: str,
    overwrite: bool,
    allow_code: bool,
    progress: bool,
) -> Run:
    from jobs.shortcuts import shortcut
    from pipeline.reader import Run

    asked = shortcut(task, source, out, options, settings, preset=preset)
    job = asked.prepare(allow_code=allow_code, overwrite=overwrite)
    asked.run(job, _console(progress))
    return Run(job.store.url)


def _console(progress: bool) -> Console:
    from rich.console import Console

    return Console(stderr=True, soft_wrap=True, highlight=False, quiet=not progress)


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
