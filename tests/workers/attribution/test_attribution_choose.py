"""Which class is explained, and what is said where there is none."""

from __future__ import annotations

import pytest
import torch

from workers.attribution.choose import choose, label_class
from workers.attribution.objective import Target, objective
from workers.errors import ImageError, ModelError

NAMES = ["cat", "dog, hound", "cup"]
LOGITS = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("wanted", "target"),
    [
        ("predicted", Target(1)),
        ("label", Target(2)),
        (0, Target(0)),
        ("hound", Target(1)),
        ("top:0", Target(1)),
        ("top:2", Target(0)),
        ("contrast:predicted:0", Target(1, 0)),
        ("contrast:predicted:label", Target(1, 2)),
        ("contrast:label:runner_up", Target(2, 1)),
        ("contrast:predicted:runner_up", Target(1, 2)),
        ("contrast:runner_up:predicted", Target(2, 1)),
    ],
)
def test_the_target_is_the_class_asked_for(wanted, target):
    assert choose(wanted, LOGITS, "cup", NAMES) == target


@pytest.mark.parametrize(
    ("wanted", "label", "logits", "code"),
    [
        ("label", None, LOGITS, "no_label"),
        ("label", "horse", LOGITS, "unknown_class"),
        (3, None, LOGITS, "unknown_class"),
        ("contrast:predicted:1", None, LOGITS, "same_class"),
        ("predicted", None, torch.tensor([1.0, float("nan"), 2.0]), "not_finite"),
        (0, None, torch.tensor([1.0, float("inf"), 2.0]), "not_finite"),
    ],
)
def test_an_image_without_that_class_says_why(wanted, label, logits, code):
    with pytest.raises(ImageError) as caught:
        choose(wanted, logits, label, NAMES)
    assert caught.value.code == code


def test_a_label_is_an_index_or_a_name_or_none_of_the_networks():
    assert [label_class(label, 3, NAMES) for label in ("2", "HOUND", "horse", "7", None)] == [2, 1, None, None, None]


@pytest.mark.parametrize("kind", ["logit", "softmax"])
def test_a_contrast_is_the_difference_of_two_scores(kind):
    logits = torch.stack([LOGITS, LOGITS.flip(0)])
    scores = logits.softmax(1) if kind == "softmax" else logits
    values = objective(logits, [Target(1, 0), Target(2)], kind)
    assert torch.allclose(values, torch.stack([scores[0, 1] - scores[0, 0], scores[1, 2]]))


def test_a_class_that_the_network_lacks_is_refused_on_either_side():
    for target in (Target(3), Target(0, 3)):
        with pytest.raises(ModelError, match="no class 3"):
            objective(LOGITS[None], [target], "logit")
