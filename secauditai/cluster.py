"""The door to Ray's runtime: connecting, how long that took, and what the cluster has.

Ray's own words go to its log files; a session is started at most once per process and reused.
"""

import atexit
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from secauditai.errors import ClusterError, SecAuditError

Result = TypeVar("Result")
logger = logging.getLogger("secauditai.cluster")

IN_RAY_JOB = "SECAUDITAI_IN_RAY_JOB"
"""Set in a job's processes that start workers of their own: Ray tells only the entry point that it is in a job."""
TOKEN_HINT = "Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put the cluster's token into ~/.ray/auth_token."
ANSWER_SECONDS = 10.0
"""Within which a cluster's address takes a connection."""
SILENT_SECONDS = 15.0
"""After which a wait for resources is told."""
HEAD_MARK = "node:__internal_head__"
"""The resource by which Ray marks the head node."""


@dataclass(frozen=True)
class Cluster:
    """A live connection to Ray."""

    started_here: bool
    """Whether Ray runs on this machine alone, started by this process and for it."""
    startup_seconds: float
    """Seconds that the caller waited; what `begin_ray` did beside other work does not count."""
    nodes: "tuple[Node, ...]"
    """Those that work goes to."""

    @property
    def cpus(self) -> float:
        """All CPUs for work."""
        return sum(node.cpus for node in self.nodes)


_beginning: "Beginning | None" = None
"""Of this process: Ray itself is one per process."""


class Beginning:
    """Starts or connects to Ray in a thread of its own."""

    def __init__(self, address: str | None) -> None:
        self._address, self._over = address, threading.Event()
        self._error: ClusterError | None = None
        self.started_here = False
        """Whether it started Ray, rather than finding a connection."""
        # As a daemon it outlives the main thread: see `_run`.
        self._thread = threading.Thread(target=self._run, name="ray-start", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the end of the start.

        Raises:
            ClusterError: when it failed.
        """
        if threading.current_thread() is not self._thread:
            self._over.wait()
            if self._error is not None:
                raise self._error

    def _run(self) -> None:
        import ray  # noqa: F401

        # Registered behind Ray's own exit, so that it comes before: what half a start has made would stay.
        atexit.register(self._over.wait)
        try:
            self.started_here = ensure_ray(self._address).started_here
        except ClusterError as error:
            self._error = error
        finally:
            self._over.set()
        # The kernel kills Ray's processes when the thread that started them ends, not only with this process.
        threading.Event().wait()


def begin_ray(address: str | None = None) -> None:
    """Start or connect to Ray in the background, for `ensure_ray` to find: processes start while this one works.

    An error is left for `ensure_ray` to raise.
    """
    global _beginning  # noqa: PLW0603
    if _beginning is not None or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        # What Ray does when it starts in the main thread, so that its processes are ended with this one.
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(number))
    quieten()
    start_no_idle_workers()
    _beginning = Beginning(address)


def start_no_idle_workers() -> None:
    """Keep a Ray that is started here from starting workers before there is work; must run before it is started.

    Trainings and trials start workers with an environment of their own: others only cost time.
    """
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")


def ensure_ray(address: str | None = None) -> Cluster:
    """Connect to Ray, or start it on this machine when there is no address.

    `RAY_ADDRESS` counts as an address. A connection that exists is reused.

    Raises:
        ClusterError: when the address does not answer, or asks for a token that we do not have.
    """
    started = time.monotonic()
    if _beginning is not None:
        _beginning.wait()
    quieten()
    import ray

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    begun = _beginning is not None and _beginning.started_here
    if fresh := not ray.is_initialized():
        _connect(ray, address)
    return Cluster(
        started_here=address == "local" and (fresh or begun),
        startup_seconds=time.monotonic() - started,
        nodes=tuple(work_nodes(alive_nodes())),
    )


def _connect(ray: Any, address: str) -> None:
    _check_listening(address)
    # A local session takes token authentication by itself, and would say so on every start.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    if threading.current_thread() is not threading.main_thread():
        logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # it warns that it handles no SIGTERM
    # Else Ray tells the death of a node on stdout, amid the document that a machine is to read.
    ray._private.worker._worker_logs_enabled = False
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            include_dashboard=False if address == "local" else None,
        )
    except ray.exceptions.AuthenticationError as error:
        told = error.message.splitlines()[0].rstrip(".")
        raise ClusterError(f"no access to the Ray cluster at {address}: {told}", hint=TOKEN_HINT) from None
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_answer(address, str(error)) from None


def _check_listening(address: str) -> None:
    """Refuse a host and port where nothing listens, which Ray itself would call for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_answer(address, str(error)) from None


def _no_answer(address: str, reason: str) -> ClusterError:
    given = "unset RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "leave --address out"
    hint = f"Start one with `ray start --head`, or {given} to run on this machine."
    return ClusterError(f"no Ray cluster answers at {address}: {reason}".splitlines()[0], hint=hint)


def in_ray_job() -> bool:
    """Whether this process is the entry point of a Ray job, or works for one, so that work belongs on workers."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or IN_RAY_JOB in os.environ


@dataclass(frozen=True)
class Node:
    """A node of a Ray cluster."""

    node_id: str
    name: str
    cpus: float
    gpus: float
    is_head: bool


def alive_nodes() -> list[Node]:
    """The nodes of the cluster that this process is connected to."""
    import ray

    return [
        Node(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            float(node["Resources"].get("CPU", 0.0)),
            float(node["Resources"].get("GPU", 0.0)),
            is_head=HEAD_MARK in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def work_nodes(nodes: list[Node]) -> list[Node]:
    """The nodes that work goes to: those with CPUs; in a Ray job not the head, unless all CPUs or GPUs are there."""
    able = [node for node in nodes if node.cpus > 0]
    others = [node for node in able if not node.is_head]
    needed = any(node.gpus for node in able) and not any(node.gpus for node in others)
    return others if in_ray_job() and others and not needed else able


def work_labels() -> dict[str, str]:
    """Ray's label selector for work: {} where it may go to every node with CPUs."""
    nodes = alive_nodes()
    kept = work_nodes(nodes)
    avoided = [node.node_id for node in nodes if node.is_head and node.cpus > 0 and node not in kept]
    return {"ray.io/node-id": f"!{avoided[0]}"} if avoided else {}


def away_from_work() -> bool:
    """Whether this process drives a Ray job from a node that work does not go to."""
    if not in_ray_job():
        return False
    import ray

    if not ray.is_initialized():
        return False
    kept = [node.node_id for node in work_nodes(alive_nodes())]
    return bool(kept) and ray.get_runtime_context().get_node_id() not in kept


def call_on_worker(function: Callable[..., Result], *arguments: object, cpus: float, gpus: int = 0) -> Result:
    """Call a function as a task where work goes.

    Args:
        function: a module's function; takes and returns plain data.
        arguments: what it gets.
        cpus: what it would like; it gets no more than the largest node has.
        gpus: what it needs.

    Raises:
        SecAuditError: the function's own.
    """
    import ray

    most = max(node.cpus for node in work_nodes(alive_nodes()))
    task = ray.remote(function).options(num_cpus=min(cpus, most), num_gpus=gpus, label_selector=work_labels())
    try:
        answer = task.remote(*arguments)
        if not ray.wait([answer], timeout=SILENT_SECONDS)[0]:
            wanted = f"{gpus} free GPUs" if gpus else "a free CPU"
            logger.warning("Waiting for %s on the cluster; `ray status` shows what takes them", wanted)
        found: Result = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SecAuditError):
            raise error.cause from None
        raise
    return found


