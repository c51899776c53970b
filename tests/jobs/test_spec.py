from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.document import MAX_VALUES, read_document
from jobs.mistakes import find_mistakes
from jobs.spec import JobFileError, dump_job, json_schema, load_job
from pipeline.config import JobConfig
from workers.errors import PixgradError
from workers.params import Stage, StyleParams

DREAM = """\
name: pets
source: {uri: photos/, labels: null}
output: runs/pets
model:
  name: vgg19
  weights: DEFAULT
  preprocess: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}
  classes: null
images: {short_side: 256, snap: 32}
units: {size: 64}
workers: {min: 0, max: auto, gpus: auto, batch: auto}
precision: auto
max_failed: 0.01
seed: 0
deepdream:
  init: image
  stages:
    - {layers: [relu4_3], guide: null, class: null, octaves: 4, octave_scale: 1.4, iterations: 10, jitter: 32}
    - layers:
        - name: relu5_1
          weight: 0.5
          channels: [3, 7]
        - relu4_1
"""

STYLE = """\
source: photos/
output: runs/styled
images: {frame: [224, 224]}
style:
  styles: ["paintings/*.jpg"]
  assign: all
  content_layers: [relu4_2]
  style_layers: [relu1_1, relu2_1, {name: relu3_1, weight: 2}]
  init: content
  optimizer: lbfgs
  iterations: 300
"""

ATTRIBUTION = """\
source: {uri: "s3://bucket/photos.parquet", labels: class}
output: s3://bucket/runs/ig
workers: {gpus: 0.5, batch: 8}
precision: fp32
attribution:
  target: {top: 3}
  objective: logit
  baseline: black
  rule: {gauss_legendre: 50}
  tolerance: {completeness: 0.05, map: 0.05}
  max_evaluations: 1025
"""

EXAMPLES = {"deepdream": DREAM, "style": STYLE, "attribution": ATTRIBUTION}
MINIMAL = "source: photos\noutput: out\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str, *overrides: str) -> JobConfig:
    Path("job.yaml").write_text(text, encoding="utf-8")
    return load_job("job.yaml", overrides)


