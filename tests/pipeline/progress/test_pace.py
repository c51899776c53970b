"""Rates and the time to go, on a clock of our own."""

from __future__ import annotations

import pytest

from pipeline.progress.pace import WINDOW, Pace


def test_what_came_first_and_the_time_before_it_are_no_part_of_a_rate() -> None:
    pace = Pace()
    pace.add(8, now=100.0)  # after loading a model for 100 seconds
    assert pace.rate(100.0) is None and pace.seconds_for(10, 100.0) is None
    for second in range(1, 11):
        pace.add(3, now=100.0 + second)
    assert pace.count == 38 and pace.rate(110.0) == pytest.approx(3.0)


def test_a_moment_makes_no_rate() -> None:
    pace = Pace()
    pace.add(1, now=0.0)
    pace.add(500, now=0.01)
    assert pace.rate(1.0) is None


def test_lots_close_together_count_in_full() -> None:
    pace = Pace()
    for tick in range(1001):
        pace.add(1, now=tick / 100)
    assert pace.count == 1001 and pace.rate(10.0) == pytest.approx(100.0)


def test_a_rate_falls_while_nothing_comes_and_the_time_to_go_runs_down() -> None:
    pace = Pace()
    for minute in range(5):
        pace.add(10, now=60.0 * minute)
    assert pace.rate(240.0) == pytest.approx(1 / 6) and pace.seconds_for(10, 240.0) == pytest.approx(60)
    assert pace.seconds_for(10, 270.0) == pytest.approx(30), "half of it has passed"
    late = pace.seconds_for(10, 480.0)
    assert late == pytest.approx(10 / (40 / 480)), "overdue: as slow as it has become"


def test_a_rate_follows_workers_that_come() -> None:
    pace = Pace()
    for second in range(1000):
        pace.add(1, now=float(second))
    for second in range(1000, 1000 + int(WINDOW) + 2):
        pace.add(5, now=float(second))
    assert pace.rate(1000.0 + WINDOW + 1) == pytest.approx(5.0, rel=0.02)
