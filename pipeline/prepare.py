"""A job made ready to run: defaults, layers, classes, weights, pictures and source looked up. No torch, no Ray.

Everything that can be wrong with a job without looking at its images is found here, before a worker starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from pipeline.config import JobConfig
from pipeline.listing import SourceError
from pipeline.patterns import absolute
from pipeline.pictures import PictureError, find_pictures
from pipeline.plan import RESERVED, Plan, Variants
from pipeline.provenance import check_same_job, read_run
from pipeline.source import Source, open_source
from pipeline.variants import variants_of
from workers.batching import Frame
from workers.description import ModelDescription, PreparedModel, prepare_model
from workers.errors import ModelError, PixgradError
from workers.geometry import picture_params
from workers.layers import LOGITS
from workers.layout import HIDDEN_RUN, RUN
from workers.octaves import smallest_octave, style_sizes
from workers.params import (
    AttributionParams,
    Baseline,
    ChannelSheet,
    Contrast,
    DeepDreamParams,
    DreamLayer,
    GivenBaseline,
    GradCam,
    ImageParams,
    Layer,
    Method,
    Occlusion,
    Section,
    Stage,
    StyleParams,
    TopK,
)
from workers.records import reserved_columns
from workers.setup import Picture
from workers.storage import MissingError, Store, open_store
from workers.weights import is_file

T = TypeVar("T", Stage, DreamLayer)

CHOSEN_BY_IMAGE = ("predicted", "label", "runner_up")
"""Sides of a contrast that are not the same class for every image."""


class JobError(PixgradError):
    """The job asks for something that can't be; `key` leads to the value that says so."""

    def __init__(self, sentence: str, *key: str):
        super().__init__(sentence)
        self.key = key


@contextmanager
def _at(*key: str) -> Iterator[None]:
    """What is found wrong inside is said of this key."""
    try:
        yield
    except (ModelError, SourceError, PictureError, MissingError) as error:
        raise JobError(str(error), *key) from error


def _open_source(config: JobConfig) -> Source:
    own = config.output.removesuffix(f"/{HIDDEN_RUN}")
    try:
        return open_source(config.source, reserved=reserved_columns(config.task) | RESERVED, exclude=own)
    except SourceError as error:
        raise JobError(str(error), "source", error.key) from error
    except MissingError as error:
        raise JobError(str(error), "source", "uri") from error


@dataclass(frozen=True)
class PreparedJob:
    """A job with nothing left to look up. `config` has layers and classes resolved and local paths absolute."""

    config: JobConfig
    model: PreparedModel
    layers: tuple[str, ...]
    styles: tuple[Picture, ...]
    guides: Mapping[str, Picture]
    source: Source
    variants: Variants
    store: Store
    allow_code: bool
    baselines: tuple[tuple[Picture, ...], ...] = ()

    @property
    def title(self) -> str:
        """What the job is, for people."""
        return f"{self.config.name}: {self.config.task} with {self.config.model.name}"

    @property
    def min_side(self) -> int:
        """The smallest side in pixels that the network takes at the layers used."""
        return self.model.description.min_side(self.layers)

    def plan(self) -> Plan:
        """The run's plan."""
        return Plan(self.store, self.variants, self.config.units.size, self.source.columns)

    def check_source(self) -> None:
        """Raise SourceError, before anything is written, if a run that is still to begin would have no image."""
        if not self.store.exists(RUN):
            next(self.source.images())

    def own_run(self) -> dict[str, Any] | None:
        """What the output's `run.json` says, None on a fresh folder. Raises OtherJobError if it is another job's."""
        before = read_run(self.store)
        if before:
            asked = self.config.precision
            precision = before["fixed"]["precision"] if asked == "auto" else asked
            check_same_job(self.store, before, self.fingerprint_fields(precision))
        return before

    def fingerprint_fields(self, precision: str) -> dict[str, Any]:
        """What the run must keep (promise 6): what the job's names stand for, not the names."""
        fields = self.config.model_copy(update={"precision": precision}).fingerprint_fields()
        fields["model"] |= {"weights": self.model.weights.sha256, "classes": self.model.description.categories}
        section = fields[self.config.task]
        if self.config.task == "style":
            section["styles"] = [[style.name, style.sha256] for style in self.styles]
        if self.config.task == "deepdream":
            contents = {named: guide.sha256 for named, guide in self.guides.items()}
            for stage in section["stages"]:
                for layer in (stage, *(stage["layers"] or ())):
                    layer["guide"] = contents.get(layer["guide"])
        if isinstance(section_params := self.config.section, AttributionParams):
            given = iter(self.baselines)
            section["baseline"] = [_identity(baseline, given) for baseline in section_params.baselines]
        return fields


