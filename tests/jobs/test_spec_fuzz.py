"""Whatever a job file holds, it is a job or a list of mistakes that name the file; it runs nothing, and stays small."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.mistakes import MOST_MISTAKES
from jobs.spec import JobFileError, dump_job, load_job

FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

DREAM = """\
name: pets
source: {uri: photos/, labels: folder}
output: runs/pets
model: {name: vgg19, preprocess: {mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]}}
images: {short_side: 256, snap: 32}
workers: {max: auto, gpus: 0.5}
deepdream:
  init: image
  stages:
    - &first {layers: [relu4_3, {name: relu5_1, weight: 2, channels: [3, 7]}], octaves: 4, iterations: 10}
    - {<<: *first, jitter: 0}
    - class: 281
"""
STYLE = """\
source: "photos/*.tar"
output: 's3://bucket/runs'
images: {frame: [224, 224], enlarge: true}
units: {size: 8}
style:
  styles:
  - a.jpg
  - >-
    a folded
    name.jpg
  style_layers: [relu1_1, relu2_1]
  optimizer: adam
  iterations: 3e2
"""
ATTRIBUTION = """\
source: {uri: photos.parquet, labels: species}
output: runs/ig
precision: fp32
max_failed: 1e-3
seed: 0x7f
attribution:
  target: {top: 3}
  rule: {gauss_legendre: 50}
  tolerance: {completeness: .05, map: 0.05}
