"""Connecting to Ray, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BEGIN = """
import time
import ray
from secauditai.cluster import begin_ray, ensure_ray

begin_ray()
cluster = ensure_ray()
time.sleep(1)  # Ray's processes must not end with the start
assert ray.get(ray.remote(lambda: 7).options(num_cpus=0).remote()) == 7
assert cluster.started_here
assert ensure_ray().started_here
"""
GIVE_UP = """
from secauditai.cluster import begin_ray

begin_ray()
raise SystemExit("bad data")
"""


@pytest.mark.ray
def test_what_was_started_in_the_background_stays() -> None:
    done = subprocess.run([sys.executable, "-c", BEGIN], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.ray
def test_a_command_that_ends_meanwhile_says_only_what_it_has_to() -> None:
    done = subprocess.run([sys.executable, "-c", GIVE_UP], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "bad data\n")


@pytest.mark.slow
def test_a_token_that_is_missing_is_told_and_no_crash_of_the_doctor(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", "from secauditai.cli.app import main; main()"]

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *words, "--address", "127.0.0.1:1"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    for words, code in ((("train", "validate", "--dataset", "security_dataset"), 1), (("doctor",), 3)):
        ended, told = run(*words, *(["--ray-data-min-mb", "0"] if code == 1 else []))
        assert ended == code, told
        assert "Token authentication is enabled but no authentication token was found" in told
        assert "RAY_AUTH_TOKEN" in told
        assert "Traceback" not in told