def prepare(config: JobConfig, *, allow_code: bool = False) -> PreparedJob:
    """Look everything up. Raises PixgradError (ModelError, SourceError, JobError, ...) with what is wrong."""
    config = with_absolute_paths(config)
    source = _open_source(config)
    _check_job(config, source)
    with _at("model"):
        model = prepare_model(config.model, allow_code=allow_code)
    section, layers = _resolve(config, model.description)
    config = config.model_copy(update={config.task: section})
    min_side = model.description.min_side(layers)
    _check_frame(config, model.description, min_side)
    styles = _styles(section, config.images, min_side)
    return PreparedJob(
        config=config,
        model=model,
        layers=layers,
        styles=tuple(styles),
        guides=_guides(section, config.images, min_side),
        baselines=_baselines(section, picture_params(config.images)),
        source=source,
        variants=variants_of(config, styles),
        store=open_store(config.output),
        allow_code=allow_code,
    )


def with_absolute_paths(config: JobConfig) -> JobConfig:
    """The job as it means the same from any folder."""
    model, section = config.model, config.section
    if is_file(model.weights):
        model = model.model_copy(update={"weights": absolute(model.weights)})
    if model.classes is not None:
        model = model.model_copy(update={"classes": absolute(model.classes)})
    if isinstance(section, StyleParams):
        section = section.model_copy(update={"styles": [absolute(style) for style in section.styles]})
    if isinstance(section, DeepDreamParams):
        section = section.model_copy(update={"stages": [_with_absolute_guides(stage) for stage in section.stages]})
    if isinstance(section, AttributionParams):
        given = section.baseline
        paths = list(map(_with_absolute_path, given)) if isinstance(given, list) else _with_absolute_path(given)
        section = section.model_copy(update={"baseline": paths})
    source = config.source.model_copy(update={"uri": absolute(config.source.uri)})
    changed = {"output": absolute(config.output), "source": source, "model": model, config.task: section}
    return config.model_copy(update=changed)


def _with_absolute_path(baseline: Baseline) -> Baseline:
    return GivenBaseline(image=absolute(baseline.image)) if isinstance(baseline, GivenBaseline) else baseline


def _with_absolute_guides(stage: Stage) -> Stage:
    def moved(owner: T) -> T:
        return owner.model_copy(update={"guide": absolute(owner.guide)}) if owner.guide else owner

    layers = [moved(layer) for layer in stage.layers] if stage.layers else None
    return moved(stage.model_copy(update={"layers": layers}))


