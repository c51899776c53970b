"""The presets on photographs, to be looked at: every preset is run, and a contact sheet of each is left.

    python benchmarks/gallery.py [--styles FOLDER] [--photographs FOLDER] [--size 256] [--only style-default ...]

Without folders the photographs are scikit-image's, and so are the styles: a histology, a galaxy field, a wall of
bricks. Paintings make better ones; the photographs get them in turn. An hour or more on two CPU cores.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from PIL import Image

PIXGRAD = Path(sys.executable).with_name("pixgrad")
PRESETS = Path(str(files("jobs"))) / "presets"

PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "gravel.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "moon.png",
    "text.png",
)
STYLES = ("ihc.png", "hubble_deep_field.jpg", "brick.png")

OF_ONE = ("deepdream-channels", "deepdream-large", "style-fine")
"""Presets that make many pictures of a photograph, or a large one: they get the largest alone."""


def main() -> int:
    """Run the presets one after the other; the exit code of the first that fails, else 0."""
    arguments = _arguments()
    out: Path = arguments.out
    packaged = Path(str(files("skimage"))) / "data"
    photographs = arguments.photographs or _copied((packaged / name for name in PHOTOGRAPHS), out / "photographs")
    styles = arguments.styles or _copied((packaged / name for name in STYLES), out / "styles")
    for preset in sorted(PRESETS.glob("*.yaml")):
        if preset.stem.startswith("attribution") or (arguments.only and preset.stem not in arguments.only):
            continue
        began = time.monotonic()
        code = _make(preset, photographs, styles, out, arguments.size)
        if code:
            return code
        print(f"{preset.stem}: {time.monotonic() - began:.0f} s, {out / preset.stem}.jpg", flush=True)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--styles", type=Path, help="a folder of paintings")
    parser.add_argument("--photographs", type=Path, help="a folder of photographs")
    parser.add_argument("--size", type=int, help="the pictures' shorter side, in place of the presets'")
    parser.add_argument("--only", nargs="*", help="names of presets")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    return parser.parse_args()


def _copied(pictures: Iterable[Path], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        shutil.copy(picture, folder)
    return folder


def _pixels(picture: Path) -> int:
    with Image.open(picture) as image:
        return image.width * image.height


def _make(preset: Path, photographs: Path, styles: Path, out: Path, size: int | None) -> int:
    """Run a preset and draw its sheet; the exit code of what failed, else 0."""
    run = out / "runs" / preset.stem
    source = max(photographs.iterdir(), key=_pixels) if preset.stem in OF_ONE else photographs
    values: dict[str, object] = {"source": source, "output": run}
    if size is not None:
        values["images.short_side"] = size
    if "\nstyle:" in preset.read_text():
        values |= {"style.styles": f"[{styles}]", "style.assign": "cycle"}
    settings = [argument for key, value in values.items() for argument in ("--set", f"{key}={value}")]
    sheet = out / f"{preset.stem}.jpg"
    for command in (
        ["run", preset, *settings],
        ["export", run, out / "pictures" / preset.stem, "--sheet", sheet],
    ):
        code = subprocess.run([str(PIXGRAD), *map(str, command)], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
