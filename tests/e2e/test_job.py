"""A real `ray job submit` against a real head node on this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

PROJECT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_job_trains_and_registers(tmp_path: Path) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    port, dashboard = free_port(), free_port()
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    environment["PYTHONPATH"] = str(PROJECT)
    scratch = tempfile.mkdtemp(prefix="ray_job_")  # short: Ray puts sockets below it
    head = [ray, "start", "--head", "--port", str(port), "--dashboard-port", str(dashboard), "--block"]
    for option in ("--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--metrics-export-port"):
        head += [option, str(free_port())]  # the session's own cluster has the usual ones
    head += ["--dashboard-host", "127.0.0.1", "--temp-dir", scratch, "--num-cpus", "2"]
    server = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        submit = [ray, "job", "submit", "--address", address, "--working-dir", str(PROJECT / "jobs")]
        arguments = ["--config", "smoke.yaml", "--workspace", str(tmp_path / "w")]
        command = [*submit, "--", sys.executable, "train.py", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        give_up = time.monotonic() + 120  # the head and its job agent take a while to come up
        while "submitted successfully" not in done.stdout + done.stderr and time.monotonic() < give_up:
            time.sleep(2)
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Registered smoke/1" in done.stdout
        logs = list((tmp_path / "w" / "runs" / "smoke").glob("*/logs/rank_0.log"))
        assert len(logs) == 1
    finally:
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        server.wait(timeout=30)
        shutil.rmtree(scratch, ignore_errors=True)
