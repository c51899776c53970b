"""cluster.yaml against Ray's own schema, and it, the RayJob and the Dockerfile against the rest of the repository."""

from __future__ import annotations

import copy
import http.server
import os
import shlex
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import drain_node

from jobs.spec import load_job
from jobs.submit import STOP_SECONDS, entrypoint

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


# --- a spot node's notice

RAY = '#!/bin/sh\necho "$RAY_AUTH_MODE $RAY_ADDRESS $*" > "$SAID"\n'


@pytest.fixture
def metadata() -> Iterator[tuple[str, threading.Event]]:
    """What a node of AWS finds at its own address, on loopback; the event is the notice."""
    notice = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.answer(200, b"a token" if self.path == "/latest/api/token" else b"")

        def do_GET(self) -> None:
            known = self.headers["X-aws-ec2-metadata-token"] == "a token"
            known = known and self.path == "/latest/meta-data/spot/instance-action"
            self.answer(200 if known and notice.is_set() else 404, b"{}")

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", notice
    server.shutdown()
    server.server_close()


def test_a_spot_nodes_notice_is_handed_on_to_ray(
    cluster: dict[str, Any], metadata: tuple[str, threading.Event], tmp_path: Path
) -> None:
    address, notice = metadata
    (tmp_path / "ray").write_text(RAY)
    (tmp_path / "ray").chmod(0o755)
    command = cluster["worker_start_ray_commands"][-1]
    assert command.count("169.254.169.254") == 1 and command.rstrip().endswith("&")
    command = command.replace("169.254.169.254", address).replace("sleep 5", "sleep 0.1")
    command = command.rstrip().removesuffix("&").replace("/tmp/spot_notice.log", str(tmp_path / "log"))
    said = tmp_path / "said"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "10.0.0.1", "SAID": str(said)}
    watch = subprocess.Popen(["bash", "-c", command], env=environment)
    with pytest.raises(subprocess.TimeoutExpired):
        watch.wait(1)
    notice.set()
    assert watch.wait(30) == 0
    mode, head, name, *arguments = shlex.split(said.read_text().replace("spot notice", "'spot notice'"))
    # Without RAY_ADDRESS the command would start a Ray of its own, and drain that.
    assert (mode, head, name) == ("token", "10.0.0.1:6379", "drain-node")
    parsed = drain_node.make_context("drain-node", arguments)  # as Ray's own command line reads it
    assert parsed.params["node_id"] is None and parsed.params["deadline_remaining_seconds"] == 110


# --- Kubernetes


@pytest.fixture
def documents() -> dict[str, dict[str, Any]]:
    """The documents of rayjob.yaml by kind."""
    text = (ROOT / "docs/cluster/rayjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def test_the_rayjob_runs_our_command_on_a_job_that_is_one(documents: dict[str, Any], tmp_path: Path) -> None:
    job, config = documents["RayJob"], documents["ConfigMap"]
    assert job["apiVersion"] == "ray.io/v1"
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    [mount] = head["containers"][0]["volumeMounts"]
    [volume] = head["volumes"]
    assert volume["name"] == mount["name"] and volume["configMap"]["name"] == config["metadata"]["name"]
    ours = entrypoint([], installed=True).replace("job.yaml", f"{mount['mountPath']}/job.yaml")
    assert job["spec"]["entrypoint"] == ours
    (tmp_path / "job.yaml").write_text(config["data"]["job.yaml"])
    load_job(tmp_path / "job.yaml")


def test_the_rayjob_can_drain_resume_and_leave_nothing_behind(documents: dict[str, Any]) -> None:
    spec = documents["RayJob"]["spec"]
    environment = RuntimeEnv(**yaml.safe_load(spec["runtimeEnvYAML"]))
    assert environment["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)}
    assert spec["shutdownAfterJobFinishes"] is True and spec["backoffLimit"] >= 1
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_rayjobs_gpus_come_from_zero_and_its_head_only_schedules(documents: dict[str, Any]) -> None:
    cluster = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] and cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    most = yaml.safe_load(documents["ConfigMap"]["data"]["job.yaml"])["workers"]["max"]
    for group in cluster["workerGroupSpecs"]:
        assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"] <= most
        [container] = group["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_image_is_pinned_as_the_rest(documents: dict[str, Any], cluster: dict[str, Any]) -> None:
    dockerfile = (ROOT / "docs/cluster/Dockerfile").read_text()
    release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nFROM {cluster['docker']['worker_image']}\n" in dockerfile
    assert dockerfile.count(f"pixgrad-{release}-py3-none-any.whl") == 2 and f"pixgrad:{release} dist" in dockerfile
    spec = documents["RayJob"]["spec"]["rayClusterSpec"]
    assert f"rayproject/ray:{spec['rayVersion']}-" in dockerfile
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = {each["template"]["spec"]["containers"][0]["image"] for each in groups}
    assert images == {f"REGISTRY/pixgrad:{release}"}
