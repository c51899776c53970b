"""Captum (an extra), and which networks a method's rules cover."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

from torch import nn
from torch.nn.modules import activation

from workers.attribution.axioms.deeplift import with_rescale_rule
from workers.errors import ModelError
from workers.features import Network


def captum() -> ModuleType:
    """Captum's attribution methods. Raises ModelError if it isn't installed."""
    try:
        return importlib.import_module("captum.attr")
    except ModuleNotFoundError as error:
        missing = "this method comes from Captum, which isn't installed: pip install 'pixgrad[captum]'"
        raise ModelError(missing) from error


def prepared(network: Network, method: str) -> Network:
    """The network as the method can take it: the same function.

    DeepLift is our own, as Captum's has no rule for ReLU6; it needs no Captum. Methods that replace the gradients of
    activations know some kinds of layers, and would take the plain gradient of all others without a word. Raises
    ModelError where that would happen, and if Captum isn't installed.
    """
    if method != "deep_lift":
        captum()
    if reason := next(_objections(network, method), None):
        raise ModelError(f"{method} {reason}: use another method")
    return with_rescale_rule(network) if method == "deep_lift" else network


def _objections(network: Network, method: str) -> Iterator[str]:
    """What speaks against a method that replaces the gradients of activations."""
    if method not in ("guided_backprop", "deconvolution", "deep_lift"):
        return
    known = (nn.ReLU, nn.ReLU6) if method == "deep_lift" else nn.ReLU
    layers = {path: network.module.get_submodule(path) for path in network.trace.calls}
    found = {path: layer for path, layer in layers.items() if type(layer).__module__ == activation.__name__}
    if not found:
        yield "works on ReLU layers, and this network has none"
    for path, layer in found.items():
        if not isinstance(layer, known):
            yield f"has no rule for {type(layer).__name__} layers, as {path} is"
        if network.trace.calls[path] > 1 and method != "deep_lift":
            yield f"can't take a layer that is used twice, as {path} is"
