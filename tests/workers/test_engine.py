"""Batches of one shape, whatever their company, and what becomes of them when memory runs out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from workers.assembly import Item, Result
from workers.codec import Decoded, encode_png
from workers.engines.attribution import AttributionEngine
from workers.engines.base import Engine
from workers.engines.dream import DreamEngine
from workers.engines.style import StyleEngine
from workers.errors import DeviceError, ImageError
from workers.features import Network
from workers.params import AttributionParams, DeepDreamParams, ImageParams, ModelParams, Section, StyleParams
from workers.records import ImageRef, Output, Variant
from workers.setup import BatchPlan, Picture, WorkerSetup

BATCH = 4
SIDE = 32


class Small(nn.Module):
    """Two convolutions and a classifier; `fails` says which batches it doesn't take, and how."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
            self.classify = nn.Linear(8, 5)
        self.seen: list[int] = []
        self.most = BATCH
        self.error: Exception = RuntimeError("[enforce fail at alloc_cpu.cpp:1] you can't allocate memory")

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.classify(self.conv2(self.conv1(x).relu()).mean((2, 3)))


SECTIONS: dict[str, Section] = {
    "deepdream": DeepDreamParams.model_validate(
        {"stages": [{"layers": ["conv2"], "octaves": 1, "iterations": 2, "jitter": 4}]}
    ),
    "style": StyleParams.model_validate(
        {"styles": ["x"], "content_layers": ["conv1"], "style_layers": ["conv1", "conv2"], "iterations": 3}
    ),
    "attribution": AttributionParams.model_validate({"rule": {"trapezoid": 4}}),
    "sheet": DeepDreamParams.model_validate(
        {
            "init": "grey",
            "channel_sheet": {"layer": "conv2"},
            "stages": [{"octaves": 2, "iterations": 2, "jitter": 4, "smoothing": 1.0}],
        }
    ),
    "blend": StyleParams.model_validate(
        {
            "styles": ["x", "y"],
            "blend": [1, 2],
            "colors": "histogram",
            "scales": 2,
            "statistics": "covariance",
            "content_layers": ["conv1"],
            "style_layers": ["conv1", "conv2"],
            "iterations": 3,
        }
    ),
}
ENGINES: dict[type[Any], type[Engine]] = {
    DeepDreamParams: DreamEngine,
    StyleParams: StyleEngine,
    AttributionParams: AttributionEngine,
}


