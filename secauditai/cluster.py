"""The door to Ray's runtime: connecting, how long that took, and what the cluster has.

Ray's own words go to its log files; a session is started at most once per process and reused.
"""

import logging
import os
import time
from dataclasses import dataclass
from typing import Any

from secauditai.errors import ClusterError


@dataclass(frozen=True)
class Cluster:
    """A live connection to Ray."""

    started_here: bool
    startup_seconds: float
    cpus: float
    gpus: float
    nodes: int


def ensure_ray(address: str | None = None) -> Cluster:
    """Connect to Ray, or start it on this machine when there is no address.

    `RAY_ADDRESS` counts as an address. A connection that exists is reused.

    Raises:
        ClusterError: when the address does not answer.
    """
    quieten()
    import ray

    started = time.monotonic()
    fresh = not ray.is_initialized()
    if fresh:
        _connect(ray, address or os.environ.get("RAY_ADDRESS") or "local")
    resources = ray.cluster_resources()
    return Cluster(
        started_here=fresh,
        startup_seconds=time.monotonic() - started,
        cpus=float(resources.get("CPU", 0.0)),
        gpus=float(resources.get("GPU", 0.0)),
        nodes=len([node for node in ray.nodes() if node["Alive"]]),
    )


def _connect(ray: Any, address: str) -> None:
    # A local session takes token authentication by itself, and would say so on every start.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            include_dashboard=False if address == "local" else None,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        hint = "Start one with `ray start --head`, or leave --address out to run on this machine."
        raise ClusterError(f"no Ray cluster answers at {address}: {error}".splitlines()[0], hint=hint) from None


def in_ray_job() -> bool:
    """Whether this process is the entry point of a Ray job, so that work belongs on workers."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def quieten() -> None:
    """Keep Ray's progress bars, usage notes and telemetry off the terminal; must run before Ray is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")


@dataclass(frozen=True)
class Capacity:
    """What a cluster has, by node, and what of it is in use."""

    nodes: tuple[tuple[float, float], ...]
    """(CPUs, GPUs) of each node that is alive."""
    used_cpus: float = 0.0

    @property
    def cpus(self) -> float:
        """All CPUs."""
        return sum(cpus for cpus, _gpus in self.nodes)

    @property
    def gpus(self) -> float:
        """All GPUs."""
        return sum(gpus for _cpus, gpus in self.nodes)


def read_capacity() -> Capacity:
    """The capacity of the cluster that this process is connected to."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = tuple((float(node.get("CPU", 0.0)), float(node.get("GPU", 0.0))) for node in alive)
    free = float(ray.available_resources().get("CPU", 0.0))
    return Capacity(nodes, max(0.0, sum(cpus for cpus, _gpus in nodes) - free))
