"""The best of a stream, whatever its order and however it is cut."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.top import TopRows, random_scores

floats = st.floats(allow_nan=True, allow_infinity=False)


@given(st.lists(st.lists(floats, max_size=9), max_size=9), st.integers(1, 5))
def test_the_best_are_kept_and_of_equals_the_first(parts: list[list[float]], size: int) -> None:
    top, number = TopRows(size), 0
    for part in parts:
        table = pa.table({"place": pa.array(range(number, number + len(part)), pa.int64())})
        top.offer(table, np.array(part, dtype=np.float64))
        number += len(part)
    scores = [score for part in parts for score in part]
    best = sorted((i for i, s in enumerate(scores) if s == s), key=lambda i: -scores[i])[:size]
    assert [row["place"] for row in top.rows] == best


def test_random_scores_follow_from_seed_and_identity_and_are_uniform() -> None:
    names = [f"{i}.jpg" for i in range(20_000)]
    scores = random_scores(0, names)
    assert (scores[::-1] == random_scores(0, names[::-1])).all()
    assert np.corrcoef(scores, random_scores(1, names))[0, 1] < 0.03
    assert np.histogram(scores, 10, (0, 1))[0].min() > 1_800
