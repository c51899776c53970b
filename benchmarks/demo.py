"""The three jobs on real photographs with real weights: what `make demo` runs. Everything lands in runs/."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, ImageOps

RUNS = Path("runs")
PHOTOGRAPHS = RUNS / "photographs"
PICTURES = RUNS / "pictures"
SHEET = RUNS / "contact_sheet.png"

NAMES = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
STYLES = ("ihc.png", "hubble_deep_field.jpg")
CONTENTS = ("astronaut", "chelsea", "coffee")

JOBS = {
    "dream": """\
source: runs/photographs
output: runs/dream
model: {name: vgg19}
images: {short_side: 192, snap: 32}
units: {size: 2}
deepdream:
  stages:
    - {layers: [relu4_4], octaves: 4, iterations: 10, step: 2.5, schedule: cosine, smoothing: 2.5, tv_weight: 0.03}
""",
    "style": f"""\
source: runs/photographs/{{{",".join(CONTENTS)}}}.*
output: runs/style
model: {{name: vgg19}}
images: {{short_side: 144, snap: 16}}
units: {{size: 2}}
style:
  styles: [runs/styles]
  statistics: covariance
  strength: 0.35
  scales: 3
  tv_weight: 5
  iterations: [50, 50, 40]
""",
    "attribution": """\
source: runs/photographs
output: runs/attribution
model: {name: efficientnet_lite0}
images: {short_side: 256, frame: [224, 224]}
units: {size: 4}
attribution:
  target: predicted
  baseline: blur
  max_evaluations: 129
""",
}

TILE = 224
GAP = 12
INK, PAPER = (30, 30, 30), (255, 255, 255)


def main() -> int:
    """Take the photographs, run the jobs, export the pictures, lay out the contact sheet."""
    began = time.monotonic()
    _take_photographs()
    for name, text in JOBS.items():
        job = RUNS / f"{name}.yaml"
        job.write_text(text)
        for command in (["run", str(job)], ["export", str(RUNS / name), str(PICTURES / name)]):
            print(f"\n$ pixgrad {' '.join(command)}", flush=True)
            code = subprocess.run([str(Path(sys.executable).with_name("pixgrad")), *command], check=False).returncode
            if code:
                return code
    contact_sheet().save(SHEET)
    print(
        f"\nDone in {time.monotonic() - began:.0f} s. Look at {SHEET} first; then {PICTURES}/, and the runs in {RUNS}/."
    )
    return 0


def _take_photographs() -> None:
    data = Path(str(files("skimage"))) / "data"
    for folder, names in ((PHOTOGRAPHS, NAMES), (RUNS / "styles", STYLES)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copy(data / name, folder)


def contact_sheet() -> Image.Image:
    """Photographs, dreams and attributions one below the other; under them each style and what was painted in it."""
    stems = [Path(name).stem for name in NAMES]
    rows = [_row("photograph", [_tile(PHOTOGRAPHS / name) for name in NAMES])]
    rows.append(_row("dream", [_tile(PICTURES / "dream" / f"{stem}.png") for stem in stems]))
    rows.append(_row("attribution", [_tile(PICTURES / "attribution" / f"{s}.png", c) for s, c in _explained(stems)]))
    rows.append(_row("style", [tile for style in STYLES for tile in _painted(style)]))
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows) + GAP), PAPER)
    top = GAP
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _painted(style: str) -> list[Image.Image]:
    pictures = [_tile(PICTURES / "style" / Path(style).stem / f"{content}.png", content) for content in CONTENTS]
    return [_tile(RUNS / "styles" / style, "the style"), *pictures]


def _explained(stems: list[str]) -> list[tuple[str, str]]:
    rows = pq.read_table(RUNS / "attribution" / "manifest.parquet").to_pylist()
    captions = {Path(row["uri"]).stem: f"{row['target_name']} {row['probability']:.0%}" for row in rows}
    return [(stem, captions[stem]) for stem in stems]


def _tile(path: Path, caption: str | None = None) -> Image.Image:
    with Image.open(path) as picture:
        fitted = ImageOps.contain(picture.convert("RGB"), (TILE, TILE + 40))
    tile = Image.new("RGB", (TILE, TILE + 66), PAPER)
    tile.paste(fitted, ((TILE - fitted.width) // 2, 0))
    ImageDraw.Draw(tile).text((2, fitted.height + 4), caption or path.stem, INK, font=ImageFont.load_default(14))
    return tile


def _row(title: str, tiles: list[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (GAP + len(tiles) * (TILE + GAP), tiles[0].height + 30), PAPER)
    ImageDraw.Draw(row).text((GAP, 0), title, INK, font=ImageFont.load_default(18))
    for column, tile in enumerate(tiles):
        row.paste(tile, (GAP + column * (TILE + GAP), 30))
    return row


if __name__ == "__main__":
    sys.exit(main())
