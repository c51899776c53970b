"""Keys and seeds: they depend on what an output is, and on nothing else, today and in later versions."""

from __future__ import annotations

import pickle
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.records import Attempt, ImageRef, Output, Variant, output_key, output_seed

IMAGE = ImageRef("cats/a%20b.jpg")


def test_keys_and_seeds_are_the_same_for_ever() -> None:
    """Runs that were begun with a former version are continued, and retried, by these."""
    assert output_key("cats/a%20b.jpg", None, "") == "b51b41c85eaef91146cf1d15ba41b04e"
    assert output_key("0.tar", "a.jpg", "waves") == "ca20e76225dd3be5184223a99104ab2d"
    assert output_seed(0, "b51b41c85eaef91146cf1d15ba41b04e") == 2865448990040992317
    assert output_seed(7, "b51b41c85eaef91146cf1d15ba41b04e") == 8618241595239066490


def test_a_key_says_which_output_it_is_and_not_where_it_stands() -> None:
    output = Output(IMAGE, Variant("waves", 1))
    elsewhere = [
        replace(output, image=replace(IMAGE, offset=512, bytes=10)),
        replace(output, image=replace(IMAGE, label="cats", columns={"weight": 1})),
        replace(output, variant=Variant("waves", 5)),
    ]
    assert {other.key for other in elsewhere} == {output.key}
    others = [
        replace(output, image=replace(IMAGE, uri="cats/b.jpg")),
        replace(output, image=replace(IMAGE, member="#2")),
        replace(output, variant=Variant("dots", 1)),
    ]
    assert len({output.key, *(other.key for other in others)}) == 4


def test_an_attempt_arrives_as_it_was_sent() -> None:
    full = ImageRef("a.tar", "b/c.jpg", 512, 99, "cats", {"weight": 1.5, "tags": ["x", None]})
    outputs = (Output(full, Variant("top1", "top:1")), Output(IMAGE, Variant("waves", 3)), Output(IMAGE, Variant("")))
    attempt = Attempt("0f" * 8, 7, 1, (0, 2, 5), outputs, (1, 1, 2))
    assert pickle.loads(pickle.dumps(attempt)) == attempt


PART = st.text(max_size=4)


@given(st.tuples(PART, PART, PART), st.tuples(PART, PART, PART))
def test_no_two_outputs_share_a_key(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Whatever their parts would give when put together. An empty member is none."""
    assert (output_key(*one) == output_key(*other)) == (one == other)
    assert len(output_key(*one)) == 32 and set(output_key(*one)) <= set("0123456789abcdef")


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), PART, PART)
def test_seeds_differ_by_run_and_by_output(run: int, other_run: int, key: str, other_key: str) -> None:
    assert 0 <= output_seed(run, key) < 2**63
    assert (output_seed(run, key) == output_seed(other_run, other_key)) == ((run, key) == (other_run, other_key))
