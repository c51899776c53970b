"""Where a shortcut's pictures go, where its run is kept, and what must not be in the way."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.epoch import is_alive, latest_claim
from pipeline.listing import IMAGE_SUFFIXES, suffix
from pipeline.patterns import is_pattern
from workers.errors import PixgradError
from workers.layout import HIDDEN_RUN
from workers.storage import is_remote, local_path, open_store


class PlaceError(PixgradError):
    """The pictures can't go where they are asked to."""


@dataclass(frozen=True)
class Place:
    """Where the pictures of `source` go: into the file or the folder `out`; the run is kept in the folder `run`."""

    source: str
    out: Path
    run: Path
    is_file: bool
    of_one_image: bool

    def check(self, variants: Sequence[str], *, overwrite: bool) -> None:
        """Raise PlaceError if the outputs of an image, one a variant, can't go here.

        What they are made from is never replaced; other files that no run here has made are if `overwrite` says so.
        """
        if self.is_file and len(variants) > 1:
            raise PlaceError(f"{self.out} would be {len(variants)} pictures: name a folder for OUT.")
        if not is_remote(self.source):
            self._check_source(Path(local_path(self.source)).expanduser().resolve(), variants)
        if not overwrite and not self.run.exists():
            self._check_free(variants)

    def _check_source(self, source: Path, variants: Sequence[str]) -> None:
        if self.of_one_image and source in (path.resolve() for path in self._pictures(variants)):
            raise PlaceError(f"{self.source} would be replaced by its own picture: choose another OUT.")
        if not self.of_one_image and self.out.resolve() in (source, *source.parents):
            raise PlaceError(f"{self.out} is the source itself or a folder around it: choose another OUT.")

    def _check_free(self, variants: Sequence[str]) -> None:
        taken = next((path for path in self._pictures(variants) if self.of_one_image and path.exists()), None)
        if taken:
            raise PlaceError(f"{taken} exists: choose another OUT, or add --overwrite.")
        if not self.of_one_image and self.out.is_dir() and any(e.name[:1] != "." for e in self.out.iterdir()):
            raise PlaceError(f"{self.out} holds files, which pictures might replace: choose another, or --overwrite.")

    def discard_run(self) -> None:
        """Remove the run that is kept here. Raises PlaceError if somebody works on it."""
        claim = latest_claim(open_store(str(self.run)))
        if claim and is_alive(claim):
            raise PlaceError(f"{self.run} is at work (process {claim.pid} on {claim.host}): stop that first.")
        shutil.rmtree(self.run)

    def _pictures(self, variants: Sequence[str]) -> list[Path]:
        """What will be made of one image."""
        name = f"{PurePosixPath(self.source).stem}.png"
        folders = [self.out / variant for variant in variants] if len(variants) > 1 else [self.out]
        return [self.out] if self.is_file else [folder / name for folder in folders]


def place_of(source: str, out: str | Path, endings: Sequence[str]) -> Place:
    """The place for what is made of `source`. Raises PlaceError if `out` can't be one.

    One image goes to a file, if `out` has one of `endings`, else it keeps its name in the folder `out`; a collection
    goes to a folder. The run is kept beside, hidden: in `out/.pixgrad`, for one image in `.<name>.pixgrad`.
    """
    if is_remote(str(out)):
        raise PlaceError(f"{out}: OUT is on this machine; a run in a bucket takes a job file (`pixgrad init`).")
    path, one = Path(out).expanduser(), _is_one_image(source)
    if path.is_dir() or suffix(path.name) not in {*IMAGE_SUFFIXES, ".npy"}:
        if path.exists() and not path.is_dir():
            raise PlaceError(f"{out} is a file: name a folder for OUT, or a picture ({', '.join(endings)}).")
        run = path / (f".{PurePosixPath(source).stem}{HIDDEN_RUN}" if one else HIDDEN_RUN)
        return Place(source, path, run, is_file=False, of_one_image=one)
    if not one:
        raise PlaceError(f"{out} would be one picture, and {source} is not one image: name a folder for OUT.")
    if suffix(path.name) not in endings:
        raise PlaceError(f"{out}: what can be written is {', '.join(endings)}; choose one of these endings.")
    return Place(source, path, path.with_name(f".{path.name}{HIDDEN_RUN}"), is_file=True, of_one_image=True)


def _is_one_image(source: str) -> bool:
    if suffix(source) not in IMAGE_SUFFIXES or is_pattern(source):
        return False
    return is_remote(source) or not Path(local_path(source)).expanduser().is_dir()
