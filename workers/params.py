"""Parameters of the model, the images and the three algorithms: declared once, composed by the job file. No torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Params(BaseModel):
    """A section of the job file: unknown keys are errors, numbers are finite, values don't change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


class Layer(Params):
    """A layer of the network, with its weight in the objective and, optionally, only some of its channels."""

    name: str = Field(description="as `pixgrad layers MODEL` lists it")
    weight: float = Field(default=1.0, description="of this layer beside the others")
    channels: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="only these; null: all"
    )


def _layer_from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


LayerRef = Annotated[Layer, BeforeValidator(_layer_from_name, json_schema_input_type=str | Layer)]
Layers = Annotated[list[LayerRef], Field(min_length=1)]
_LAYERS = "names or {name: …, weight: …, channels: […]}; null: the family's default"


class Normalization(Params):
    """Per-channel mean and standard deviation of RGB values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class ModelParams(Params):
    """Which network, with which weights, preprocessing and class names."""

    name: str = Field(
        default="vgg19", description="torchvision's | efficientnet_lite0 | timm:<name> | package.module:factory"
    )
    weights: str = Field(
        default="DEFAULT",
        description="DEFAULT | one of torchvision's names | path or URI of .pth, .pt, .bin, .safetensors",
    )
    preprocess: Normalization | None = Field(
        default=None, description="null: what the weights were trained with | {mean: [r, g, b], std: [r, g, b]}"
    )
    classes: str | None = Field(
        default=None, description="null: the weights' own names; else a text file, one name a line"
    )


class ImageParams(Params):
    """The frame in which an image is processed. Lengths in pixels."""

    short_side: int | None = Field(
        default=None, ge=16, description="the shorter side after resizing; 256 if there is no frame either"
    )
    frame: tuple[Annotated[int, Field(ge=16)], Annotated[int, Field(ge=16)]] | None = Field(
        None, description="[height, width], cut from the centre; without short_side the image is resized to cover it"
    )
    snap: int = Field(default=32, ge=1, description="both sides are cropped to a multiple of this (not with frame)")
    enlarge: bool = Field(default=False, description="enlarge images that are smaller than asked")
    max_pixels: int = Field(default=200_000_000, ge=1, description="larger images are refused by their header")
    max_bytes: int = Field(default=512 * 2**20, ge=1, description="larger files are refused unread")

    @model_validator(mode="before")
    @classmethod
    def _default_size(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("short_side") is None and values.get("frame") is None:
            return {**values, "short_side": 256}
        return values


ClassIndex = Annotated[int, Field(ge=0)]
ClassList = Annotated[list[ClassIndex | str], Field(min_length=1)]


Share = Annotated[float, Field(ge=0, le=1)]
Iterations = Annotated[int, Field(ge=1)]
Pooling = Literal["max", "average"]
Weight = Annotated[float, Field(ge=0, le=1e12)]
"""Of a loss; a larger one could make it overflow."""


class DreamLayer(Layer):
    """A layer to amplify: all of it, some channels, one position, or what it shares with a guide."""

    position: tuple[Share, Share] | None = Field(
        default=None, description="[down, across] as shares of the map's sides: the neurons at this place alone"
    )
    guide: str | None = Field(default=None, description="an image whose features are amplified here")


DreamLayerRef = Annotated[DreamLayer, BeforeValidator(_layer_from_name, json_schema_input_type=str | DreamLayer)]
DreamLayers = Annotated[list[DreamLayerRef], Field(min_length=1)]


class Stage(Params):
    """One dream: what to amplify, and how. Layers, guides and a class are added up, each with its weight."""

    layers: DreamLayers | None = Field(
        default=None,
        description="names or {name: …, weight: …, channels: […], position: …, guide: …}; "
        "null: the family's default, unless class is given",
    )
    guide: str | None = Field(default=None, description="of all layers that have no guide of their own")
    class_: ClassIndex | str | None = Field(
        None, alias="class", description="a class whose logit is amplified: name or index"
    )
    class_weight: float = Field(default=1.0, description="of the logit, beside layers")
    octaves: int = Field(default=4, ge=1, description="sizes dreamed at, from the coarsest to the full one")
    octave_scale: float = Field(default=1.4, gt=1, description="from one octave's size to the next")
    iterations: int = Field(default=10, ge=1, description="gradient steps an octave")
    step: float = Field(default=1.5, gt=0, description="mean change a step, in grey levels of 255")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="how the step falls over an octave; linear, cosine: towards zero"
    )
    jitter: int = Field(default=32, ge=0, description="largest random shift, in pixels")
    normalize: Literal["mean", "std", "laplacian"] = Field(
        default="mean",
        description="what a gradient is divided by: its mean size | its standard deviation | in each band of "
        "frequencies that band's own",
    )
    smoothing: float = Field(
        default=0.0, ge=0, le=64, description="pixels (sigma) by which a gradient is blurred, falling over an octave"
    )
    tv_weight: Share = Field(
        default=0.0,
        description="descent on the total variation of what is dreamt, each step; 1: to the neighbours' mean",
    )
    tile: int | None = Field(
        default=None, ge=64, description="largest side of what the network sees at once, which bounds memory"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Stage:
        if self.guide is not None and self.class_ is not None and self.layers is None:
            raise ValueError("a guide needs layers: name some, or leave out guide or class")
        if self.tile is not None and any(layer.position for layer in self.layers or ()):
            raise ValueError("a position is one of the whole image: leave out tile, or position")
        return self


class ChannelSheet(Params):
    """One output for each of a layer's channels, instead of what the stages say."""

    layer: str = Field(description="as `pixgrad layers MODEL` lists it")
    first: int = Field(default=0, ge=0, description="the first channel")
    count: int = Field(default=64, ge=1, le=4096, description="how many channels")


