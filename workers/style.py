"""Neural style (Gatys, Ecker and Bethge, CVPR 2016) for a batch of images, each with a style of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from workers.features import Network
from workers.lbfgs import Minimum, Objective, minimise_adam, minimise_lbfgs
from workers.params import Layer, StyleParams


@dataclass(frozen=True)
class StyleTarget:
    """What a style image asks for: the Gram matrix (N x N) of each style layer, by the layer's name."""

    grams: Mapping[str, Tensor]


@dataclass(frozen=True)
class StyleResult:
    """Stylised images, and what is left of their losses.

    `images` are B x 3 x H x W in [0, 1], in the dtype and on the device of the contents. `content_loss`, `style_loss`
    and `total_loss` (B, fp64, on the CPU) are those of these very images, the first two without their weights;
    `iterations` (B) are the optimiser's steps.
    """

    images: Tensor
    content_loss: Tensor
    style_loss: Tensor
    total_loss: Tensor
    iterations: list[int]


def gram(features: Tensor) -> Tensor:
    """Gram matrices F F^T / M (B x N x N) of features with N channels and M positions (B x N x M..).

    Gatys et al. eq. (3), over the features' own number of positions, so that images of different size compare.
    Accumulated in fp32 (fp64 for fp64 features), also where the features are bfloat16.
    """
    result = _Gram.apply(features.flatten(2))
    assert isinstance(result, Tensor)
    return result


