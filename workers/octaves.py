"""Sizes that images are worked on at. No torch: a job can be checked against its network before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from workers.params import Stage

Size = tuple[int, int]
"""Height and width in pixels."""


def octave_sizes(height: int, width: int, octaves: int, scale: float) -> list[Size]:
    """(height, width) in pixels of each octave, the coarsest first; the last is the image itself.

    Octave k of n is the image shrunk by scale^(n - 1 - k) and rounded, never below one pixel (Mordvintsev et al. 2015).
    """
    factors = [scale**power for power in reversed(range(octaves))]
    return [(max(1, round(height / factor)), max(1, round(width / factor))) for factor in factors]


def style_sizes(height: int, width: int, scales: int) -> list[Size]:
    """(height, width) in pixels of each scale that a picture is painted at: octaves of 2, the coarsest first."""
    return octave_sizes(height, width, scales, 2.0)


def tile_edges(length: int, tile: int | None) -> list[int]:
    """Where a side of `length` pixels is cut into the fewest equal parts of at most `tile`: from 0 to `length`."""
    parts = -(-length // tile) if tile else 1
    return [part * length // parts for part in range(parts + 1)]


def smallest_octave(height: int, width: int, stages: Sequence[Stage]) -> Size:
    """(height, width) in pixels of the smallest image that the network will see; `stages` has at least one stage."""
    return min(_smallest_tile(size, stage) for stage in stages for size in _sizes(height, width, stage))


def _sizes(height: int, width: int, stage: Stage) -> list[Size]:
    return octave_sizes(height, width, stage.octaves, stage.octave_scale)


def _smallest_tile(size: Size, stage: Stage) -> Size:
    height, width = (length // (len(tile_edges(length, stage.tile)) - 1) for length in size)
    return height, width
