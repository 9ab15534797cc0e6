"""Runs the service for a benchmark on a Ray cluster of several nodes, all on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service import KEY, free_port
from serve_app.cli.serve import RAY_ENVIRONMENT

DEPLOY_S = 300
POLL_S = 0.5
NODE_IP = "127.0.0.2"  # Ray takes 127.0.0.1 in an address for the machine's outer one


class Cluster:
    """A Ray cluster with Serve, of which this process is the driver. `deploy` replaces the application."""

    def __init__(self, address: str) -> None:
        """`address`: the URL of the service."""
        self.address = address
        self.process = psutil.Process()  # all processes of the cluster are its children

    def deploy(self, config: Mapping[str, Any]) -> None:
        """Deploy the Serve config and wait until all replicas run. Raises RuntimeError if that fails or takes too long."""
        from ray import serve
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        schema = ServeDeploySchema.model_validate(dict(config))
        client = _get_global_client()
        assert client is not None
        client.deploy_apps(schema, _blocking=False)
        name = schema.applications[0].name
        deadline = time.monotonic() + DEPLOY_S
        while True:
            time.sleep(POLL_S)
            application = serve.status().applications[name]
            if application.status == "RUNNING":
                return
            if application.status == "DEPLOY_FAILED" or time.monotonic() > deadline:
                raise RuntimeError(f"the service is {application.status}: {application.message}")

    def running(self, deployment: str) -> int:
        """Return the number of running replicas."""
        from ray import serve
        from ray.serve._private.common import ReplicaState

        (application,) = serve.status().applications.values()
        return int(application.deployments[deployment].replica_states.get(ReplicaState.RUNNING, 0))


@contextmanager
def running_cluster(nodes: int) -> Iterator[Cluster]:
    """Start a cluster of `nodes` nodes and Serve. No other Ray is used or affected."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray makes sockets below it
    os.environ.update(RAY_ENVIRONMENT)
    # Serve's own default: the controller of a cluster looks at its replicas more than once a second.
    del os.environ["RAY_SERVE_CONTROL_LOOP_INTERVAL_S"]
    os.environ |= {"OCR_API_KEYS": KEY, "RAY_TMPDIR": str(folder), "HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    import ray
    from ray import cluster_utils, serve
    from ray.serve.schema import LoggingConfig

    logging.getLogger("ray").setLevel(logging.WARNING)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port()
    cluster = cluster_utils.Cluster()
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=16, node_ip_address=NODE_IP, include_dashboard=False)
        ray.init(address=cluster.address, _node_ip_address=NODE_IP, namespace="serve", log_to_driver=False)
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": "127.0.0.1", "port": port},
            logging_config=LoggingConfig(log_level="WARNING"),
        )
        yield Cluster(f"http://127.0.0.1:{port}")
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