def most_threads(workers: int, nodes: Sequence[Node], gpus_each: int = 0) -> int:
    """Whole CPUs that each of some workers can have at most, each on one node; 1 when they do not all fit."""

    def room(threads: int) -> int:
        return sum(int(min(node.cpus // threads, node.gpus // gpus_each if gpus_each else node.cpus)) for node in nodes)

    largest = int(max((node.cpus for node in nodes), default=1))
    return next((threads for threads in range(largest, 1, -1) if room(threads) >= workers), 1)


def cpu_share(threads: float, workers: int, cpus: float) -> float:
    """CPUs that each of some workers takes: one per thread, or an even share when there are fewer.

    Raises:
        ClusterError: when there are none.
    """
    share = round(min(threads, cpus / workers), 3)
    if share <= 0:
        raise ClusterError("the Ray cluster has no CPUs", hint="See `ray status`.")
    return share


def quieten() -> None:
    """Keep Ray's progress bars, usage notes and telemetry off the terminal; must run before Ray is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")


@dataclass(frozen=True)
class Capacity:
    """What a cluster has for work, by node, and what of it is in use."""

    nodes: tuple[tuple[float, float], ...]
    """(CPUs, GPUs) of each node that work goes to."""
    used_cpus: float = 0.0
    used_gpus: float = 0.0

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

    nodes, free = alive_nodes(), ray.available_resources()
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    used_cpus, used_gpus = max(0.0, cpus - free.get("CPU", 0.0)), max(0.0, gpus - free.get("GPU", 0.0))
    return Capacity(tuple((node.cpus, node.gpus) for node in work_nodes(nodes)), used_cpus, used_gpus)