def _resolve(config: JobConfig, model: ModelDescription) -> tuple[Section, tuple[str, ...]]:
    """The algorithm's section with its layers and classes looked up, and the layers that will be computed."""
    match config.section:
        case DeepDreamParams() as dream:
            _check_pooling("deepdream", dream.pooling, model)
            if dream.channel_sheet:
                return dream, (_check_sheet(dream.channel_sheet, model),)
            stages = [_resolve_stage(stage, number, model) for number, stage in enumerate(dream.stages)]
            layers = [layer.name for stage in stages for layer in stage.layers or ()]
            classes = [LOGITS for stage in stages if stage.class_ is not None]
            return dream.model_copy(update={"stages": stages}), (*layers, *classes)
        case StyleParams() as style:
            _check_pooling("style", style.pooling, model)
            with _at("style", "content_layers"):
                content = style.content_layers or [Layer(name=name) for name in model.defaults("content")]
                model.check_layers(content, maps_only=True)
            with _at("style", "style_layers"):
                styles = style.style_layers or [Layer(name=name) for name in model.defaults("style")]
                model.check_layers(styles, maps_only=True)
            resolved = style.model_copy(update={"content_layers": content, "style_layers": styles})
            return resolved, tuple(layer.name for layer in [*content, *styles])
        case attribution:
            with _at("attribution", "target"):
                resolved = {"target": _resolve_target(attribution, model)}
            with _at("attribution", "method"):
                resolved["method"] = _resolve_method(attribution.method, model)
            return attribution.model_copy(update=resolved), (LOGITS,)


def _resolve_stage(stage: Stage, number: int, model: ModelDescription) -> Stage:
    """The stage with its class by index, its layers named, and each layer with the guide that it goes by."""
    place = ("deepdream", "stages", str(number))
    changed: dict[str, Any] = {}
    if stage.class_ is not None:
        with _at(*place, "class"):
            changed["class_"] = model.class_index(stage.class_)
    if stage.layers or stage.class_ is None:
        with _at(*place, "layers"):
            layers = stage.layers or [DreamLayer(name=name) for name in model.defaults("deepdream")]
            layers = [layer.model_copy(update={"guide": layer.guide or stage.guide}) for layer in layers]
            for layer in layers:
                model.check_layers([layer], maps_only=bool(layer.guide or layer.position))
            changed["layers"] = layers
    return stage.model_copy(update=changed)


def _check_pooling(task: str, pooling: str, model: ModelDescription) -> None:
    if pooling == "average" and not any(layer.kind == "MaxPool2d" for layer in model.layers):
        raise JobError(f"{model.name} has no max pooling layers that could average; set max", task, "pooling")


def _check_sheet(sheet: ChannelSheet, model: ModelDescription) -> str:
    with _at("deepdream", "channel_sheet"):
        channels = list(range(sheet.first, sheet.first + sheet.count))
        model.check_layers([Layer(name=sheet.layer, channels=channels)], maps_only=True)
    return sheet.layer


def _resolve_target(params: AttributionParams, model: ModelDescription) -> Any:
    classes = model.layer(LOGITS).channels or 0
    match params.target:
        case TopK(top=k) if k > classes:
            raise ModelError(f"the top {k} of {classes} classes can't be had; ask for fewer")
        case TopK() | "predicted" | "label":
            return params.target
        case Contrast(contrast=sides):
            sides = [side if side in CHOSEN_BY_IMAGE else model.class_index(side) for side in sides]
            if sides[0] == sides[1]:
                raise ModelError("both sides of the contrast are the same class")
            return Contrast(contrast=(sides[0], sides[1]))
        case list(names):
            indices = [model.class_index(name) for name in names]
            if len(set(indices)) < len(indices):
                raise ModelError("a class is named twice; name each once")
            return indices
        case name:
            return model.class_index(name)


