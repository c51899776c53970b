"""cluster.yaml against Ray's own schema, and against the rest of the repository."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

ROOT = Path(__file__).parents[1]
GPU_GROUPS = ("gpu_spot", "gpu_on_demand")


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def accept(cluster: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` does with a file before it talks to the cloud."""
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    assert set(accept(cluster)["available_node_types"]) == {"head", *GPU_GROUPS}


@pytest.mark.parametrize("path", ["idle_timeout_minutes", "available_node_types.gpu_spot.min_workers", "auth.ssh_user"])
def test_ray_refuses_a_misspelt_key(cluster: dict[str, Any], path: str) -> None:
    *parents, key = path.split(".")
    section = cluster
    for parent in parents:
        section = section[parent]
    section[key + "s"] = section.pop(key)
    with pytest.raises(ValidationError, match=key + "s"):
        accept(cluster)


def test_ray_refuses_a_head_type_that_does_not_exist(cluster: dict[str, Any]) -> None:
    cluster["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="head_node_type"):
        accept(cluster)


def test_the_head_only_schedules(cluster: dict[str, Any]) -> None:
    prepared = accept(cluster)
    head = prepared["available_node_types"][prepared["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert head["max_workers"] == 0


@pytest.mark.parametrize("group", GPU_GROUPS)
def test_gpu_workers_come_from_zero_and_leave_when_idle(cluster: dict[str, Any], group: str) -> None:
    prepared = accept(cluster)
    workers = prepared["available_node_types"][group]
    assert workers["resources"]["GPU"] == 1
    assert workers["min_workers"] == 0 < workers["max_workers"] <= prepared["max_workers"]
    assert prepared["idle_timeout_minutes"] == 5


@pytest.mark.parametrize(
    ("demand", "launched"),
    [(3, {"gpu_spot": 3}), (16, {"gpu_spot": 12, "gpu_on_demand": 4}), (40, {"gpu_spot": 12, "gpu_on_demand": 4})],
)
def test_spot_workers_come_first_and_on_demand_ones_for_the_rest(
    cluster: dict[str, Any], demand: int, launched: dict[str, int]
) -> None:
    config = AutoscalingConfig(accept(cluster), skip_content_hash=True)
    actors = [ResourceRequestUtil.make({"CPU": 4, "GPU": 1})] * demand
    request = SchedulingRequest(
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=config.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(actors),
        disable_launch_config_check=True,
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert {launch.instance_type: launch.count for launch in reply.to_launch} == launched


def test_only_the_spot_group_asks_for_spot_nodes(cluster: dict[str, Any]) -> None:
    spot, on_demand = (cluster["available_node_types"][group]["node_config"] for group in GPU_GROUPS)
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == on_demand


def test_what_the_nodes_install_is_pinned(cluster: dict[str, Any]) -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    [ray_version] = [line.removeprefix("ray==") for line in constraints if line.startswith("ray==")]
    assert cluster["docker"]["head_image"] == f"rayproject/ray:{ray_version}-py311-cpu"
    assert cluster["docker"]["worker_image"] == f"rayproject/ray:{ray_version}-py311-gpu"
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    [command] = cluster["setup_commands"]
    assert f"/pixgrad-{release}-py3-none-any.whl[" in command
    assert "--constraint /home/ray/pixgrad/constraints.txt " in command


def test_only_a_release_and_the_token_travel(cluster: dict[str, Any]) -> None:
    assert set(cluster["file_mounts"].values()) == {"dist", "~/.ray/auth_token"}
