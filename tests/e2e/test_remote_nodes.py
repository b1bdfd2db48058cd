"""Two nodes that share no directory train one run in a workspace on an object store."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from machines import Machines
from ray_head import Head, ray_head, worker_node
from s3_server import s3_server
from tracking_server import Server
from training_runs import history, weights

from secauditai.runs import list_runs, newest_run
from secauditai.training.mirrored import fetch_run

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SETTINGS = "--max-length 64 --vocab-size 320 --batch-size 8 --max-steps 6 --num-workers 2 --threads 1 --precision fp32"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    tracking = Server(tmp_path)
    tracking.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking.uri)
    try:
        with s3_server() as server:
            server.create_bucket("work")
            yield Machines(server, "s3://work/team", tmp_path, monkeypatch)
    finally:
        tracking.stop()


@pytest.fixture
def head(machines: Machines, tmp_path: Path) -> Iterator[Head]:
    caches = [{"XDG_CACHE_HOME": str(tmp_path / name)} for name in ("head", "left", "right")]
    with contextlib.ExitStack() as nodes:
        found = nodes.enter_context(ray_head(tmp_path, cpus=0, **caches[0]))
        for cache in caches[1:]:
            nodes.enter_context(worker_node(found, **cache))
        yield found


def test_nodes_without_a_shared_directory_train_one_run(
    machines: Machines, head: Head, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    samples_yaml(20)

    def run(*words: str) -> dict[str, Any]:
        code = "from secauditai.cli.app import main; main()"
        environment = {**head.environment, "XDG_CACHE_HOME": os.environ["XDG_CACHE_HOME"]}
        done = subprocess.run(
            [sys.executable, "-c", code, *words, "--data", "samples.yaml", *SETTINGS.split(), "--json"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    machines.become("laptop")
    trained = run("train", "finetune", "--address", head.jobs_address, "--workspace", machines.address)
    assert trained["version"] == 1
    (there,) = list_runs(machines.open("laptop"))
    fetch_run(there)
    for node in ("left", "right"):
        assert list((tmp_path / node).rglob("recipe.json")), node
    local = tmp_path / "local"
    del head.environment["MLFLOW_TRACKING_URI"]
    run("train", "finetune", "--workspace", str(local))
    here = newest_run(local, "trained_model")
    assert weights(there) == weights(here)
    assert history(there) == history(here)
