"""A real Ray head node with its dashboard, as a process of its own on this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Head:
    """A running head node."""

    jobs_address: str
    gcs_address: str
    environment: dict[str, str]
    """What commands that talk to it need: its token's home, and this project first."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ray_head(directory: Path, *, cpus: int = 2, **more: str) -> Iterator[Head]:
    """Start a head node, wait for its job agent, and end all of its processes afterwards."""
    home = directory / "home"
    home.mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(PROJECT), **more}
    scratch = tempfile.mkdtemp(prefix="ray_head_")  # short: Ray puts sockets below it
    port, dashboard = free_port(), free_port()
    command = ["ray", "start", "--head", "--block", "--port", str(port), "--num-cpus", str(cpus), "--temp-dir", scratch]
    command += ["--dashboard-port", str(dashboard), "--dashboard-host", "127.0.0.1"]
    server = _start(command, environment)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_for_jobs(address, environment)
        yield Head(address, f"127.0.0.1:{port}", environment)
    finally:
        end(server)
        shutil.rmtree(scratch, ignore_errors=True)


def read_state(head: Head, what: str) -> list[dict[str, str]]:
    """What the cluster's dashboard knows of its `nodes` or `tasks`."""
    place, options = f"{head.jobs_address}/api/v0/{what}", {"limit": "1000", "detail": "true"}
    found = requests.get(place, params=options, headers=_token(head.environment), timeout=30)
    found.raise_for_status()
    rows: list[dict[str, str]] = found.json()["data"]["result"]["result"]
    return rows


def _alive_nodes(head: Head) -> int:
    return sum(node["state"] == "ALIVE" for node in read_state(head, "nodes"))


def _token(environment: dict[str, str]) -> dict[str, str]:
    path = Path(environment["HOME"]) / ".ray" / "auth_token"
    secret = environment.get("RAY_AUTH_TOKEN") or (path.read_text().strip() if path.exists() else "")
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        psutil.wait_procs(family, timeout=30)
    process.wait(timeout=30)


def _wait_for_jobs(address: str, environment: dict[str, str]) -> None:
    """Until the head lists its jobs: the agent that runs them takes a while to come up."""
    give_up = time.monotonic() + 120
    while True:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{address}/api/jobs/", headers=_token(environment), timeout=10).status_code == 200:
                return
        assert time.monotonic() < give_up, "the head node does not come up"
        time.sleep(0.5)


@contextlib.contextmanager
def worker_node(head: Head, *, cpus: int = 1, hidden: Path | None = None, **more: str) -> Iterator[int]:
    """A further node of the same cluster, a raylet of its own; yields its process id.

    Args:
        head: the head node.
        cpus: what it offers.
        hidden: a directory in whose place this node alone sees a small empty disk; needs root.
        more: its own environment variables.
    """
    # Nodes of one session directory would unpack a job's code into one place, and remove it there, each for itself.
    scratch = tempfile.mkdtemp(prefix="ray_node_")
    command = ["ray", "start", "--block", "--address", head.gcs_address, "--num-cpus", str(cpus), "--temp-dir", scratch]
    before = max(1, _alive_nodes(head))  # the head may not be listed yet
    node = _start(command, {**head.environment, **more}, hidden)
    try:
        give_up = time.monotonic() + 120
        while _alive_nodes(head) <= before:
            assert time.monotonic() < give_up, "the node does not join"
            if node.poll() is not None:  # a port was taken meanwhile
                node = _start(command, {**head.environment, **more}, hidden)
            time.sleep(0.3)
        yield node.pid
    finally:
        end(node)
        shutil.rmtree(scratch, ignore_errors=True)


def _start(command: list[str], environment: dict[str, str], hidden: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a node with ports of its own: the session's own cluster has the usual ones."""
    for option in ("--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--metrics-export-port"):
        command = [*command, option, str(free_port())]
    if hidden is not None:
        hide = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
        command = ["unshare", "--mount", "sh", "-c", hide, str(hidden), *command]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
