"""The audit as a task on a worker: a real network, a real photograph, read from its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from workers.audit import audit_outputs
from workers.description import PreparedModel, prepare_model
from workers.params import AttributionParams, AuditParams, ImageParams, ModelParams
from workers.records import ImageRef, Output, Variant
from workers.setup import BatchPlan, WorkerSetup

ASKED = AuditParams(sample=1, intervals=1, randomisation=True)


@pytest.fixture(scope="module")
def model() -> PreparedModel:
    return prepare_model(ModelParams(name="efficientnet_lite0"))


def answers(model: PreparedModel, folder: Path, image: str) -> list[Any]:
    setup = WorkerSetup(
        task="attribution",
        params=AttributionParams.model_validate({"rule": {"middle": 2}, "max_evaluations": 17}),
        model=model.params,
        min_side=1,
        categories=model.description.categories,
        allow_code=False,
        images=ImageParams(frame=(32, 32)),
        source_root=str(folder),
        source_columns=(),
        output="/nowhere",
        seed=0,
        device="cpu",
        precision="fp32",
        threads=1,  # fp64 convolutions come in small pieces, for which threads only wait
        batch=BatchPlan(images=2, pixels=0, most=2),
    )
    output = Output(ImageRef(image), Variant("", "predicted"))
    return list(audit_outputs(setup, model.weights.read(), [output], ASKED))


@pytest.fixture(scope="module")
def told(model: PreparedModel, photographs: dict[str, Path]) -> list[Any]:
    return answers(model, photographs["chelsea"].parent, "chelsea.png")


@pytest.fixture(scope="module")
def audit(told: list[Any]) -> dict[str, Any]:
    return told[-1]


def test_each_step_is_told_before_it_is_done(told: list[Any]) -> None:
    assert [step.words for step in told[:2]] == ["Axioms: image 1 of 1", "Axioms: loss of weights 1 of 6"]
    assert len(told) == 1 + 6 + 1


def test_on_a_real_network_exact_axioms_hold_and_controls_fail(audit: dict[str, Any]) -> None:
    exact = [f for f in audit["findings"] if f["tolerance"] < 0.01 and not f["control"]]
    assert len(exact) == 11 and {f["verdict"] for f in exact} == {"pass"}
    controls = [f for f in audit["findings"] if f["control"]]
    assert len(controls) == 5 and {f["verdict"] for f in controls} == {"fail"}
    assert all(f["as_expected"] for f in controls)


def test_the_maps_go_as_the_weights_do(audit: dict[str, Any]) -> None:
    stages = audit["randomisation"]
    assert stages[-1]["down_to"] == "conv_stem" and len(stages) == 6
    assert all(abs(stage["spearman"]) < 0.5 for stage in stages)


def test_an_image_that_is_gone_is_an_answer(model: PreparedModel, tmp_path: Path) -> None:
    [answer] = answers(model, tmp_path, "gone.png")
    assert "gone.png" in answer["error"]
