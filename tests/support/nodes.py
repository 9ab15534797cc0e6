"""A Ray of several nodes on this machine: nodes are added and killed while the service runs on them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.processes import kill_tree
from tests.support.ray_environment import RAY_ENVIRONMENT
from tests.support.service import Service
from tests.support.swift import free_port

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0

# A process of its own, because the test run's process belongs to the run's Ray already. It takes a command a line
# and answers each with a line of JSON. A node is known by the process of its raylet, the parent of its replicas.
NODES = """
import json, sys, time
import ray
from ray import serve
from ray.cluster_utils import Cluster
from tests.support.service import deploy

port = int(sys.argv[1])
answers, sys.stdout = sys.stdout, sys.stderr
ip = "127.0.0.2"  # Ray takes 127.0.0.1 in an address for the machine's outer one
cluster = Cluster()
# A node that is killed is missed within a second, not within half a minute.
checks = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}
cluster.add_node(num_cpus=4, include_dashboard=False, node_ip_address=ip, _system_config=checks)
ray.init(address=cluster.address, _node_ip_address=ip, namespace="serve", log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
nodes = {}


def add(has):
    node = cluster.add_node(num_cpus=2, node_ip_address=ip, **has)
    (raylet,) = node.all_processes["raylet"]
    nodes[raylet.process.pid] = node
    return raylet.process.pid


def lose(pid):
    cluster.remove_node(nodes.pop(pid), allow_graceful=False)


def run(settings):
    deploy(settings, name="nodes", port=port)


def states(deployment):
    return serve.status().applications["nodes"].deployments[deployment].replica_states


def clear(_):
    serve.delete("nodes")
    for pid in list(nodes):
        lose(pid)
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        time.sleep(0.1)


for line in sys.stdin:
    command, argument = json.loads(line)
    result = {"add": add, "lose": lose, "run": run, "states": states, "clear": clear}[command](argument)
    print(json.dumps(result), file=answers, flush=True)
"""


class Nodes:
    """A Ray whose first node has the controller, the proxy, 4 CPUs and no GPU, and to which nodes are added."""

    def __init__(self, folder: Path, **variables: str) -> None:
        """`variables` are set in the environment of everything."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "OCR_", "CUDA_"))}
        environment = {
            **clean,
            "HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": str(folder),
            **RAY_ENVIRONMENT,
            **variables,
        }
        port = free_port()
        self.service = Service("nodes", f"http://127.0.0.1:{port}/nodes")
        self._log = folder / "nodes.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", NODES, str(port)],
                cwd=folder, env=environment, text=True, bufsize=1,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip

    def add(self, *, gpus: int = 0, resources: dict[str, float] | None = None) -> int:
        """Add a node with 2 CPUs; the process id of its raylet."""
        return int(self._ask("add", {"num_gpus": gpus, "resources": resources or {}}))

    def lose(self, raylet: int) -> None:
        """Kill all of a node at once, as a power cut does."""
        self._ask("lose", raylet)

    def run(self, settings: dict[str, Any]) -> None:
        """Deploy the application, and wait until its engines are ready."""
        self._ask("run", settings)
        self.service.wait_until_engines_are_ready()

    def states(self, deployment: str) -> dict[str, int]:
        """How many replicas of a deployment are in which state, as Serve tells."""
        states: dict[str, int] = self._ask("states", deployment)
        return states

    def clear(self) -> None:
        """Delete the application, then kill all nodes but the first."""
        self._ask("clear")

    def placement(self, deployment: str) -> Counter[int]:
        """How many replicas of a deployment each node has, by the process id of its raylet."""
        parents = [replica.parent() for replica in self.service.replicas(deployment)]
        return Counter(parent.pid for parent in parents if parent is not None)

    def stop(self) -> None:
        kill_tree(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def _ask(self, command: str, argument: Any = None) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([command, argument]) + "\n")
        answer = self._process.stdout.readline()
        assert answer, self._log.read_text()[-5000:]
        return json.loads(answer)


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not after {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.2)
