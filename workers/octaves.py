"""Sizes of the octaves of a dream. No torch: a job can be checked against its network before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from workers.params import Stage


def octave_sizes(height: int, width: int, octaves: int, scale: float) -> list[tuple[int, int]]:
    """(height, width) in pixels of each octave, the coarsest first; the last is the image itself.

    Octave k of n is the image shrunk by scale^(n - 1 - k) and rounded, never below one pixel (Mordvintsev et al. 2015).
    """
    factors = [scale**power for power in reversed(range(octaves))]
    return [(max(1, round(height / factor)), max(1, round(width / factor))) for factor in factors]


def smallest_octave(height: int, width: int, stages: Sequence[Stage]) -> tuple[int, int]:
    """(height, width) in pixels of the smallest image that the network will see; `stages` has at least one stage."""
    return min(octave_sizes(height, width, stage.octaves, stage.octave_scale)[0] for stage in stages)
