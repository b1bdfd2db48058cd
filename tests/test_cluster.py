"""Connecting to Ray, in a process of its own."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from secauditai.cluster import ensure_ray
from secauditai.config.settings import ExecutionSettings
from secauditai.errors import ClusterError
from secauditai.training.devices import choose_devices_at

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


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no test of this process had connected to Ray."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("unconnected")
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "[::1]:1", "127.0.0.1:99999"])
def test_an_address_without_a_cluster_is_one_line(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ClusterError, match=f"no Ray cluster answers at {re.escape(address)}: .*leave --address out"):
        ensure_ray(address)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("unconnected")
def test_where_the_environment_has_the_address_the_hint_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterError, match="unset RAY_ADDRESS to run on this machine"):
        choose_devices_at(None, ExecutionSettings(num_workers="2"))


@pytest.mark.slow
def test_a_token_that_is_missing_is_told_and_no_crash_of_the_doctor(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    command = [sys.executable, "-c", "from secauditai.cli.app import main; main()"]

    def run(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [*command, *words, "--address", f"127.0.0.1:{listening.getsockname()[1]}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    with socket.create_server(("127.0.0.1", 0)) as listening:
        for words, code in ((("train", "validate", "--dataset", "security_dataset"), 1), (("doctor",), 3)):
            ended, told = run(*words, *(["--ray-data-min-mb", "0"] if code == 1 else []))
            assert ended == code, told
            assert "Token authentication is enabled but no authentication token was found" in told
            assert "RAY_AUTH_TOKEN" in told
            assert "Traceback" not in told
