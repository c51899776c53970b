from __future__ import annotations

from workers.batching import Batcher

SMALL, LARGE = (32, 32), (64, 64)


def batcher(**items: str) -> Batcher[str]:
    """Batches of three small frames or two large ones; `items` of each wait."""
    made: Batcher[str] = Batcher(lambda frame: 3 if frame == SMALL else 2)
    for name in items.get("small", ""):
        made.add(SMALL, name)
    for name in items.get("large", ""):
        made.add(LARGE, name)
    return made


def test_full_batches_come_first_and_the_rest_when_nothing_more_is_awaited() -> None:
    waiting = batcher(small="ab", large="xyz")
    assert waiting.take(partial=False) == ["x", "y"] and waiting.take(partial=False) is None
    assert waiting.take(partial=True) == ["a", "b"] and waiting.take(partial=True) == ["z"]
    assert waiting.take(partial=True) is None


def test_more_of_a_frame_is_given_until_another_batch_is_full() -> None:
    waiting = batcher(small="abcd", large="x")
    assert waiting.take(partial=False) == ["a", "b", "c"]
    assert waiting.take_more(SMALL, 0) == [] and waiting.take_more(SMALL, 5) == ["d"]
    assert waiting.take_more(SMALL, 5) == []
    waiting.add(SMALL, "e")
    waiting.add(LARGE, "y")
    assert waiting.take_more(SMALL, 5) == [], "it is the large ones' turn"
    assert waiting.take(partial=False) == ["x", "y"] and waiting.take_more(SMALL, 5) == ["e"]
    assert waiting.take(partial=True) is None
