"""What neural style minimises: distances in a network's features (Gatys, Ecker and Bethge, CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workers.features import Network
from workers.params import Layer, StyleParams


@dataclass(frozen=True)
class StyleTarget:
    """What a style image asks for, by the style layers' names: Gram matrices (N x N) and mean activations (N)."""

    grams: Mapping[str, Tensor]
    means: Mapping[str, Tensor]


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
    """The statistics of one style image (1 x 3 x H x W in [0, 1], of any size) at `layers`.

    Raises ModelError for a layer the network doesn't have.
    """
    with torch.no_grad():
        captured = network(image, [layer.name for layer in layers])
        features = {layer.name: _channels(captured, layer) for layer in layers}
        grams = {name: gram(values)[0] for name, values in features.items()}
        means = {name: _mean_activation(values)[0] for name, values in features.items()}
    return StyleTarget(grams, means)


def blended(targets: Sequence[StyleTarget], weights: Sequence[float]) -> StyleTarget:
    """The target of a mixture: means and Gram matrices (second moments) of the styles, averaged by their weights.

    These are the moments of a picture of which each style has that share of the positions.
    """
    shares = [weight / sum(weights) for weight in weights]

    def mixed(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: sum(s * p[name] for s, p in zip(shares, parts, strict=True)) for name in parts[0]}  # pyright: ignore[reportReturnType]

    return StyleTarget(mixed([t.grams for t in targets]), mixed([t.means for t in targets]))


@dataclass(frozen=True)
class StyleLosses:
    """The losses of a batch of images, each towards the content and the style of its own.

    The total is Gatys et al. eq. (7) with a smoothness term,

        content_weight * mean_l w_l C_l  +  s * style_weight * mean_l w_l E_l  +  tv_weight * TV

    - C_l = sum (F - P)^2 / sum P^2: eq. (1) over its value for features that are zero,
    - E_l = sum (G - A)^2 / sum A^2: eq. (4) over its value for Gram matrices that are zero; with `statistics:
      covariance` the mean of two such quotients, one of mean activations and one of their covariances,
    - TV: `total_variation`,
    - s = 100^(2 strength - 1), one at the middle,

    where F, P are the features and G, A the Gram matrices of the image and its target. The quotients do what the
    paper's rescaling of the network to mean activations of one does: a weight means the same for every network, layer
    and image size.
    """

    network: Network
    params: StyleParams
    content_layers: Sequence[Layer]
    style_layers: Sequence[Layer]
    features: Mapping[str, Tensor]  # by content layer, of the content images
    grams: Mapping[str, Tensor]  # by style layer, B x N x N; covariances, if the params say so
    means: Mapping[str, Tensor]  # by style layer, B x N

    @classmethod
    def of(cls, network: Network, contents: Tensor, targets: Sequence[StyleTarget], params: StyleParams) -> StyleLosses:
        """The losses towards `contents` (B x 3 x H x W in [0, 1]) and one target for each of them."""
        if params.content_layers is None or params.style_layers is None:
            raise ValueError("content_layers and style_layers must be named")
        with torch.no_grad():
            features = network(contents, [layer.name for layer in params.content_layers])
        names = [layer.name for layer in params.style_layers]
        grams = {name: torch.stack([target.grams[name] for target in targets]) for name in names}
        means = {name: torch.stack([target.means[name] for target in targets]) for name in names}
        if params.statistics == "covariance":
            grams = {name: _covariance(grams[name], means[name]) for name in names}
        return cls(
            network,
            params,
            params.content_layers,
            params.style_layers,
            {layer.name: _at_least_fp32(_channels(features, layer)) for layer in params.content_layers},
            grams,
            means,
        )

    def replaced(self, rows: Tensor, other: StyleLosses) -> StyleLosses:
        """These losses with `rows` (B, bool) from another batch of the same size."""

        def mixed(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: torch.where(rows.view(-1, *[1] * (values.dim() - 1)), theirs[name], values)
                for name, values in mine.items()
            }

        return replace(
            self,
            features=mixed(self.features, other.features),
            grams=mixed(self.grams, other.grams),
            means=mixed(self.means, other.means),
        )

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The content, style and total loss (B each, fp32 or the fp64 of the images) of B x 3 x H x W in [0, 1]."""
        features = self.network(images, list(dict.fromkeys([*self.features, *self.grams])))
        content = _mean(
            layer.weight * _relative_error(_at_least_fp32(_channels(features, layer)), self.features[layer.name])
            for layer in self.content_layers
        )
        style = _mean(layer.weight * self._style_error(features, layer) for layer in self.style_layers)
        params = self.params
        total = params.content_weight * content + _strength(params) * params.style_weight * style
        if params.tv_weight:
            total = total + params.tv_weight * total_variation(images)
        return content, style, total

    def _style_error(self, captured: Mapping[str, Tensor], layer: Layer) -> Tensor:
        features, target = _channels(captured, layer), self.grams[layer.name]
        if self.params.statistics == "gram":
            return _relative_error(gram(features), target)
        mean = _mean_activation(features)
        in_covariance = _relative_error(_covariance(gram(features), mean), target)
        return (in_covariance + _relative_error(mean, self.means[layer.name])) / 2


def total_variation(images: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring pixels over the number of pixels (B), of B x 3 x H x W images.

    Mahendran and Vedaldi (CVPR 2015), section 3.2, with beta = 2.
    """
    rows = images.diff(dim=2).square().sum((1, 2, 3))
    columns = images.diff(dim=3).square().sum((1, 2, 3))
    return (rows + columns) / (images.shape[2] * images.shape[3])


def _strength(params: StyleParams) -> float:
    return 100 ** (2 * params.strength - 1)


def _mean_activation(features: Tensor) -> Tensor:
    return _at_least_fp32(features).flatten(2).mean(2)


def _covariance(second_moment: Tensor, mean: Tensor) -> Tensor:
    return second_moment - mean[:, :, None] * mean[:, None, :]


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