def _resolve_method(method: Method, model: ModelDescription) -> Method:
    if method not in ("integrated_gradients", "deep_lift") and find_spec("captum") is None:
        raise ModelError("this method comes from Captum, which isn't installed: pip install 'pixgrad[captum]'")
    if method == "occlusion":
        return Occlusion(occlusion=max(1, model.input_side // 8))
    if method == "grad_cam":
        return GradCam(grad_cam=[layer.name for layer in model.layers if layer.stride is not None][-1])
    if isinstance(method, GradCam):
        model.check_layers([Layer(name=method.grad_cam)], maps_only=True)
    return method


def _styles(section: Section, images: ImageParams, min_side: int) -> list[Picture]:
    if not isinstance(section, StyleParams):
        return []
    coarsest = 2 ** (section.scales - 1)
    with _at("style", "styles"):
        styles = find_pictures(section.styles, picture_params(images, section.style_scale), min_side * coarsest)
    if section.blend and len(section.blend) != len(styles):
        count = len(section.blend)
        raise JobError(f"blend has {count} weights for {len(styles)} styles; give one for each", "style", "blend")
    return styles


def _guides(section: Section, images: ImageParams, min_side: int) -> dict[str, Picture]:
    """The guides of a dream, by what its layers call them."""
    found: dict[str, Picture] = {}
    for number, stage in enumerate(section.stages if isinstance(section, DeepDreamParams) else ()):
        for position, layer in enumerate(stage.layers or ()):
            if layer.guide and layer.guide not in found:
                own = () if layer.guide == stage.guide else ("layers", str(position))
                with _at("deepdream", "stages", str(number), *own, "guide"):
                    found[layer.guide] = find_pictures([layer.guide], picture_params(images), min_side)[0]
    return found


def _baselines(section: Section, images: ImageParams) -> tuple[tuple[Picture, ...], ...]:
    """The images that each given baseline names."""
    if not isinstance(section, AttributionParams):
        return ()
    with _at("attribution", "baseline"):
        given = [baseline for baseline in section.baselines if isinstance(baseline, GivenBaseline)]
        return tuple(tuple(find_pictures([baseline.image], images)) for baseline in given)


def _identity(baseline: Baseline, given: Iterator[tuple[Picture, ...]]) -> Any:
    """A baseline for the fingerprint: images by what is in them."""
    if isinstance(baseline, GivenBaseline):
        return {"images": [picture.sha256 for picture in next(given)]}
    return baseline if isinstance(baseline, str) else baseline.model_dump(mode="json")


def _check_job(config: JobConfig, source: Source) -> None:
    if config.attribution and config.precision == "bf16":
        raise JobError("attribution needs fp32, since bf16 moves a map by 40 %; set auto or fp32", "precision")
    assign = config.style.assign if config.style else "all"
    names = [column.name for column in source.columns]
    if assign not in ("all", "random", "cycle") and assign not in names:
        has = f"has the columns {', '.join(names)}" if names else "has no columns"
        sentence = f"{assign!r} is neither all, random nor cycle, nor a column of the source, which {has}"
        raise JobError(sentence, "style", "assign")
    if config.attribution and _needs_label(config.attribution.target) and not config.source.labels:
        raise JobError("the source has no labels; set source.labels to folder or a column", "attribution", "target")


def _needs_label(target: Any) -> bool:
    return target == "label" or (isinstance(target, Contrast) and "label" in target.contrast)


def _check_frame(config: JobConfig, model: ModelDescription, min_side: int) -> None:
    """No image can be larger than asked, so a job whose largest frame is too small for the network can be told so."""
    images, side = config.images, model.input_side
    if model.fixed_side and images.frame != (side, side):
        name = config.model.name
        raise JobError(f"{name} takes {side} x {side} pixels only; set frame: [{side}, {side}]", "images")
    smallest = _smallest_input(config, images.frame or (images.short_side or 0, images.short_side or 0))
    if min(smallest) < min_side:
        raise JobError(
            f"the network needs {min_side} x {min_side} pixels at these layers and would be given "
            f"{smallest[1]} x {smallest[0]}: choose earlier layers, fewer octaves or scales, "
            "larger tiles or a larger images.short_side",
            "images",
        )


def _smallest_input(config: JobConfig, frame: Frame) -> Frame:
    match config.section:
        case DeepDreamParams(stages=stages):
            return smallest_octave(*frame, stages)
        case StyleParams(scales=scales):
            return style_sizes(*frame, scales)[0]
        case _:
            return frame