class DeepDreamParams(Params):
    """DeepDream: stages run one after the other, each on the result of the last."""

    init: Literal["image", "grey", "noise"] = Field(
        default="image", description="what is dreamed on; grey, noise: the image gives only the frame"
    )
    colors: Literal["free", "luminance", "histogram"] = Field(
        default="free",
        description="luminance: only lightness changes | histogram: colours have the image's mean and covariance",
    )
    pooling: Pooling = Field(default="max", description="average: what the network's max pooling layers do")
    channel_sheet: ChannelSheet | None = Field(
        default=None,
        description="{layer: …, first: 0, count: 64}: an output for each channel of a layer; stages then only say how",
    )
    stages: list[Stage] = Field(
        default_factory=lambda: [Stage.model_validate({})],
        min_length=1,
        description="one after the other, each on the result of the last",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> DeepDreamParams:
        if self.colors != "free" and self.init != "image":
            raise ValueError(f"a {self.init} start has no colours to keep: leave out colors, or init")
        aims = [stage for stage in self.stages if stage.guide is not None or stage.class_ is not None or stage.layers]
        if self.channel_sheet and aims:
            raise ValueError("a channel_sheet says what to amplify: leave out the stages' layers, guide and class")
        return self


class StyleParams(Params):
    """Neural style transfer."""

    styles: list[str] = Field(min_length=1, description="files, globs, folders or URIs")
    assign: str = Field(default="all", description="all (the grid) | random (by image identity) | cycle | a column")
    blend: list[Weight] | None = Field(
        default=None, min_length=1, description="weights, one a style: a mixture of them all instead of each alone"
    )
    strength: Share = Field(
        default=0.5, description="0: hardly touched, 1: nothing but style; style_weight times 100^(2 strength - 1)"
    )
    style_scale: float = Field(
        default=1.0, ge=0.1, le=4, description="size of the style's strokes: its image's short side over the content's"
    )
    content_layers: Layers | None = Field(default=None, description=_LAYERS)
    style_layers: Layers | None = Field(default=None, description=_LAYERS)
    content_weight: Weight = Field(default=1.0, description="of the features' squared error, relative to the content's")
    style_weight: Weight = Field(default=5.0, description="of the statistics' squared error, relative to the style's")
    tv_weight: Weight = Field(default=0.0, description="of neighbouring pixels' squared differences, per pixel")
    statistics: Literal["gram", "covariance"] = Field(
        default="gram", description="what makes a style: Gram matrices | means and covariances"
    )
    pooling: Pooling = Field(default="max", description="average: what the network's max pooling layers do")
    colors: Literal["free", "luminance", "histogram"] = Field(
        default="free",
        description="the content's colours are kept by luminance, which puts its chroma into the result, or "
        "histogram, which puts their mean and covariance into the style",
    )
    init: Literal["content", "noise", "grey"] = Field(default="content", description="what painting begins with")
    scales: int = Field(
        default=1, ge=1, le=8, description="sizes painted at, from coarse to the full one, each twice the last"
    )
    optimizer: Literal["lbfgs", "adam"] = Field(default="lbfgs", description="of each image on its own")
    iterations: Iterations | list[Iterations] = Field(
        default=300, description="most steps of the optimiser, at each scale; a list: one for each, the coarsest first"
    )
    plateau: Share = Field(
        default=0.0, description="an image is done when ten steps lower its loss by less than this share; 0: never"
    )
    history: int = Field(default=10, ge=1, description="L-BFGS pairs kept for each image")
    learning_rate: float = Field(default=0.02, gt=0, description="Adam only, in units of the pixel range")

    @model_validator(mode="after")
    def _layers_make_a_loss(self) -> StyleParams:
        for layers in (self.content_layers or [], self.style_layers or []):
            if len({layer.name for layer in layers}) < len(layers):
                raise ValueError("a layer can be named only once: join its channels in one list")
            if any(not 0 <= layer.weight <= 1e12 for layer in layers):
                raise ValueError("a layer's weight must be from 0 to 1e12: the loss must have a minimum")
        if not (self.content_weight or self.style_weight or self.tv_weight):
            raise ValueError("content_weight, style_weight and tv_weight are all 0: there is nothing to paint")
        return self

    @model_validator(mode="after")
    def _every_scale_has_iterations(self) -> StyleParams:
        numbers = self.iterations
        if isinstance(numbers, list) and len(numbers) != self.scales:
            raise ValueError(
                f"iterations lists {len(numbers)} numbers and scales is {self.scales}: "
                "list one for each scale, or give one number for all"
            )
        return self

    @model_validator(mode="after")
    def _blend_is_a_mixture(self) -> StyleParams:
        if self.blend is not None and self.assign != "all":
            raise ValueError("a blend is the one style of every image: leave out assign, or blend")
        if self.blend is not None and not sum(self.blend):
            raise ValueError("the weights of blend are all 0")
        return self

    def iterations_at(self, scale: int) -> int:
        """Most steps of the optimiser at a scale, the coarsest being 0."""
        return self.iterations[scale] if isinstance(self.iterations, list) else self.iterations


class TopK(Params):
    """The k most probable classes, each an output of its own."""

    top: int = Field(ge=1)


class Contrast(Params):
    """Why the first class and not the second: the objective of the one minus that of the other."""

    contrast: tuple[ClassIndex | str, ClassIndex | str] = Field(
        description="each is predicted | label | a class | runner_up (the most probable class besides the other)"
    )

    @model_validator(mode="after")
    def _two_classes(self) -> Contrast:
        if self.contrast[0] == self.contrast[1]:
            raise ValueError("a class can't be held against itself")
        return self


class Trapezoid(Params):
    """n intervals, n + 1 nodes, half weights at the ends."""

    trapezoid: int = Field(ge=1)


class Left(Params):
    """Left Riemann sum with n nodes."""

    left: int = Field(ge=1)


class Right(Params):
    """Right Riemann sum with n nodes."""

    right: int = Field(ge=1)


class Middle(Params):
    """Midpoint rule with n nodes."""

    middle: int = Field(ge=1)


class GaussLegendre(Params):
    """Gauss-Legendre quadrature with n nodes."""

    gauss_legendre: int = Field(ge=1)


FixedRule = Trapezoid | Left | Right | Middle | GaussLegendre


class Tolerance(Params):
    """When the adaptive rule stops: both must hold."""

    completeness: float = Field(default=0.05, gt=0, description="|delta| relative to |F(x) - F(x')|")
    map: float = Field(default=0.05, gt=0, description="estimated relative L1 error of the map")


class GivenBaseline(Params):
    """Images as baselines, each cut to the frame."""

    image: str = Field(min_length=1, description="a file, a glob, a folder or a URI")


class UniformBaseline(Params):
    """So many baselines of uniform noise in [0, 1], drawn for each output."""

    uniform: int = Field(ge=1)


class GaussianBaseline(Params):
    """So many copies of the image under Gaussian noise, drawn for each output and clipped to [0, 1]."""

    gaussian: int = Field(ge=1)
    sigma: float = Field(default=0.5, gt=0, description="of the noise, in units of the pixel range")


NamedBaseline = Literal["black", "white", "mean", "blur", "uniform", "gaussian"]
Baseline = NamedBaseline | GivenBaseline | UniformBaseline | GaussianBaseline


class SmoothGrad(Params):
    """The map is the mean over noisy copies of the image (Smilkov et al. 2017)."""

    copies: int = Field(default=16, ge=2)
    sigma: float = Field(default=0.1, gt=0, description="of the noise, in units of the pixel range")


class GradCam(Params):
    """Grad-CAM at a layer."""

    grad_cam: str = Field(description="a layer that gives a map")


class Occlusion(Params):
    """Occlusion by a square of the baseline."""

    occlusion: int = Field(ge=1, description="the square's side, in pixels")
    stride: int | None = Field(default=None, ge=1, description="null: half the side")


MethodName = Literal[
    "integrated_gradients",
    "saliency",
    "input_x_gradient",
    "guided_backprop",
    "deconvolution",
    "deep_lift",
    "occlusion",
    "grad_cam",
]
Method = MethodName | GradCam | Occlusion


class AuditParams(Params):
    """The axioms checked on the job's own network, on some of its images, when the run is complete."""

    sample: int = Field(default=4, ge=1, description="images, drawn by the job's seed")
    intervals: int = Field(default=8, ge=1, description="of the integrals whose fineness doesn't matter")
    randomisation: bool = Field(default=True, description="also how maps change as the network loses its weights")
    compile: bool = Field(default=False, description="also the network compiled by torch.compile, which takes minutes")


class AttributionParams(Params):
    """Integrated gradients, or another method."""

    method: Method = Field(
        default="integrated_gradients",
        description="integrated_gradients | deep_lift, or with the extra captum saliency | input_x_gradient | "
        "guided_backprop | deconvolution | grad_cam | {grad_cam: layer} | occlusion | {occlusion: side, stride: n}",
    )
    target: Literal["predicted", "label"] | ClassIndex | str | ClassList | TopK | Contrast = Field(
        default="predicted", description="predicted | label | a class | [a class, …] | {top: k} | {contrast: [a, b]}"
    )
    objective: Literal["logit", "softmax"] = Field(
        default="logit", description="what is shared out: the class's logit | its probability"
    )
    baseline: Baseline | Annotated[list[Baseline], Field(min_length=1)] = Field(
        default="black",
        description="black | white | mean | blur | {image: files} | {uniform: draws} | {gaussian: draws, sigma: s}, "
        "or a list, over which the map is averaged",
    )
    rule: Literal["adaptive"] | FixedRule = Field(
        default="adaptive",
        description="adaptive | {trapezoid: n} | {left: n} | {right: n} | {middle: n} | {gauss_legendre: n}",
    )
    tolerance: Tolerance = Tolerance.model_validate({})
    max_evaluations: int = Field(default=1025, ge=3, description="gradient evaluations a path, adaptive rule only")
    smooth: SmoothGrad | None = Field(default=None, description="null: the image alone; {copies: n, sigma: s}")
    measures: list[Literal["deletion", "insertion", "baseline"]] = Field(
        default=[], description="of each map: two areas under a curve; how far other baselines move it"
    )
    overlay: Literal["signed", "absolute"] = Field(
        default="signed", description="of the picture beside the map: what speaks for and against, or what counts"
    )
    audit: AuditParams | None = Field(
        default=None,
        description="null: none; {}: with its defaults, {sample: 4, intervals: 8, randomisation: true, compile: false}",
    )

    @property
    def baselines(self) -> list[Baseline]:
        """All baselines; a map is averaged over them."""
        return self.baseline if isinstance(self.baseline, list) else [self.baseline]


Section = DeepDreamParams | StyleParams | AttributionParams
"""The parameters of one of the three algorithms."""
