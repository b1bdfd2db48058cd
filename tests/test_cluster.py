"""Ray started in the background, in a process of its own."""

import subprocess
import sys

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