"""
JOBS = (DREAM, STYLE, ATTRIBUTION)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mistakes_in(data: str | bytes, *overrides: str) -> list[str]:
    """The mistakes in a job file; none if it loads, and as the same job again when it is written back."""
    Path("job.yaml").write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    try:
        config = load_job("job.yaml", overrides)
    except JobFileError as error:
        lines = str(error).split("\n")
        assert all(line.startswith(("job.yaml:", "--set ") if overrides else "job.yaml:") for line in lines)
        return lines
    Path("again.yaml").write_text(dump_job(config), encoding="utf-8")
    assert load_job("again.yaml") == config
    return []


@pytest.mark.parametrize("text", JOBS)
def test_the_jobs_to_be_damaged_are_whole(text: str) -> None:
    assert mistakes_in(text) == []


@FUZZ
@given(st.binary(max_size=300) | st.text(max_size=300) | st.text("[]{}:,-?&*!|>'\"%@`#~<=. \n\tab01", max_size=60))
def test_anything_at_all(data: str | bytes) -> None:
    assert mistakes_in(data)


@FUZZ
@given(st.sampled_from(JOBS), st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=2)), max_size=4))
def test_bytes_in_a_job(text: str, changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(text.encode())
    for place, new in changes:
        data[place % len(data) :][: len(new)] = new
        data[place % len(data) : place % len(data) + len(new)] = new
    mistakes_in(bytes(data))


def drop(lines: list[str], at: int, _to: int) -> None:
    del lines[at]


def double(lines: list[str], at: int, to: int) -> None:
    lines.insert(to, lines[at])


def swap(lines: list[str], at: int, to: int) -> None:
    lines[at], lines[to] = lines[to], lines[at]


def indent(lines: list[str], at: int, to: int) -> None:
    lines[at] = " " * (to % 5) + lines[at].lstrip()


def splice(lines: list[str], at: int, to: int) -> None:
    lines[at] = lines[at][: len(lines[at]) // 2] + lines[to][len(lines[to]) // 2 :]


EDITS = st.tuples(st.sampled_from([drop, double, swap, indent, splice]), st.integers(0, 99), st.integers(0, 99))


@FUZZ
@given(st.sampled_from(JOBS), st.sampled_from(JOBS), st.lists(EDITS, max_size=5))
def test_lines_of_jobs_in_another_order(
    text: str, other: str, edits: Sequence[tuple[Callable[[list[str], int, int], None], int, int]]
) -> None:
    lines = text.splitlines() + other.splitlines() * (len(edits) % 2)
    for edit, at, to in edits:
        edit(lines, at % len(lines), to % len(lines))
    mistakes_in("\n".join(lines))


WORDS = st.sampled_from(
    [
        "",
        "auto",
        "adaptive",
        "name",
        "uri",
        "labels",
        "stages",
        "layers",
        "style",
        "styles",
        "rule",
        "left",
        "top",
        "min",
    ]
)
SCALARS = (
    st.none() | st.booleans() | WORDS | st.text(max_size=8) | st.integers(-3, 300) | st.integers() | st.floats(width=64)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=3)
)
WHOLE = [
    {"source": "a", "output": "b", "deepdream": {"stages": [{"layers": ["x", {"name": "y"}]}, {"class": 3}]}},
    {"source": {"uri": "a"}, "output": "b", "images": {"frame": [32, 32]}, "style": {"styles": ["c"], "history": 3}},
    {"source": "a", "output": "b", "seed": 3, "attribution": {"target": ["cat", 3], "rule": {"left": 3}}},
]


def containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(each for item in inner for each in containers(item))] if isinstance(value, (dict, list)) else []


@FUZZ
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), WORDS, VALUES), max_size=3))
def test_any_value_at_any_key(values: Any, changes: Sequence[tuple[int, int, str, Any]]) -> None:
    values = copy.deepcopy(values)
    for which, place, word, new in changes:
        inside = containers(values)[which % len(containers(values))]
        keys = [*inside, word] if isinstance(inside, dict) else range(len(inside))
        if keys:
            inside[keys[place % len(keys)]] = new
    mistakes_in(json.dumps(values, ensure_ascii=False))


PATHS = st.lists(WORDS | st.sampled_from(["0", "1", "٣", "9" * 5000]) | st.text(max_size=3), max_size=5).map(".".join)


@FUZZ
@given(st.sampled_from(JOBS), PATHS, st.text(max_size=10) | VALUES.map(json.dumps))
def test_any_override(text: str, path: str, value: str) -> None:
    mistakes_in(text, f"{path}={value}")


@pytest.mark.parametrize("path", ["a." * 5000 + "b", "style.styles." + "9" * 5000, "style.styles.0" + ".0" * 5000])
def test_an_override_that_leads_nowhere_is_one_sentence(path: str) -> None:
    assert len(mistakes_in(STYLE, f"{path}=x")) == 1


CODE = [
    "!!python/object/apply:os.system ['touch escaped']",
    "!!python/object/new:subprocess.check_output [[touch, escaped]]",
    "!!python/name:os.system",
    "!!python/module:antigravity",
    "!!python/tuple [1, 2]",
    "!!python/object/apply:builtins.exec [\"open('escaped', 'w')\"]",
    "!<tag:yaml.org,2002:python/object/apply:os.system> [touch escaped]",
    "!!omap [a: 1]",
    "!!set {a, b}",
    "!include /etc/passwd",
]


@pytest.mark.parametrize("code", CODE)
def test_tags_make_nothing_and_run_nothing(here: Path, code: str) -> None:
    Path("nothing.yaml").write_text(STYLE)
    for text in (code, STYLE.replace("8", code), STYLE.replace("[relu1_1, relu2_1]", code), f"? {code}\n: 1\n"):
        [sentence] = mistakes_in(text)
        assert "tag" in sentence or "keys must be text" in sentence or "not valid YAML" in sentence
    assert any("is not allowed" in line for line in mistakes_in(STYLE, f"units.size={code}"))
    assert {path.name for path in here.iterdir()} == {"job.yaml", "nothing.yaml"}


LONG = "x" * 500_000
BOMBS = {
    "a long text many times": f"{STYLE}a: &a {LONG}\nb: [{'*a, ' * 20_000}]\n",
    "a long text where a number is wanted": f"{DREAM}seed: [&a {LONG}{', *a' * 20_000}]\n",
    "a long text in every layer": STYLE.replace("[relu1_1,", f"[&a {LONG}, {'{name: *a, weight: *a}, ' * 5000}"),
    "aliases of aliases": STYLE + "x0: &x0 {a: 1}\n" + "".join(
        f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 20)
    ),
    "merges of merges": STYLE + "x0: &x0 {a: 1}\n" + "".join(
        f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}\n" for n in range(1, 20)
    ),
    "itself": STYLE + "x: &x {y: *x, <<: *x}\n",
    "many unknown keys": STYLE + "".join(f"iteration{n}: 1\n" for n in range(5000)),
    "many mistakes": STYLE.replace("[relu1_1,", "[" + "0, " * 5000),
    "a long number": STYLE + f"seed: 0x{'f' * 500_000}\n",
    "deep": STYLE + "x: " + "[" * 100_000,
    "deeper": STYLE + "x:\n" + "".join("  " * n + "- \n" for n in range(1, 500)),
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_stays_small(load_helper: Callable[[str], SimpleNamespace], bomb: str) -> None:
    peak_memory = load_helper("damage").peak_memory
    held = peak_memory()
    mistakes = mistakes_in(BOMBS[bomb])
    assert 0 < len(mistakes) <= MOST_MISTAKES and max(map(len, mistakes)) < 1000
    assert peak_memory() - held < 300 * 2**20
