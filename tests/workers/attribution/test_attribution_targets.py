from __future__ import annotations

import pytest
import torch
from torch import nn

from workers.attribution.targets import predict, resolve_target
from workers.errors import ModelError
from workers.features import LOGITS, Network

NAMES = ["tench, Tinca tinca", "Egyptian cat", "crane", "Tiger Cat", "missile", "crane", "projectile, missile"]


def classifier(names: list[str] | None) -> Network:
    return Network(nn.Conv2d(3, 7, 1), [0.5] * 3, [0.5] * 3, categories=names)


@pytest.mark.parametrize(
    ("target", "index"),
    [(3, 3), ("3", 3), ("tiger cat", 3), (" EGYPTIAN CAT ", 1), ("Tinca Tinca", 0), ("tench, tinca tinca", 0)],
)
def test_a_class_is_named_by_index_name_or_synonym(target, index):
    assert resolve_target(classifier(NAMES), target) == index


def test_a_whole_name_goes_before_a_synonym():
    assert resolve_target(classifier(NAMES), "missile") == 4


def test_classes_may_be_called_by_numbers():
    assert resolve_target(classifier(["7", "5", "0"]), "5") == 1


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("egyptian cta", "nearest names are egyptian cat"),
        ("zzzz", "give a class name"),
        ("crane", "classes 2, 5"),
        (7, "numbered from 0 to 6"),
        (-1, "numbered from 0 to 6"),
        ("700", "numbered from 0 to 6"),
    ],
)
def test_what_no_single_class_is_called_is_refused(target, sentence):
    with pytest.raises(ModelError, match=sentence):
        resolve_target(classifier(NAMES), target)


def test_without_names_only_an_index_will_do():
    assert resolve_target(classifier(None), 5000) == 5000
    with pytest.raises(ModelError, match=r"no class names.*model\.classes"):
        resolve_target(classifier(None), "cat")


def test_predictions_are_the_networks_logits(small_network, photographs):
    network, images = small_network(torch.float64), photographs(32).double()
    logits = predict(network, images, batch=2)
    assert logits.shape == (3, 10)
    assert not logits.requires_grad
    torch.testing.assert_close(logits, network(images, [LOGITS])[LOGITS], rtol=0, atol=1e-12)


def test_a_prediction_is_bitwise_the_same_in_any_company(efficientnet, photographs):
    network, images = efficientnet(torch.float32), photographs(64)
    steps: list[int] = []
    together = predict(network, images.repeat(2, 1, 1, 1), batch=4, on_step=lambda: steps.append(1))
    assert len(steps) == 2
    assert torch.equal(together[:3], together[3:])
    assert torch.equal(predict(network, images[2:], batch=4)[0], together[2])


def test_the_real_network_recognises_the_photographs(efficientnet, photographs):
    network = efficientnet(torch.float32)
    top = predict(network, photographs(224)[1:], batch=2).topk(3).indices.tolist()
    assert set(top[0]) & {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert 967 in top[1]  # espresso
