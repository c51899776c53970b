"""What the pipeline costs: the driver's time and memory, a job beside its bare engine, frames that differ, resuming.

Everything runs on this machine's CPU, in a temporary folder. Beside each line stands the load average: where other
programs use the machine too, times are theirs as well, and the line is worth repeating (`--only`).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.remove(str(Path(__file__).resolve().parent))  # there this script hides the package `pipeline`

from benchmarks._pipeline.device import device_rows
from benchmarks._pipeline.driver import driver_rows
from benchmarks._pipeline.listing import listing_rows
from benchmarks._pipeline.real_jobs import job_rows, mixed_rows
from benchmarks._pipeline.resume import resume_rows
from benchmarks._pipeline.table import Row, print_head, print_row

Measure = Callable[[Path, argparse.Namespace], Iterator[Row]]


def plan_rows(folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """A long plan, and going on with it when two thirds of it are committed."""
    yield from listing_rows(folder, options.images)
    yield from resume_rows(folder, min(100_000, options.images // 100))


MEASURES: dict[str, Measure] = {
    "driver": lambda folder, options: driver_rows(folder, 500 if options.quick else 2000),
    "jobs": lambda folder, options: job_rows(folder, images=32, repeats=1 if options.quick else 3),
    "frames": lambda folder, options: mixed_rows(folder, 80 if options.quick else 240, 1 if options.quick else 3),
    "plan": plan_rows,
    "device": lambda folder, options: device_rows(folder, 6 if options.quick else 12, threads=os.cpu_count() or 1),
}


def main() -> int:
    """Print the table, line by line as it is measured."""
    options = arguments()
    began = time.monotonic()
    print_head()
    for name in options.only or MEASURES:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            os.environ["RAY_TMPDIR"] = folder  # short: the paths of Ray's sockets are limited to 107 bytes
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin wait for ever where others use the cores too
            for row in MEASURES[name](Path(folder), options):
                print_row(row)
    print(f"\n{os.cpu_count()} cores, {time.monotonic() - began:.0f} s.")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, help="just these measurements")
    parser.add_argument("--images", type=int, default=10_000_000, help="length of the long plan")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything, the long plan 1,000,000 images")
    options = parser.parse_args()
    if options.quick:
        options.images = min(options.images, 1_000_000)
    return options


if __name__ == "__main__":
    sys.exit(main())