Make = Callable[[str], tuple[Engine, Small]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make an engine of a task, and give its network too."""
    styles = []
    for number in (98, 99):
        style = encode_png(item(number).decoded.pixels)
        path = tmp_path / f"{number}.png"
        path.write_bytes(style)
        styles.append(Picture(str(path), "style", hashlib.sha256(style).hexdigest()))
    return lambda kind: engine(kind, styles)


def engine(kind: str, styles: Sequence[Picture]) -> tuple[Engine, Small]:
    network = Small()
    setup = WorkerSetup(
        task="style",
        params=SECTIONS[kind],
        model=ModelParams(),
        min_side=4,
        categories=None,
        allow_code=False,
        images=ImageParams.model_validate({"frame": [SIDE, SIDE]}),
        source_root="/nowhere",
        source_columns=(),
        output="/nowhere",
        seed=7,
        device="cpu",
        precision="fp32",
        threads=2,
        batch=BatchPlan(images=BATCH, pixels=0, most=BATCH),
        styles=styles,
    )
    made = ENGINES[type(SECTIONS[kind])](setup, Network(network, [0.5] * 3, [0.2] * 3, input_side=SIDE))
    network.seen.clear()
    return made, network


def item(number: int, variant: int | str = "predicted", side: int = SIDE) -> Item:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    output = Output(ImageRef(f"{number}.png"), Variant("", variant))
    return Item(output, Decoded(pixels, side, side, (1, 0, 0, 0, 1, 0)), number)


def items(task: str, numbers: Sequence[int]) -> list[Item]:
    variants = {"style": 0, "blend": 0, "sheet": 3, "deepdream": ""}
    return [item(n, variants.get(task, "predicted")) for n in numbers]


def run(engine: Engine, items: Sequence[Item]) -> list[dict[str, bytes]]:
    """The files of each result, which must be one."""
    return [files for files, _ in encoded(engine.run(items, lambda: None))]


def encoded(results: Sequence[Result | ImageError]) -> list[tuple[dict[str, bytes], dict[str, object]]]:
    found = []
    for result in results:
        assert not isinstance(result, ImageError), result
        found.append(result.encode())
    return found


@pytest.mark.parametrize("task", list(SECTIONS))
def test_no_output_depends_on_its_company(make: Make, task: str) -> None:
    made, _ = make(task)
    alone = [run(made, items(task, [n]))[0] for n in range(6)]
    assert run(made, items(task, [0, 1, 2, 3])) == alone[:4]
    assert run(made, items(task, [5, 3, 0])) == [alone[5], alone[3], alone[0]]
    assert run(make(task)[0], items(task, [4, 5])) == alone[4:], "nor on what the worker did before"
    assert len({tuple(files.values()) for files in alone}) == 6


def test_a_sheet_has_a_picture_for_each_channel_whatever_else_is_on_it(make: Make) -> None:
    made, _ = make("sheet")
    alone = [run(made, [item(0, channel)])[0]["png"] for channel in range(6)]
    assert len(set(alone)) == 6
    assert [files["png"] for files in run(made, [item(0, channel) for channel in (5, 0, 3)])] == [
        alone[channel] for channel in (5, 0, 3)
    ]


def test_a_blend_is_told_with_all_its_styles(make: Make) -> None:
    [(_, columns)] = encoded(make("blend")[0].run(items("blend", [0]), lambda: None))
    assert [Path(uri).name for uri in str(columns["style_uri"]).split(" + ")] == ["98.png", "99.png"]
    assert columns["iterations"] == 6


def test_a_loss_that_is_no_number_fails_alone(make: Make) -> None:
    made, network = make("style")
    network.conv2.weight.data *= 1e30
    results = made.run(items("style", [0]), lambda: None)
    assert isinstance(results[0], ImageError) and results[0].code == "not_finite"


@pytest.mark.parametrize("task", list(SECTIONS))
def test_the_network_sees_batches_of_one_size(make: Make, task: str) -> None:
    made, network = make(task)
    for numbers in ([0], [1, 2, 3], [4, 5, 6, 7]):
        results = made.run(items(task, numbers), lambda: None)
        assert len(results) == len(numbers)
        assert {r.batch_shape for r in results if not isinstance(r, ImageError)} == {f"{BATCH}x3x{SIDE}x{SIDE}"}
    of_a_style = {1} if isinstance(SECTIONS[task], StyleParams) else set[int]()  # its targets
    assert set(network.seen) == {BATCH} | of_a_style


@pytest.mark.parametrize("task", list(SECTIONS))
@pytest.mark.parametrize("most", [1, 2])
def test_memory_that_runs_out_halves_the_batch_and_the_row_says_so(make: Make, task: str, most: int) -> None:
    made, network = make(task)
    network.most = most
    results = made.run(items(task, range(3)), lambda: None)
    assert [r.batch_shape for r in results if not isinstance(r, ImageError)] == [f"{most}x3x{SIDE}x{SIDE}"] * 3
    network.most = BATCH
    assert run(made, items(task, [0]))[0].keys() == encoded(results)[0][0].keys()


def test_memory_that_ran_out_is_remembered_and_what_was_done_is_kept(make: Make) -> None:
    made, network = make("style")
    network.most = 2
    made.run(items("style", range(3)), lambda: None)
    assert made.batch_size((SIDE, SIDE)) == 2
    network.seen.clear()
    made.run(items("style", range(4)), lambda: None)
    assert max(network.seen) == 2, "no batch is tried again that didn't fit"
    network.seen.clear()
    arrivals = iter([items("style", [2]), items("style", [3])])

    def more(count: int) -> Sequence[Item]:
        network.most = 1
        return next(arrivals, ())

    found = list(chain.from_iterable(made.stream(items("style", [0, 1]), lambda: None, more)))
    assert [item.seed for item, _ in found] == [0, 1, 2, 3]
    sizes = [int(r.batch_shape.split("x")[0]) for _, r in found if not isinstance(r, ImageError)]
    assert sizes == [2, 2, 1, 1]


def test_others_take_the_place_of_who_is_done(make: Make) -> None:
    made, network = make("style")
    alone = [run(made, items("style", [n]))[0] for n in range(6)]
    network.seen.clear()
    late = items("style", [4, 5])

    def more(count: int) -> Sequence[Item]:
        taken, late[:] = late[:count], late[count:]
        return taken

    found = list(chain.from_iterable(made.stream(items("style", [0, 1, 2, 3]), lambda: None, more)))
    assert [item.seed for item, _ in found] == [0, 1, 2, 3, 4, 5]
    assert [files for files, _ in encoded([result for _, result in found])] == alone
    assert network.seen == [BATCH] * 10, "features, the start and three steps, twice"


def test_memory_that_runs_out_over_one_image_is_told(make: Make) -> None:
    made, network = make("deepdream")
    network.most = 0
    with pytest.raises(MemoryError, match="allocate memory") as caught:
        made.run([item(0)], lambda: None)
    assert "\n" not in str(caught.value) and network.seen == [4, 2, 1]


def test_another_error_is_no_lack_of_memory(make: Make) -> None:
    made, network = make("deepdream")
    network.most, network.error = 0, RuntimeError("sizes don't match")
    with pytest.raises(RuntimeError, match="sizes don't match"):
        made.run([item(0)], lambda: None)
    assert network.seen == [4]


def test_a_device_that_takes_no_more_ends_the_process(make: Make) -> None:
    made, network = make("deepdream")
    network.most, network.error = 0, torch.AcceleratorError("an illegal memory access was encountered")
    with pytest.raises(DeviceError, match="illegal memory access"):
        made.run([item(0)], lambda: None)


def test_an_image_too_small_for_the_layers_fails_before_it_is_computed(make: Make) -> None:
    made, network = make("deepdream")
    [result] = made.run([item(0, side=3)], lambda: None)
    assert isinstance(result, ImageError) and result.code == "too_small" and not network.seen


def test_a_style_that_is_none_of_the_jobs_fails_alone(make: Make) -> None:
    made, _ = make("style")
    alone = run(made, items("style", [0]))
    results = made.run([item(1, "nobody"), item(0, 0)], lambda: None)
    assert isinstance(results[0], ImageError) and results[0].code == "unknown_style"
    assert [files for files, _ in encoded(results[1:])] == alone


def test_logits_that_are_not_finite_fail_their_image_alone(make: Make) -> None:
    made, network = make("attribution")
    alone = run(made, items("attribution", [1]))
    first = torch.from_numpy(item(0).decoded.pixels).permute(2, 0, 1).float().div(255)

    def poison(_network: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        same = ((inputs[0] * 0.2 + 0.5) - first).abs().amax((1, 2, 3)) < 1e-5
        return torch.where(same[:, None], torch.nan, logits)

    network.register_forward_hook(poison)
    failed, fine = made.run(items("attribution", [0, 1]), lambda: None)
    assert isinstance(failed, ImageError) and failed.code == "not_finite"
    assert [files for files, _ in encoded([fine])] == alone
