"""Workers on several nodes that share no directory, in a workspace on an object store."""

import json
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_runs import NAME, finetune_flags, run_case, run_of, same, wait_for_step, wait_until
from machines import Machines
from ray_head import Head, ray_head, read_state, worker_node
from s3_server import S3Server
from tracking_server import Server

from secauditai.runs import Run, list_runs, read_metrics
from secauditai.storage import open_storage
from secauditai.training.attempt import AttemptLayout, read_ranks
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.mirrored import fetch_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(tmp_path_factory.mktemp("tracking"))
    found.start()
    yield found
    found.stop()


@pytest.fixture
def head(server: S3Server, tracking: Server, tmp_path: Path) -> Iterator[Head]:
    """A head that computes nothing and two nodes with a CPU each, all with caches of their own."""
    common = {**server.environment, "MLFLOW_TRACKING_URI": tracking.uri}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    caches = [str(tmp_path / name) for name in ("head", "a", "b")]
    with (
        ray_head(tmp_path, cpus=0, XDG_CACHE_HOME=caches[0], **common, **token) as found,
        worker_node(found, XDG_CACHE_HOME=caches[1]),
        worker_node(found, XDG_CACHE_HOME=caches[2]),
    ):
        yield found


def begin(head: Head, address: str, cache: Path, words: list[object]) -> subprocess.Popen[str]:
    """Start a command on a machine whose mirror of the workspace is in a cache."""
    # A shell that runs tests in the background has them ignore SIGINT, and whatever they start.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from secauditai.cli.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words), "--address", address],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**head.environment, "XDG_CACHE_HOME": str(cache)},
    )


def jobs(head: Head, *words: str) -> dict[str, Any]:
    """What `jobs` says of the cluster."""
    code = "from secauditai.cli.app import main; main()"
    line = [sys.executable, "-c", code, "jobs", *words, "--address", head.jobs_address, "--json"]
    return dict(json.loads(subprocess.check_output(line, env=head.environment, text=True, timeout=300)))


def detach(follower: subprocess.Popen[str]) -> str:
    """Press Ctrl-C where a job is followed; its id."""
    assert follower.stdout is not None
    said = ""
    while "\nJob " not in f"\n{said}":
        said += (line := follower.stdout.readline())
        assert line, said
    follower.send_signal(signal.SIGINT)
    rest, _ = follower.communicate(timeout=60)
    assert follower.returncode == 130, said + rest
    (job_id,) = re.findall(r"Detached; job (\S+) goes on\.", rest)
    assert f"Next: secauditai jobs logs {job_id} --follow" in rest
    return str(job_id)


def test_two_nodes_train_as_one_are_stopped_and_resumed_bit_for_bit(
    data: Path, machines: Machines, head: Head, tmp_path: Path, undisturbed: Run
) -> None:
    here = machines.open("head")  # which drives what comes as a job
    job = detach(begin(head, head.jobs_address, tmp_path / "user", finetune_flags(data, machines.address)))
    stopped = begin(head, head.jobs_address, tmp_path / "user", ["jobs", "logs", job, "--follow"])
    wait_until(lambda: stopped.poll() is not None or bool(list(here.glob("runs/*/*/metrics.jsonl"))), "training")
    assert stopped.poll() is None, stopped.communicate()[0]
    run = run_of(here)
    wait_for_step(run, 10)
    jobs(head, "stop", job)
    said, _ = stopped.communicate(timeout=300)
    assert stopped.returncode != 0, said
    assert "Traceback" not in said
    assert jobs(head, "status", job)["status"] == "STOPPED"
    assert run.info.status == "stopped"
    newest = list_checkpoints(run.layout.checkpoints)[-1]
    assert newest.step == max(record["step"] for record in read_metrics(run.layout.metrics))
    ranks = read_ranks(AttemptLayout(run.layout.attempt))
    heads = {node["node_id"] for node in read_state(head, "nodes") if node["is_head_node"]}
    assert [rank.index for rank in ranks] == [0, 1]
    assert len({rank.node for rank in ranks} - heads) == 2
    for index in (0, 1):
        assert f"rank {index} of 2 on cpu" in (run.layout.logs / f"rank_{index}.log").read_text()

    resume: list[object] = ["train", "resume", "--model", NAME, "--workspace", machines.address]
    resumed = begin(head, head.gcs_address, tmp_path / "driver", resume)  # a driver that is no node
    said, _ = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, said
    (seen,) = list_runs(machines.open("reader"))
    fetch_run(seen)
    same(seen, undisturbed)
    assert (seen.info.status, seen.info.model_version) == ("finished", 1)
    stored = {
        file.key.removeprefix(f"runs/{NAME}/{seen.root.name}/") for file in open_storage(machines.address).files()
    }
    assert {"logs/rank_0.log", "logs/rank_1.log", "bundle/secauditai.json", "run.json"} <= stored


def test_a_leading_node_that_dies_and_comes_back_costs_a_restart_and_not_a_bit(
    data: Path, machines: Machines, server: S3Server, tracking: Server, tmp_path: Path, undisturbed: Run
) -> None:
    where = {"REMOTE_WORKSPACE": machines.address, "REMOTE_TRACKING": tracking.uri, **server.environment}
    found = run_case("remote", data, tmp_path, **where)
    assert (found["attempts"], found["finished"]) == (2, True)
    assert [text for text in found["said"] if "restart 1 of 3 from step" in text]
    (seen,) = list_runs(machines.open("reader"))
    fetch_run(seen)
    same(seen, undisturbed)
    assert list((tmp_path / "other").rglob("rank_0.log"))
    assert len(list((tmp_path / "driver").rglob("rank_*.log"))) == 2