def mistakes_in(text: str, *overrides: str) -> list[str]:
    with pytest.raises(JobFileError) as caught:
        load(text, *overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("task", EXAMPLES)
def test_an_example_of_each_task_is_read(here, task):
    config = load(EXAMPLES[task])
    assert config.task == task
    assert config.section is getattr(config, task)
    assert config.source.uri


def test_values_are_read_as_written(here):
    config = load(DREAM)
    assert config.deepdream is not None
    first, second = config.deepdream.stages
    assert first.layers is not None and first.layers[0].name == "relu4_3"
    assert second.layers is not None and (second.layers[0].weight, second.layers[0].channels) == (0.5, [3, 7])
    assert config.model.preprocess is not None and config.model.preprocess.mean == (0.485, 0.456, 0.406)
    assert load(STYLE).source.uri == "photos/"
    assert load(ATTRIBUTION).workers.gpus == 0.5


def test_yaml_is_version_1_2(here):
    text = "source: no\noutput: 2024-01-01\nmax_failed: 1e-3\nstyle: {styles: [on, 12:30:00], iterations: 1e3}\n"
    config = load(text)
    assert (config.source.uri, config.output, config.max_failed) == ("no", "2024-01-01", 1e-3)
    assert config.style is not None and config.style.styles == ["on", "12:30:00"] and config.style.iterations == 1000


def test_a_job_without_a_name_has_its_outputs_or_its_files_where_that_is_hidden(here):
    assert load(STYLE).name == "styled"
    assert load(STYLE.replace("runs/styled", "s3://bucket/runs/cats.v2/")).name == "cats.v2"
    Path("cats.v3.yaml").write_text(STYLE.replace("runs/styled", "out/.pixgrad"))
    assert load_job("cats.v3.yaml").name == "cats.v3"


def test_a_byte_order_mark_is_no_part_of_the_text(here):
    Path("job.yaml").write_bytes(b"\xef\xbb\xbf" + STYLE.encode())
    assert load_job(Path("job.yaml")).task == "style"


def test_aliases_and_merges_repeat_what_they_name(here):
    stages = "deepdream:\n  stages:\n    - &first {layers: [a], iterations: 3}\n    - *first\n"
    config = load(MINIMAL + stages + "    - {iterations: 5, <<: *first, octaves: 2}\n")
    assert config.deepdream is not None
    one, two, three = config.deepdream.stages
    assert one == two and three == one.model_copy(update={"iterations": 5, "octaves": 2})


STYLE_KEYS = ", ".join(StyleParams.model_fields)
STAGE_KEYS = ", ".join(Stage.model_fields).replace("class_,", "class,")
N = "a whole number of at least 1"
RULES = f"{{trapezoid: {N}}}, {{left: {N}}}, {{right: {N}}}, {{middle: {N}}} or {{gauss_legendre: {N}}}"

WRONG_VALUES = {
    "unknown key": (
        STYLE.replace("optimizer:", "optimiser:"),
        f'job.yaml:10: style.optimiser: unknown key, did you mean "optimizer"? Known keys: {STYLE_KEYS}',
    ),
    "unknown key, like none": (
        STYLE + "  xyzzy: 1\n",
        f"job.yaml:12: style.xyzzy: unknown key. Known keys: {STYLE_KEYS}",
    ),
    "unknown key in a stage": (
        DREAM.replace("jitter: 32", "jiter: 32"),
        f'job.yaml:18: deepdream.stages.0.jiter: unknown key, did you mean "jitter"? Known keys: {STAGE_KEYS}',
    ),
    "unknown key in a layer of a stage": (
        DREAM.replace("weight: 0.5", "wieght: 0.5"),
        'job.yaml:21: deepdream.stages.1.layers.0.wieght: unknown key, did you mean "weight"? '
        "Known keys: name, weight, channels, position, guide",
    ),
    "unknown key of two lines": (
        STYLE + '  "a\\nb": 1\n',
        f"job.yaml:12: style.a b: unknown key. Known keys: {STYLE_KEYS}",
    ),
    "misspelt section": (
        STYLE.replace("style:\n", "styel:\n"),
        'job.yaml:4: styel: unknown key, did you mean "style"? Known keys: name, source, output, model, images, units, '
        "workers, precision, max_failed, seed, deepdream, style, attribution",
    ),
    "misspelt required key": (
        ATTRIBUTION.replace("uri:", "url:"),
        'job.yaml:1: source.url: unknown key, did you mean "uri"? Known keys: uri, labels',
    ),
    "text for a number": (DREAM.replace("64", '"64"'), f'job.yaml:10: units.size: expected {N}, not "64"'),
    "boolean for a number": (DREAM.replace("64", "true"), f"job.yaml:10: units.size: expected {N}, not true"),
    "fraction for a whole number": (DREAM.replace("64", "6.5"), f"job.yaml:10: units.size: expected {N}, not 6.5"),
    "text for a boolean": (
        STYLE.replace("{frame", "{enlarge: yes, frame"),
        'job.yaml:3: images.enlarge: expected true or false, not "yes"',
    ),
    "number for text": (STYLE.replace("runs/styled", "3"), "job.yaml:2: output: expected non-empty text, not 3"),
    "empty text": (STYLE.replace("runs/styled", "''"), 'job.yaml:2: output: expected non-empty text, not ""'),
    "list for a mapping": (
        DREAM.replace("{size: 64}", "[64]"),
        "job.yaml:10: units: expected {size: " + N + "}, not [64]",
    ),
    "nothing for a mapping": (
        DREAM.replace("{size: 64}", ""),
        f"job.yaml:10: units: expected {{size: {N}}}, not null; write {{}} for its defaults",
    ),
    "name for a list of layers": (
        STYLE.replace("[relu4_2]", "relu4_2"),
        "job.yaml:7: style.content_layers: expected a non-empty list of (text or a mapping of name, weight, channels) "
        'or null, not "relu4_2"',
    ),
    "empty list": (
        STYLE.replace('["paintings/*.jpg"]', "[]"),
        "job.yaml:5: style.styles: expected a non-empty list of text, not []",
    ),
    "list of the wrong length": (
        STYLE.replace("[224, 224]", "[224]"),
        "job.yaml:3: images.frame: expected [a whole number of at least 16, a whole number of at least 16] or null, "
        "not [224]",
    ),
    "too small": (
        DREAM.replace("short_side: 256", "short_side: 0"),
        "job.yaml:9: images.short_side: expected a whole number of at least 16 or null, not 0",
    ),
    "not above": (
        DREAM.replace("1.4", "1"),
        "job.yaml:18: deepdream.stages.0.octave_scale: expected a number above 1, not 1",
    ),
    "out of an interval": (
        DREAM.replace("0.01", "1.5"),
        "job.yaml:13: max_failed: expected a number from 0 to 1, not 1.5",
    ),
    "not a number": (
        STYLE + "  tv_weight: .nan\n",
        "job.yaml:12: style.tv_weight: NaN is not allowed, numbers must be finite",
    ),
    "infinite": (
        DREAM.replace("gpus: auto", "gpus: .inf"),
        "job.yaml:11: workers.gpus: Infinity is not allowed, numbers must be finite",
    ),
    "overflow": (
        STYLE + "  tv_weight: 1e999\n",
        "job.yaml:12: style.tv_weight: Infinity is not allowed, numbers must be finite",
    ),
    "constant not allowed": (
        STYLE.replace("lbfgs", "l-bfgs"),
        'job.yaml:10: style.optimizer: expected lbfgs or adam, not "l-bfgs"; did you mean "lbfgs"?',
    ),
    "neither number nor auto": (
        DREAM.replace("max: auto", "max: aut"),
        f'job.yaml:11: workers.max: expected {N} or auto, not "aut"; did you mean "auto"?',
    ),
    "rule as a misspelt name": (
        ATTRIBUTION.replace("{gauss_legendre: 50}", "adaptiv"),
        f'job.yaml:9: attribution.rule: expected adaptive, {RULES}, not "adaptiv"; did you mean "adaptive"?',
    ),
    "rule as a misspelt mapping": (
        ATTRIBUTION.replace("{gauss_legendre: 50}", "{trapezium: 8}"),
        f'job.yaml:9: attribution.rule: expected adaptive, {RULES}, not {{"trapezium": 8}}; did you mean "trapezoid"?',
    ),
    "rule out of range": (
        ATTRIBUTION.replace("50", "0"),
        f"job.yaml:9: attribution.rule.gauss_legendre: expected {N}, not 0",
    ),
    "target of no form": (
        ATTRIBUTION.replace("{top: 3}", "{tpo: 3}"),
        "job.yaml:6: attribution.target: expected predicted, label, a whole number of at least 0, text, a non-empty "
        "list of (a whole number of at least 0 or text), "
        f"{{top: {N}}} or {{contrast: [a whole number of at least 0 or text, a whole number of at least 0 or text]}}, "
        'not {"tpo": 3}; did you mean "top"?',
    ),
    "target's list": (
        ATTRIBUTION.replace("{top: 3}", "[cat, -1]"),
        "job.yaml:6: attribution.target.1: expected a whole number of at least 0 or text, not -1",
    ),
    "required key missing": (
        STYLE.replace("output: runs/styled\n", "# no output\n"),
        "job.yaml: output: this key is required: a local folder or an object-store prefix",
    ),
    "required key missing in a section": (
        STYLE.replace("styles:", "history: 3 #"),
        "job.yaml:4: style.styles: this key is required: files, globs, folders or URIs",
    ),
    "no section": (MINIMAL, "job.yaml: give exactly one of deepdream, style, attribution, not none"),
    "two sections": (
        DREAM + "style: {styles: [a.jpg]}\n",
        "job.yaml:24: style: give exactly one of deepdream, style, attribution, not deepdream and style",
    ),
    "rule between keys": (
        DREAM.replace("layers: [relu4_3], guide: null, class: null", "guide: a.jpg, class: 3"),
        "job.yaml:18: deepdream.stages.0: a guide needs layers: name some, or leave out guide or class",
    ),
    "rule between workers": (
        DREAM.replace("min: 0, max: auto", "min: 3, max: 2"),
        "job.yaml:11: workers: max (2) is less than min (3)",
    ),
}

WRONG_YAML = {
    "empty": ("", "job.yaml: the file is empty; a job has source, output and an algorithm"),
    "only a comment": ("# soon\n", "job.yaml: the file is empty; a job has source, output and an algorithm"),
    "a list": ("- 1\n", "job.yaml: the file is not a mapping of keys; a job has source, output and an algorithm"),
    "syntax": (MINIMAL + "a: b: c\n", "job.yaml:3: not valid YAML: mapping values are not allowed here"),
    "open bracket": (
        MINIMAL + "a: [1, 2\n",
        "job.yaml:4: not valid YAML: expected ',' or ']', but got '<stream end>'",
    ),
    "tab": (MINIMAL + "\ta: 1\n", "job.yaml:3: not valid YAML: found character '\\t' that cannot start any token"),
    "control character": (
        MINIMAL + "a: \x01\n",
        "job.yaml:3: not valid YAML: unacceptable character #x0001: special characters are not allowed",
    ),
    "two documents": (MINIMAL + "---\na: 1\n", "job.yaml:3: not valid YAML: but found another document"),
    "unknown alias": (MINIMAL + "a: *b\n", "job.yaml:3: not valid YAML: found undefined alias 'b'"),
    "duplicate key": (
        STYLE + "  iterations: 4\n",
        "job.yaml:12: style.iterations: duplicate key, first written on line 11",
    ),
    "duplicate in quotes": (MINIMAL + "'output': x\n", "job.yaml:3: output: duplicate key, first written on line 2"),
    "key that is a number": (MINIMAL + "3: x\n", "job.yaml:3: keys must be text; put this one in quotes or correct it"),
    "key that is a list": (
        STYLE + "  ? [a]\n  : b\n",
        "job.yaml:12: style: keys must be text; put this one in quotes or correct it",
    ),
    "own tag": (
        MINIMAL + "seed: !seed 3\n",
        "job.yaml:3: seed: the YAML tag !seed is not allowed, write plain values",
    ),
    "python tag": (
        MINIMAL + "seed: !!python/object/apply:os.getcwd []\n",
        "job.yaml:3: seed: the YAML tag !!python/object/apply:os.getcwd is not allowed, write plain values",
    ),
    "binary": (
        MINIMAL + "seed: !!binary aGk=\n",
        "job.yaml:3: seed: the YAML tag !!binary is not allowed, write plain values",
    ),
    "tag that doesn't fit": (MINIMAL + "seed: !!int x\n", "job.yaml:3: seed: this can't be read as int: 'x'"),
    "huge number": (
        MINIMAL + "seed: 0x" + "f" * 5000 + "\n",
        "job.yaml:3: seed: no number here needs more than 64 bits: 0x" + "f" * 38,
    ),
    "number of many digits": (
        MINIMAL + "seed: " + "9" * 5000 + "\n",
        f"job.yaml:3: seed: this can't be read as int: '{'9' * 40}'",
    ),
    "merge of a text": (MINIMAL + "<<: x\n", "job.yaml:3: << takes a mapping or a list of mappings"),
    "NUL": (
        MINIMAL + 'name: "a\\0b"\n',
        "job.yaml:3: name: text can't hold NUL characters or halves of surrogate pairs",
    ),
    "surrogate": (
        MINIMAL + 'name: "\\ud800"\n',
        "job.yaml:3: name: text can't hold NUL characters or halves of surrogate pairs",
    ),
    "recursive alias": (MINIMAL + "a: &a [*a]\n", "job.yaml:3: a: nested more than 32 deep"),
    "deep nesting": (MINIMAL + "a: " + "[" * 600 + "\n", "job.yaml:1: nested too deeply"),
    "recursive merge": (MINIMAL + "a: &a {<<: *a}\n", "job.yaml:1: nested too deeply"),
}


@pytest.mark.parametrize(("text", "sentence"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_a_wrong_value_is_one_sentence(here, text, sentence):
    assert mistakes_in(text) == [sentence]


@pytest.mark.parametrize(("text", "sentence"), WRONG_YAML.values(), ids=WRONG_YAML)
def test_wrong_yaml_is_one_sentence(here, text, sentence):
    assert mistakes_in(text) == [sentence]


def test_every_mistake_has_its_line(here):
    text = STYLE.replace("frame", "fram").replace("iterations: 300", "iterations: none").replace("lbfgs", "sgd")
    assert [line.split(" ")[0] for line in mistakes_in(text)] == ["job.yaml:3:", "job.yaml:10:", "job.yaml:11:"]


@pytest.mark.parametrize("merge", [False, True])
def test_aliases_can_not_blow_up_the_file(here, merge):
    bomb = "x0: &x0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    bomb += "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]\n" for n in range(1, 20))
    if merge:
        bomb = "x0: &x0 {a: 1}\n"
        bomb += "".join(f"x{n}: &x{n} {{<<: [{', '.join([f'*x{n - 1}'] * 9)}]}}\n" for n in range(1, 20))
    (sentence,) = mistakes_in(MINIMAL + bomb)
    assert sentence.endswith(f"the aliases expand to more than {MAX_VALUES:,} values")


def test_files_that_can_not_be_read(here):
    Path("folder").mkdir()
    Path("latin.yaml").write_bytes(b"source: a\noutput: caf\xe9\n")
    Path("big.yaml").write_bytes(b"#" * (2**20 + 1))
    sentences = {
        "none.yaml": "none.yaml: there is no such file",
        "folder": "folder: can't be read: Is a directory",
        "latin.yaml": "latin.yaml:2: not UTF-8 text; save the file as UTF-8",
        "big.yaml": "big.yaml: is larger than 1 MiB, so it is no job file",
    }
    for name, sentence in sentences.items():
        with pytest.raises(PixgradError) as caught:
            load_job(name)
        assert str(caught.value) == sentence


def test_overrides_replace_and_add(here):
    config = load(
        DREAM,
        "deepdream.stages.0.iterations=20",
        "deepdream.stages.1.layers.0.channels=[1, 2]",
        "deepdream.stages.2={layers: [relu1_1]}",
        "images={frame: [64, 96]}",
        "output=s3://bucket/a=b",
        "units.size=7",
        "units.size=8",
    )
    assert config.deepdream is not None
    first, second, third = config.deepdream.stages
    assert (first.iterations, first.jitter) == (20, 32)
    assert second.layers is not None and second.layers[0].channels == [1, 2] and second.layers[0].weight == 0.5
    assert third.layers is not None and third.layers[0].name == "relu1_1"
    assert (config.images.frame, config.images.short_side, config.units.size) == ((64, 96), None, 8)
    assert config.output == "s3://bucket/a=b"


def test_overrides_make_what_is_missing(here):
    config = load(MINIMAL, "deepdream.stages.0.iterations=20", "model.name=resnet50", "workers.gpus=0")
    assert config.deepdream is not None and config.deepdream.stages[0].iterations == 20
    assert (config.model.name, config.workers.gpus) == ("resnet50", 0)


WRONG_OVERRIDES = {
    "style.iteratoins=3": f'--set style.iteratoins: unknown key, did you mean "iterations"? Known keys: {STYLE_KEYS}',
    "style.history=many": f'--set style.history: expected {N}, not "many"',
    "style.history=": f"--set style.history: expected {N}, not null",
    "style.iterations=many": f'--set style.iterations: expected {N} or a list of {N}, not "many"',
    "style.iterations=": f"--set style.iterations: expected {N} or a list of {N}, not null",
    "style.iterations=0": f"--set style.iterations: expected {N} or a list of {N}, not 0",
    "style.iterations=[300, 200]": "job.yaml:4: style: iterations lists 2 numbers and scales is 1: "
    "list one for each scale, or give one number for all",
    "style.style_layers.2.weight=x": '--set style.style_layers.2.weight: expected a number, not "x"',
    "style.style_layers={a: [": "--set style.style_layers: not valid YAML: expected the node content, "
    "but found '<stream end>'",
    "style.style_layers=[{name: a, name: b}]": "--set style.style_layers.0.name: duplicate key, "
    "first written on line 1",
    "style.style_layers.9=a": "--set style.style_layers.9: style.style_layers is a list of 3, counted from 0",
    "style.style_layers.first=a": "--set style.style_layers.first: style.style_layers is a list of 3, counted from 0",
    "style.styles.0.path=a": "--set style.styles.0.path: style.styles.0 is neither a mapping nor a list, "
    "so path has no place",
    "style.iterations": "--set style.iterations: write key.path=value, such as style.iterations=500",
    "style..iterations=3": "--set style..iterations=3: write key.path=value, such as style.iterations=500",
    "=3": "--set =3: write key.path=value, such as style.iterations=500",
    "workers={min: 2, max: 1}": "--set workers: max (1) is less than min (2)",
    "deepdream={}": "job.yaml:4: style: give exactly one of deepdream, style, attribution, not deepdream and style",
}


@pytest.mark.parametrize(("assignment", "sentence"), WRONG_OVERRIDES.items())
def test_a_wrong_override_is_one_sentence(here, assignment, sentence):
    assert mistakes_in(STYLE, assignment) == [sentence]


def test_an_override_can_mend_the_file(here):
    assert mistakes_in(STYLE.replace("300", "0"))
    assert load(STYLE.replace("300", "0"), "style.iterations=300") == load(STYLE)


@pytest.mark.parametrize("task", EXAMPLES)
def test_a_dumped_job_loads_as_the_same_job(here, task):
    config = load(EXAMPLES[task])
    assert load(dump_job(config)) == config


NASTY = [
    "no",
    "1e3",
    "~",
    "null",
    "2024-01-01",
    "a: b",
    "# x",
    "- x",
    "*x",
    "&x",
    "!x",
    "'",
    '"',
    "a\nb",
    " a ",
    "é\u2028",
]
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
NUMBERS = st.floats(0, 1e300, exclude_min=True)


@given(
    st.lists(TEXTS, min_size=1), TEXTS, TEXTS, st.floats(0, 1e12, exclude_min=True), NUMBERS, st.integers(0, 2**63 - 1)
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_dump_keeps_every_text_and_number(here, styles, name, uri, weight, rate, seed):
    style = {"styles": styles, "style_weight": weight, "learning_rate": rate, "style_layers": [{"name": name}]}
    values = {"name": name, "source": uri, "output": uri, "seed": seed, "style": style}
    config = JobConfig.model_validate(values)
    assert load(dump_job(config)) == config


SNIPPETS = [
    "[",
    "]",
    "{",
    "}",
    ":",
    ": ",
    "\n",
    "  ",
    "- ",
    "&a ",
    "*a",
    "!x ",
    "<<: ",
    "'",
    '"',
    "|",
    ">",
    "#",
    "%",
    "---\n",
]
SNIPPETS += [
    "? ",
    "~",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    ".nan",
    "\t",
    "\0",
    "é",
    "\u2028",
    "!!int ",
    "!!set ",
    "@",
    "`",
    ",",
]
EDITS = st.lists(
    st.tuples(st.integers(0, 800), st.integers(0, 12), st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=3))),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from(list(EXAMPLES.values())), EDITS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_a_job_or_its_mistakes(here, text, edits):
    for start, length, new in edits:
        text = text[: start % len(text)] + new + text[start % len(text) + length :]
    Path("job.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        assert isinstance(load_job("job.yaml"), JobConfig)
    except JobFileError as error:
        assert all(line.startswith("job.yaml:") for line in str(error).split("\n"))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 300)
    | st.floats(-3, 300)
    | st.sampled_from(["", "auto", "adaptive", "a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "top", "left", "x"]), inner),
    max_leaves=4,
)


SCHEMA = json_schema()


def nodes(value: object) -> list[dict | list]:
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(node for item in inner for node in nodes(item))]


@given(st.sampled_from(list(EXAMPLES.values())), st.data())
@settings(max_examples=150, deadline=None)
def test_mistakes_are_found_where_the_schema_has_them(text, data):
    validator = pytest.importorskip("jsonschema").Draft202012Validator(SCHEMA)
    values = copy.deepcopy(read_document(text, "job.yaml").values)
    for _ in range(data.draw(st.integers(0, 2))):
        node = data.draw(st.sampled_from([node for node in nodes(values) if node]))
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else list(range(len(node)))))
        if isinstance(node, dict) and data.draw(st.booleans()):
            node[data.draw(st.sampled_from(["x", "style", "attribution", key + "s"]))] = node.pop(key)
        else:
            node[key] = data.draw(VALUES)
    assert validator.is_valid(values) == (not find_mistakes(values, SCHEMA))


