"""Classes by index and name."""

from __future__ import annotations

import pytest

from workers.classes import class_index
from workers.errors import ModelError

NAMES = ["tench, Tinca tinca", "Egyptian cat", "crane", "Tiger Cat", "missile", "crane", "projectile, missile"]


@pytest.mark.parametrize(
    ("target", "index"),
    [(3, 3), ("3", 3), ("tiger cat", 3), (" EGYPTIAN CAT ", 1), ("Tinca Tinca", 0), ("tench, tinca tinca", 0)],
)
def test_a_class_is_named_by_index_name_or_synonym(target: int | str, index: int) -> None:
    assert class_index(target, 7, NAMES) == index


def test_a_whole_name_goes_before_a_synonym() -> None:
    assert class_index("missile", 7, NAMES) == 4


def test_classes_may_be_called_by_numbers() -> None:
    assert class_index("5", 3, ["7", "5", "0"]) == 1


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("egyptian cta", "nearest names are egyptian cat"),
        ("zzzz", "give a class name"),
        ("crane", "classes 2, 5"),
        (7, "classes 0 to 6"),
        (-1, "classes 0 to 6"),
        ("700", "classes 0 to 6"),
    ],
)
def test_what_no_single_class_is_called_is_refused(target: int | str, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        class_index(target, 7, NAMES)


def test_without_names_only_an_index_will_do() -> None:
    assert class_index(5000, 5001, None) == 5000
    with pytest.raises(ModelError, match=r"no class names.*model\.classes"):
        class_index("cat", 5001, None)