class _Gram(torch.autograd.Function):
    """Its backward is one product, (dG + dG^T) F / M, where autograd would take two."""

    @staticmethod
    def forward(ctx, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        if features.is_cuda and features.dtype == torch.bfloat16:
            product = torch.bmm(features, features.mT, out_dtype=torch.float32)
        else:
            wide = _at_least_fp32(features)
            product = torch.bmm(wide, wide.mT)
        return product / features.shape[2]

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        (grad,) = grad_outputs
        symmetric = ((grad + grad.mT) / features.shape[2]).to(features.dtype)
        return torch.bmm(features.mT, symmetric).mT  # in channels_last, as the network's own gradients


def style_target(network: Network, image: Tensor, layers: Sequence[Layer]) -> StyleTarget:
    """The Gram matrices of one style image (1 x 3 x H x W in [0, 1], of any size) at `layers`.

    Raises ModelError for a layer the network doesn't have.
    """
    with torch.no_grad():
        features = network(image, [layer.name for layer in layers])
        return StyleTarget({layer.name: gram(_channels(features, layer))[0] for layer in layers})


def stylise(
    network: Network,
    contents: Tensor,
    targets: Sequence[StyleTarget],
    params: StyleParams,
    seeds: Sequence[int],
    *,
    on_step: Callable[[], None] = lambda: None,
) -> StyleResult:
    """Paint each of `contents` (B x 3 x H x W in [0, 1]) in the style of its own target.

    Minimises the total of `StyleLosses` over pixels in [0, 1], for each image alone, from the start that `params` ask
    for; `seeds` (one an image) are used by `init: noise` only. `on_step` is called before each step of the optimiser.

    `params` must name its content and style layers. Raises ModelError for a layer the network doesn't have.
    """
    losses = StyleLosses.of(network, contents, targets, params)
    minimum = _minimise(partial(_evaluate, losses, contents.shape), _start(contents, params, seeds), params, on_step)
    images = _unflatten(minimum.point, contents.shape)
    with torch.no_grad():
        content, style, total = (loss.double().cpu() for loss in losses(images))
    return StyleResult(images, content, style, total, [params.iterations] * len(contents))


@dataclass(frozen=True)
class StyleLosses:
    """The losses of a batch of images, each towards the content and the style of its own.

    The total is Gatys et al. eq. (7) with a smoothness term,

        content_weight * mean_l w_l C_l  +  style_weight * mean_l w_l E_l  +  tv_weight * TV

    - C_l = sum (F - P)^2 / sum P^2: eq. (1) over its value for features that are zero,
    - E_l = sum (G - A)^2 / sum A^2: eq. (4) over its value for Gram matrices that are zero,
    - TV: `total_variation`,

    where F, P are the features and G, A the Gram matrices of the image and its target. The quotients do what the
    paper's rescaling of the network to mean activations of one does: a weight means the same for every network, layer
    and image size.
    """

    network: Network
    params: StyleParams
    content_layers: Sequence[Layer]
    style_layers: Sequence[Layer]
    features: Mapping[str, Tensor]  # by content layer, of the content images
    grams: Mapping[str, Tensor]  # by style layer, B x N x N

    @classmethod
    def of(cls, network: Network, contents: Tensor, targets: Sequence[StyleTarget], params: StyleParams) -> StyleLosses:
        """The losses towards `contents` (B x 3 x H x W in [0, 1]) and one target for each of them."""
        if params.content_layers is None or params.style_layers is None:
            raise ValueError("content_layers and style_layers must be named")
        with torch.no_grad():
            features = network(contents, [layer.name for layer in params.content_layers])
        return cls(
            network,
            params,
            params.content_layers,
            params.style_layers,
            {layer.name: _at_least_fp32(_channels(features, layer)) for layer in params.content_layers},
            {
                layer.name: torch.stack([target.grams[layer.name] for target in targets])
                for layer in params.style_layers
            },
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The content, style and total loss (B each, fp32 or the fp64 of the images) of B x 3 x H x W in [0, 1]."""
        features = self.network(images, list(dict.fromkeys([*self.features, *self.grams])))
        content = _mean(
            layer.weight * _relative_error(_at_least_fp32(_channels(features, layer)), self.features[layer.name])
            for layer in self.content_layers
        )
        style = _mean(
            layer.weight * _relative_error(gram(_channels(features, layer)), self.grams[layer.name])
            for layer in self.style_layers
        )
        total = self.params.content_weight * content + self.params.style_weight * style
        if self.params.tv_weight:
            total = total + self.params.tv_weight * total_variation(images)
        return content, style, total


def total_variation(images: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring pixels over the number of pixels (B), of B x 3 x H x W images.

    Mahendran and Vedaldi (CVPR 2015), section 3.2, with beta = 2.
    """
    rows = images.diff(dim=2).square().sum((1, 2, 3))
    columns = images.diff(dim=3).square().sum((1, 2, 3))
    return (rows + columns) / (images.shape[2] * images.shape[3])


def _evaluate(losses: StyleLosses, shape: torch.Size, flat: Tensor) -> tuple[Tensor, Tensor]:
    flat = flat.detach().requires_grad_()
    *_, total = losses(_unflatten(flat, shape))
    (gradient,) = torch.autograd.grad(total.sum(), flat)
    return total.detach(), gradient


def _minimise(objective: Objective, start: Tensor, params: StyleParams, on_step: Callable[[], None]) -> Minimum:
    if params.optimizer == "adam":
        minimise = partial(minimise_adam, learning_rate=params.learning_rate)
    else:
        minimise = partial(minimise_lbfgs, history=params.history)
    return minimise(objective, start, iterations=params.iterations, lower=0.0, upper=1.0, on_step=on_step)


def _start(contents: Tensor, params: StyleParams, seeds: Sequence[int]) -> Tensor:
    if params.init == "noise":
        noise = [torch.rand(contents.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return _flatten(torch.stack(noise).to(contents))
    return _flatten(contents if params.init == "content" else torch.full_like(contents, 0.5))


def _flatten(images: Tensor) -> Tensor:
    """Rows in channels_last order, so that `_unflatten` is a view in the layout the network likes best."""
    return images.permute(0, 2, 3, 1).flatten(1)


def _unflatten(rows: Tensor, shape: torch.Size) -> Tensor:
    batch, channels, height, width = shape
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _channels(features: Mapping[str, Tensor], layer: Layer) -> Tensor:
    captured = features[layer.name]
    return captured if layer.channels is None else captured[:, layer.channels]


def _relative_error(value: Tensor, target: Tensor) -> Tensor:
    """Squared distance over the target's squared norm (B); over one where the target is all zero."""
    energy = target.square().flatten(1).sum(1)
    return (value - target).square().flatten(1).sum(1) / torch.where(energy > 0, energy, 1)


def _mean(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean(0)


def _at_least_fp32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
