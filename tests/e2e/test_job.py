"""A real `ray job submit` against a real head node on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

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
    head = [ray, "start", "--head", "--port", str(port), "--dashboard-port", str(dashboard), "--block"]
    head += ["--dashboard-host", "127.0.0.1", "--temp-dir", f"/tmp/ray_job_test_{os.getpid()}", "--num-cpus", "2"]
    server = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        submit = [ray, "job", "submit", "--address", address, "--working-dir", str(PROJECT / "jobs")]
        arguments = ["--config", "smoke.yaml", "--workspace", str(tmp_path / "w")]
        command = [*submit, "--", sys.executable, "train.py", *arguments]
        give_up = 40
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        while done.returncode != 0 and "Failed to connect" in done.stdout + done.stderr and give_up:
            give_up -= 1
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert "Registered smoke/1" in done.stdout
        logs = list((tmp_path / "w" / "runs" / "smoke").glob("*/logs/rank_0.log"))
        assert len(logs) == 1
    finally:
        server.terminate()
        server.wait(timeout=30)
