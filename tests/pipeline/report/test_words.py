"""Numbers and names as people read them."""

from __future__ import annotations

import pytest

from pipeline.report.words import cell, figure, image_name, image_place, rate, readable, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.01234, "0.0123"),
        (1234.5, "1,230"),
        (4.56e-7, "4.56e-7"),
        (65.0, "65"),
        (None, "–"),
        (1e9, "1.00e9"),
    ],
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 9, "0 %"),
        (9, 9, "100 %"),
        (1, 10**6, "< 0.1 %"),
        (999_999, 10**6, "> 99.9 %"),
        (12, 100, "12 %"),
        (0, 0, "–"),
    ],
)
def test_a_share_is_none_or_all_only_if_it_is(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_rates_have_the_unit_that_fits() -> None:
    assert [rate(r) for r in (12.0, 0.2, 0.001)] == [("12", "a second"), ("12", "a minute"), ("3.6", "an hour")]


def test_names_show_what_would_not_be_seen() -> None:
    assert readable("a%0Ab%E2%80%AEgpj.exe%FF") == "a\\nb\\u202egpj.exe\ufffd"
    assert readable("%D7%A9%D7%9C%D7%95%D7%9D.png") == "שלום.png"


def test_an_image_is_called_by_its_file_or_member() -> None:
    assert image_name({"uri": "a/b%20c.jpg", "member": "#2"}) == "b c.jpg"
    row = {"uri": "s/1.tar", "member": "x/y.jpg"}
    assert (image_name(row), image_place(row)) == ("y.jpg", "s/1.tar : x/y.jpg")


def test_values_that_json_or_a_browser_would_change_are_texts() -> None:
    assert [cell(v) for v in (float("nan"), float("inf"), True, 2**60, b"x")] == [None, None, True, str(2**60), "b'x'"]
