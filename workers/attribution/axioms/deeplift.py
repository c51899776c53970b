"""DeepLift's rescale rule (Shrikumar et al. 2017), which goes by the layers and not by the function alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workers.attribution.axioms.rewriting import is_relu, rewritten
from workers.attribution.axioms.subject import Function
from workers.features import Network

NEAR = 1e-10
"""Inputs of a ReLU nearer to each other than this have no difference quotient worth the name: its slope is taken."""


def with_rescale_rule(network: Network) -> Network:
    """A copy whose ReLU layers pass gradients back by the rescale rule, between the two halves of a batch."""
    return rewritten(network, lambda layer: _Rescaled(layer) if is_relu(layer) else None)[0]


def deeplift(function: Function, x: Tensor, x0: Tensor) -> Tensor:
    """The maps (B x H x W) of a function of a network `with_rescale_rule`, at x against x0 (B x 3 x H x W).

    They sum to F(x) - F(x') where all layers are linear or ReLUs.
    """
    points = torch.cat([x, x0]).requires_grad_()
    with torch.enable_grad():
        (multipliers,) = torch.autograd.grad(function(points)[: len(x)].sum(), points)
    return (multipliers[: len(x)] * (x - x0)).sum(1)


class _Rescaled(nn.Module):
    def __init__(self, activation: nn.Module):
        super().__init__()
        self.activation = activation

    def forward(self, inputs: Tensor) -> Tensor:
        return _Rule.apply(inputs, self.activation)


class _Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, activation: nn.Module) -> Tensor:
        with torch.enable_grad():
            points = inputs.detach().requires_grad_()
            outputs = activation(points)
            (slope,) = torch.autograd.grad(outputs.sum(), points)
        ctx.save_for_backward(inputs, outputs.detach(), slope)
        return outputs.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        inputs, outputs, slope = ctx.saved_tensors
        (run, run0), (rise, rise0) = inputs.chunk(2), outputs.chunk(2)
        near = (run - run0).abs() < NEAR
        quotient = (rise - rise0) / (run - run0).masked_fill(near, 1)
        quotient = torch.where(near, slope.chunk(2)[0], quotient)
        return torch.cat([quotient, quotient]) * gradients[0], None
