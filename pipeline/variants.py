"""Which outputs are asked for per image: each style of a grid, each target of an attribution, or just one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import JobConfig
from pipeline.plan import Variants
from workers.params import AttributionParams, ChannelSheet, Contrast, DeepDreamParams, StyleParams, TopK
from workers.records import ImageRef, Variant, output_key, output_seed
from workers.setup import Picture


@dataclass(frozen=True)
class Grid:
    """The same variants for every image."""

    variants: tuple[Variant, ...]

    @property
    def names(self) -> Sequence[str]:
        """The variants' names."""
        return [variant.name for variant in self.variants]

    def of(self, image: ImageRef, position: int) -> Sequence[Variant]:
        """All of them."""
        return self.variants


@dataclass(frozen=True)
class RandomStyle:
    """One of `styles` styles for each image, drawn by the image's identity and the run's seed."""

    styles: int
    seed: int
    names: Sequence[str] = ("",)

    def of(self, image: ImageRef, position: int) -> Sequence[Variant]:
        """The style drawn; the same wherever the image stands in the listing."""
        identity = output_key(image.uri, image.member, "style")
        return (Variant("", output_seed(self.seed, identity) % self.styles),)


@dataclass(frozen=True)
class StyleCycle:
    """The styles in turn, in the order of the frozen listing."""

    styles: int
    names: Sequence[str] = ("",)

    def of(self, image: ImageRef, position: int) -> Sequence[Variant]:
        """The style whose turn it is."""
        return (Variant("", position % self.styles),)


@dataclass(frozen=True)
class StyleColumn:
    """The style that a column of the source's table names, by its name or URI."""

    column: str
    styles: Mapping[str, int]
    names: Sequence[str] = ("",)

    def of(self, image: ImageRef, position: int) -> Sequence[Variant]:
        """The style named, or a value that is none of the styles: its row will say so."""
        wanted = str(image.columns.get(self.column))
        return (Variant("", self.styles.get(wanted, wanted)),)


def _by_name(styles: Sequence[Picture]) -> dict[str, int]:
    """The position of each style by its name and its URI, the first where two say the same."""
    backwards = reversed(list(enumerate(styles)))
    return {word: i for i, style in backwards for word in (style.uri, style.name)}


def variants_of(config: JobConfig, styles: Sequence[Picture]) -> Variants:
    """The variants that a job asks for; `styles` are its style images, in order."""
    match config.section:
        case StyleParams(blend=list()):
            return Grid((Variant("", 0),))
        case StyleParams(assign="all"):
            return Grid(tuple(Variant(style.name, i) for i, style in enumerate(styles)))
        case StyleParams(assign="random"):
            return RandomStyle(len(styles), config.seed)
        case StyleParams(assign="cycle"):
            return StyleCycle(len(styles))
        case StyleParams(assign=column):
            return StyleColumn(column, _by_name(styles))
        case DeepDreamParams(channel_sheet=ChannelSheet(layer=layer, first=first, count=count)):
            return Grid(tuple(Variant(f"{layer}-{channel:04d}", channel) for channel in range(first, first + count)))
        case AttributionParams(target=TopK(top=k)):
            return Grid(tuple(Variant(f"top{rank + 1}", f"top:{rank}") for rank in range(k)))
        case AttributionParams(target=list(classes)):
            return Grid(tuple(Variant(f"class-{c}", c) for c in classes))
        case AttributionParams(target=Contrast(contrast=(a, b))):
            return Grid((Variant("", f"contrast:{a}:{b}"),))
        case AttributionParams(target=str() | int() as target):
            return Grid((Variant("", target),))
        case _:
            return Grid((Variant(""),))
