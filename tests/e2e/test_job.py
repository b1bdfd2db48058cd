"""A real `ray job submit` against a real head node on this machine."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray_head import PROJECT, ray_head


@pytest.mark.slow
@pytest.mark.ray
def test_a_submitted_job_trains_and_registers(tmp_path: Path) -> None:
    with ray_head(tmp_path) as head:
        submit = [Path(sys.executable).parent / "ray", "job", "submit", "--address", head.jobs_address]
        arguments = ["--config", "smoke.yaml", "--workspace", tmp_path / "w"]
        command = [*submit, "--working-dir", PROJECT / "jobs", "--", sys.executable, "train.py", *arguments]
        done = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Registered smoke/1" in done.stdout
    logs = list((tmp_path / "w" / "runs" / "smoke").glob("*/logs/rank_0.log"))
    assert len(logs) == 1
    assert ", 2 threads, " in logs[0].read_text()  # Ray gives a worker one, and this one has the node for itself
