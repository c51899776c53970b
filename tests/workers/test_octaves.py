from __future__ import annotations

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from workers.octaves import octave_sizes, smallest_octave
from workers.params import Stage

sides = st.integers(1, 4096)
scales = st.floats(1.01, 4)


def test_four_octaves_of_1_4() -> None:
    assert octave_sizes(256, 384, 4, 1.4) == [(93, 140), (131, 196), (183, 274), (256, 384)]


@given(height=sides, width=sides, octaves=st.integers(1, 12), scale=scales)
def test_octaves_grow_to_the_image_and_keep_its_aspect(height: int, width: int, octaves: int, scale: float) -> None:
    sizes = octave_sizes(height, width, octaves, scale)
    assert len(sizes) == octaves
    assert sizes[-1] == (height, width)
    assert sizes == sorted(sizes)
    for power, (h, w) in enumerate(reversed(sizes)):
        assert h == 1 or abs(h - height / scale**power) <= 0.5
        assert w == 1 or abs(w - width / scale**power) <= 0.5


@given(
    height=sides,
    width=sides,
    stages=st.lists(
        st.builds(
            lambda octaves, scale: Stage.model_validate({"octaves": octaves, "octave_scale": scale}),
            st.integers(1, 8),
            scales,
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_the_smallest_octave_is_no_larger_than_any_octave(height: int, width: int, stages: list[Stage]) -> None:
    sizes = [size for stage in stages for size in octave_sizes(height, width, stage.octaves, stage.octave_scale)]
    smallest = smallest_octave(height, width, stages)
    assert smallest in sizes
    assert all(smallest[0] <= h and smallest[1] <= w for h, w in sizes)


def test_octaves_need_no_torch() -> None:
    check = "import sys, workers.octaves; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
