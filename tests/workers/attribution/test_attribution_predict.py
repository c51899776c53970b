from __future__ import annotations

import torch

from workers.attribution.predict import predict
from workers.features import LOGITS


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
