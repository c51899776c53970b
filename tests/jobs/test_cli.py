"""The commands as a person types them: what they print, and what they exit with."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.cli import ORDER
from workers.attribution.axioms.finding import Finding

Said = Any  # the `pixgrad` of conftest.py gives a tuple of code, out and err
Pixgrad = Callable[..., Said]

JOB = """
source: photos
output: run
model: {name: efficientnet_lite0}
images: {short_side: 64, snap: 16}
deepdream:
  stages:
    - {layers: [blocks.2], octaves: 2, iterations: 1}
"""


@pytest.fixture
def place(tmp_path: Path, photographs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos").mkdir()
    shutil.copy(photographs["chelsea"], tmp_path / "photos")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    (tmp_path / "job.yaml").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(said: Said, code: int = 2) -> str:
    assert said.code == code, said
    assert "Traceback" not in said.err and not said.out
    return said.err.strip()


def test_a_job_file_that_is_not_there(pixgrad: Pixgrad, place: Path) -> None:
    assert refused(pixgrad("run", "jbo.yaml")) == "jbo.yaml: there is no such file"


def test_a_misspelt_key_is_answered_with_line_and_neighbour(pixgrad: Pixgrad, place: Path) -> None:
    (place / "job.yaml").write_text(JOB.replace("octaves", "octave"))
    sentence = refused(pixgrad("run", "job.yaml"))
    assert sentence.startswith("job.yaml:8: deepdream.stages.0.octave: unknown key, did you mean")


def test_a_wrong_override_is_named_as_such(pixgrad: Pixgrad, place: Path) -> None:
    assert refused(pixgrad("run", "job.yaml", "--set", "seed=many")).startswith("--set seed")


def test_what_an_override_leads_to_is_said_of_the_override(pixgrad: Pixgrad, place: Path) -> None:
    (place / "job.yaml").write_text(JOB.replace("source: photos", "source: {uri: photos}"))
    assert refused(pixgrad("run", "job.yaml", "--set", "source.uri=nowhere")).startswith(
        "--set source.uri: There is no"
    )
    assert refused(pixgrad("run", "job.yaml", "--set", "source.labels=name")).startswith("--set source.labels: labels")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("source=nowhere", "nowhere"),
        ("model.name=resnet51", "nearest: resnet"),
        ("deepdream.stages.0.layers=[blocks.9]", "unknown layer 'blocks.9'"),
        ("deepdream.stages.0.layers=[{name: blocks.2, channels: [4000]}]", "channels 0 to"),
        ("model.weights=missing.pth", "there is no weights file"),
        ("deepdream.stages.0.guide=guide.jpg", "guide.jpg"),
    ],
)
def test_what_can_be_known_before_the_run_is_said_before_it(
    pixgrad: Pixgrad, place: Path, override: str, sentence: str
) -> None:
    said = refused(pixgrad("run", "job.yaml", "--set", override))
    assert said.startswith(("--set ", "job.yaml:")) and sentence in said
    assert not (place / "run").exists()


def test_a_layer_that_isnt_there_is_answered_with_its_line(pixgrad: Pixgrad, place: Path) -> None:
    (place / "job.yaml").write_text(JOB.replace("blocks.2", "block.2"))
    assert refused(pixgrad("plan", "job.yaml")).startswith(
        "job.yaml:8: deepdream.stages.0.layers: unknown layer 'block.2'; nearest: blocks.2"
    )


def test_octaves_that_shrink_below_what_the_network_takes(pixgrad: Pixgrad, place: Path) -> None:
    overrides = ("model.name=vgg19", "deepdream.stages=[{layers: [relu5_3]}]", "images.short_side=32")
    sentence = refused(pixgrad("plan", "job.yaml", *(word for o in overrides for word in ("--set", o))))
    assert "needs 16 x 16 pixels" in sentence and "fewer octaves" in sentence


def test_a_folder_without_images(pixgrad: Pixgrad, place: Path) -> None:
    (place / "photos" / "chelsea.png").unlink()
    assert "no images" in refused(pixgrad("plan", "job.yaml"))
    said = refused(pixgrad("run", "job.yaml"))
    assert "no images" in said and ".jpeg, .jpg" in said and not (place / "run").exists()


def test_plan_tells_what_would_be_done_and_writes_nothing(pixgrad: Pixgrad, place: Path) -> None:
    said = pixgrad("plan", "job.yaml")
    assert said.code == 0, said
    for words in (
        "1 image,",
        "1 other file passed over",
        "96 x 64",
        "1 of 64 outputs",
        "0 units",
        "sha256",
        "blocks.2",
    ):
        assert words in said.out
    facts = json.loads(pixgrad("plan", "job.yaml", "--json").out)
    assert (facts["images"], facts["outputs_done"], facts["units"]) == (1, 0, 1) and facts["disk_bytes"] > 1000
    assert facts["sample"]["frames"] == [{"width": 96, "height": 64, "images": 1}]
    assert "--measure" in refused(pixgrad("plan", "job.yaml", "--price", "2"))
    assert not (place / "run").exists()


def test_a_plan_says_that_axioms_come_on_top(pixgrad: Pixgrad, place: Path) -> None:
    section = "attribution: {audit: {sample: 3}}"
    (place / "job.yaml").write_text(JOB.replace("snap: 16", "frame: [64, 64]").split("deepdream")[0] + section)
    said = pixgrad("plan", "job.yaml")
    assert "axioms   checked at the end on 3 images, which comes on top of the time" in said.out
    assert json.loads(pixgrad("plan", "job.yaml", "--json").out)["images_audited"] == 3


def test_an_audit_is_read_on_a_narrow_terminal(pixgrad: Pixgrad, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    note = "not converged after 129 evaluations"
    findings = [
        Finding("completeness", "the sum is F(x) - F(x'), by the run's rule", 0.2, 0.01, note=note),
        Finding("completeness", "weights that sum to 2", 1.0, 0.01, control=True),
        Finding("linearity", "2 F - 3 H, H the next most probable class: the maps add up likewise", 1e-13, 1e-9),
    ]
    audit = {"findings": [finding.as_dict() for finding in findings], "images": [{}]}
    (place / "audit.json").write_text(json.dumps(audit))
    said = pixgrad("audit", ".")
    lines = said.out.splitlines()
    table = lines[: lines.index(next(line for line in lines if line.startswith("1 of 2 checks")))]
    assert said.code == 6 and all(len(line) <= 80 for line in table), said.out
    whole = " ".join(said.out.split())
    for words in ("fails (!)", "fails, as it must", "holds", "control: weights that sum to 2", "max_evaluations"):
        assert words in whole
    assert "on 1 image." in whole and json.loads(pixgrad("audit", ".", "--json").out) == audit


def test_a_folder_that_is_no_run(pixgrad: Pixgrad, place: Path) -> None:
    for command in (["status", "photos"], ["verify", "photos"], ["export", "photos", "out"], ["status", "gone"]):
        assert "no run" in refused(pixgrad(*command))


def test_a_run_from_its_first_command_to_its_last(pixgrad: Pixgrad, place: Path, ray_cluster: None) -> None:
    (place / "photos" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    said = pixgrad("run", "job.yaml")
    assert said.code == 3 and "1 of 2 outputs made, 1 failed." in said.out and "max_failed" in said.err
    assert f"Again:   pixgrad retry {place / 'run'}" in said.out and f"Log:     {place / 'run'}/logs/" in said.out
    said = pixgrad("run", "job.yaml", "--set", "max_failed=0.5", "--progress", "json")
    end = json.loads(said.err)
    assert (said.code, end["event"], end["exit_code"], end["failures"]) == (0, "end", 0, {"truncated": 1})
    assert end["commands"]["export"] == f"pixgrad export {place / 'run'} DEST"
    assert refused(pixgrad("run", "job.yaml", "--set", "seed=5"), code=5).endswith("job.yaml).")
    status = json.loads(pixgrad("status", "run", "--json").out)
    assert status["state"] == "complete" and status["failures"] == {"truncated": 1}
    watched = pixgrad("status", "run", "--watch")
    assert watched.code == 0 and "2/2 outputs (100%)" in watched.out
    assert "2 committed, 1 failed: 1 truncated" in watched.out
    assert pixgrad("verify", "run").code == 0
    assert pixgrad("report", "run").out == "run/report/index.html\n"
    for option in ("-o", "--out", "--output"):
        assert pixgrad("report", "run", option, "page/").out == "page/index.html\n"
    assert (place / "run" / "report" / "index.html").is_file()
    assert "1 outputs in out" in pixgrad("export", "run", "out").out
    assert (place / "out" / "chelsea.png").is_file()
    next((place / "run" / "shards").glob("*.tar")).unlink()
    said = pixgrad("verify", "run")
    assert said.code == 6 and said.err.startswith("unit 0: ")


def test_a_plan_is_measured_on_sampled_outputs(pixgrad: Pixgrad, place: Path, ray_cluster: None) -> None:
    shutil.copy(place / "photos" / "chelsea.png", place / "photos" / "again.png")
    (place / "photos" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    said = pixgrad("plan", "job.yaml", "--measure", "6", "--price", "3.6", "--json")
    assert said.code == 0, said
    found = json.loads(said.out)["measured"]
    assert (found["outputs"], found["outputs_left"], found["failures"]) == (3, 3, {"truncated": 1})
    assert found["outputs_per_second_per_worker"] == pytest.approx(3 / found["seconds"], rel=0.01)
    work = 3 / found["outputs_per_second_per_worker"] / found["workers"]
    assert found["total_seconds"] == pytest.approx(found["worker_start_seconds"] + work, abs=0.1)
    assert found["cost"] == pytest.approx(found["total_seconds"] * found["workers"] / 1000, rel=0.02)
    assert found["batches"] and all(re.fullmatch(r"1x3x\d+x\d+", shape) for shape in found["batches"])
    assert found["memory_bytes"] > 50e6 and found["gpu_memory_bytes"] is None
    assert found["bytes_per_output"] > 5_000 and found["shares"]["compute"] > 0
    assert not (place / "run").exists()


def test_the_help_begins_with_what_one_begins_with(pixgrad: Pixgrad) -> None:
    said = pixgrad("--help").out
    commands = [line.split()[1] for line in said.splitlines() if line.startswith("│ ") and line[2].isalpha()]
    assert commands[:4] == ["deepdream", "style", "attribution", "init"] and sorted(commands) == sorted(ORDER)
    assert all(f"─ {part} ─" in said for part in ("Begin", "Run", "Look", "Check"))
    assert pixgrad("submit", "--help").out.count("<bool>") == 1, "of --help, which is not ours"


def test_schema_is_json(pixgrad: Pixgrad) -> None:
    schema = json.loads(pixgrad("schema").out)
    assert {"source", "output"} <= schema["properties"].keys() and len(schema["oneOf"]) == 3


def test_layers_are_listed_with_their_defaults(pixgrad: Pixgrad) -> None:
    lines = pixgrad("layers", "vgg19").out.splitlines()
    relu4_2 = next(line for line in lines if line.startswith("relu4_2"))
    assert "512" in relu4_2 and "content" in relu4_2


def test_weights_are_listed_and_fetched(pixgrad: Pixgrad) -> None:
    short = pixgrad("weights", "list").out
    assert "vgg19" in short and "more can be fetched: --all" in short
    assert len(pixgrad("weights", "list", "--all").out.splitlines()) > 100 > len(short.splitlines())
    assert "yes" in next(line for line in pixgrad("weights", "list", "lite0").out.splitlines() if "DEFAULT" in line)
    fetched = pixgrad("weights", "fetch", "vgg19")
    assert fetched.code == 0 and "sha256 c34748d2a8b1" in fetched.out


def test_an_internal_error_is_one_sentence(pixgrad: Pixgrad, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("jobs.spec.prepare_job", broken)
    assert refused(pixgrad("run", "job.yaml"), code=1).startswith("Internal error, ZeroDivisionError: a bug")
