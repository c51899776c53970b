"""Waiting for room on a cluster."""

from __future__ import annotations

from pipeline.room import SAY_EVERY, SPAWN_SECONDS, Patience


def test_it_waits_as_long_as_it_takes_and_says_so() -> None:
    patience = Patience(None)
    said = 0
    for now in range(0, 3600, 5):
        assert not patience.is_over(True, now)
        said += patience.is_time_to_say(now)
    assert said == 3600 // SAY_EVERY - 1


def test_it_gives_up_after_the_time_it_was_told() -> None:
    patience = Patience(120)
    assert not patience.is_over(True, 1000) and not patience.is_over(True, 1120) and patience.is_over(True, 1121)


def test_a_wait_that_ended_does_not_count() -> None:
    patience = Patience(60)
    assert not patience.is_over(True, 0) and not patience.is_over(False, 59)
    assert not patience.is_over(True, 61) and not patience.is_over(True, 120)
    assert not patience.is_time_to_say(61 + SAY_EVERY - 1) and patience.is_time_to_say(61 + SAY_EVERY)


def test_a_process_that_comes_to_life_slowly_is_not_given_up() -> None:
    patience = Patience(0)
    assert not patience.is_over(True, 0) and not patience.is_over(True, SPAWN_SECONDS)
    assert patience.is_over(True, SPAWN_SECONDS + 1)