def test_the_schema_is_json_and_accepts_the_examples():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["oneOf"] == [{"required": [task]} for task in EXAMPLES]
    assert schema["required"] == ["source", "output"]
    for text in EXAMPLES.values():
        assert find_mistakes(read_document(text, "job.yaml").values, schema) == []


def test_the_fingerprint_is_of_what_a_run_must_keep(here):
    config = load(STYLE)
    same = load(STYLE, "name=x", "output=y", "workers.max=3", "max_failed=1")
    assert same.fingerprint_fields() == config.fingerprint_fields()
    assert load(dump_job(config)).fingerprint_fields() == config.fingerprint_fields()
    json.dumps(config.fingerprint_fields())
    changed = ("style.iterations=1", "model.name=vgg16", "images.snap=8", "source.uri=z", "seed=1", "precision=fp32")
    text = STYLE.replace("source: photos/", "source: {uri: photos/}")
    prints = [json.dumps(load(text, *change).fingerprint_fields()) for change in ((), *((each,) for each in changed))]
    assert len(set(prints)) == len(prints)


def test_a_config_made_in_python_has_exactly_one_section():
    values = {"source": "a", "output": "b"}
    with pytest.raises(ValueError, match="exactly one of deepdream, style, attribution, not none"):
        JobConfig.model_validate(values)
    with pytest.raises(ValueError, match="not deepdream and attribution"):
        JobConfig.model_validate({**values, "deepdream": {}, "attribution": {}})
    assert JobConfig.model_validate({**values, "deepdream": {}, "attribution": None}).task == "deepdream"
