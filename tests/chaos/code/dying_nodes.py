"""Runs a pixgrad command on a Ray cluster of several nodes on this machine, and kills nodes hard meanwhile.

dying_nodes.py KILLS SEED RUN ARGUMENTS...: prints how many nodes were killed; exits as the command does. A node dies
within a second of a commit, so that the run gets on between deaths, however slow the machine is.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

NODE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main(kills: int, seed: int, run: Path, arguments: list[str]) -> int:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(**NODE), cluster.add_node(**NODE)]
    pixgrad = str(Path(sys.executable).with_name("pixgrad"))
    process = subprocess.Popen([pixgrad, *arguments], env=os.environ | {"RAY_ADDRESS": str(cluster.address)})
    killed, pick, over = 0, random.Random(seed), threading.Event()
    threading.Thread(target=lambda: (process.wait(), over.set()), daemon=True).start()
    while killed < kills:
        before = count_parts(run) if killed else 0
        while count_parts(run) <= before and not over.wait(0.05):
            pass
        if over.wait(pick.uniform(0, 1)):
            break
        cluster.remove_node(nodes.pop(pick.randrange(len(nodes))), allow_graceful=False)
        killed += 1
        nodes.append(cluster.add_node(**NODE))
    process.wait()
    cluster.shutdown()
    print(killed)
    return process.returncode


def count_parts(run: Path) -> int:
    return len(list(run.glob("manifest/*/*.parquet")))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]))
