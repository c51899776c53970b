"""The presets on photographs, to be looked at: every preset is run as it is, and a contact sheet of each is left.

    python benchmarks/gallery.py [--styles FOLDER] [--photographs FOLDER] [--size 256] [--only style-default ...]

Without folders the photographs are scikit-image's, and so are the styles: a histology, a galaxy field, a wall of
bricks. Paintings make better ones. On two CPU cores at 256 pixels a preset takes five to thirty minutes.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

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


def main() -> int:
    arguments = _arguments()
    out: Path = arguments.out
    photographs = arguments.photographs or _taken(out / "photographs", PHOTOGRAPHS)
    styles = arguments.styles or _taken(out / "styles", STYLES)
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
    parser.add_argument("--size", type=int, default=256, help="the pictures' shorter side")
    parser.add_argument("--only", nargs="*", help="names of presets")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    return parser.parse_args()


def _taken(folder: Path, names: tuple[str, ...]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(Path(str(files("skimage"))) / "data" / name, folder)
    return folder


def _make(preset: Path, photographs: Path, styles: Path, out: Path, size: int) -> int:
    """Run a preset and draw its sheet; the exit code of what failed, else 0."""
    run = out / "runs" / preset.stem
    a_sheet_needs_one = "channel_sheet" in preset.read_text()
    source = sorted(photographs.iterdir())[0] if a_sheet_needs_one else photographs
    values = {"source": source, "output": run, "images.short_side": size}
    if "\nstyle:" in preset.read_text():
        values["style.styles"] = f"[{styles}]"
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
