"""Runs a pixgrad command on a Ray cluster of two nodes on this machine, and gives one of them notice meanwhile.

noticed_node.py EVENTS ARGUMENTS...: EVENTS is the run's event log; exits as the command does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue]
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason  # pyright: ignore[reportAttributeAccessIssue]

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main(events: Path, arguments: list[str]) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    noticed, _ = cluster.add_node(**NODE), cluster.add_node(**NODE)
    pixgrad = str(Path(sys.executable).with_name("pixgrad"))
    process = subprocess.Popen([pixgrad, *arguments], env=os.environ | {"RAY_ADDRESS": str(cluster.address)})
    while process.poll() is None and not (events.exists() and events.read_text().count("worker_ready") == 2):
        time.sleep(0.2)
    deadline = int((time.time() + 120) * 1000)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    taken, why = GcsClient(address=cluster.address).drain_node(noticed.node_id, reason, "spot notice", deadline)
    assert taken, why
    process.wait()
    cluster.shutdown()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
