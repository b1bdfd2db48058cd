"""The same command line on a cluster of several nodes, through its Jobs API, from another directory."""

import json
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import make_samples
from fault_runs import wait_until
from ray_head import PROJECT, Head, ray_head, read_state, worker_node
from tracking_server import Server

from secauditai.config.files import NamedConfigs, parse_layer, resolve_config
from secauditai.data.dataset import open_dataset
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.runs import Run, list_runs, newest_run
from secauditai.training.attempt import AttemptLayout, read_ranks
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.launch import launch
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.request import TrainRequest

pytestmark = [pytest.mark.slow, pytest.mark.ray]
SWEPT = {
    "max_length": 64,
    "vocab_size": 320,
    "batch_size": 8,
    "max_steps": 200,
    "eval_interval": 100,
    "threads": 1,
    "learning_rate": {"loguniform": [1e-4, 1e-2]},
}
SETTINGS = {
    "max_length": 64,
    "vocab_size": 320,
    "batch_size": 8,
    "max_steps": 6,
    "num_workers": 2,
    "threads": 1,
    "precision": "fp32",
}
TOKEN = secrets.token_hex(32)
"""What the cluster asks of everybody."""


def flags(settings: dict[str, Any]) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


MAIN = "from secauditai.cli.app import main; main()"

Command = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    directory = tmp_path_factory.mktemp("cluster")
    server = Server(directory)
    server.start()
    try:
        variables = {"MLFLOW_TRACKING_URI": server.uri, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        with ray_head(directory, cpus=2, **variables) as found, worker_node(found), worker_node(found):
            yield found
    finally:
        server.stop()


@pytest.fixture
def run(head: Head, tmp_path: Path) -> Command:
    """A command of the user's, in a directory that is neither the project's nor the cluster's."""
    here = tmp_path / "elsewhere"
    here.mkdir()

    def run(*words: str) -> tuple[int, dict[str, Any], str]:
        done = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            cwd=here,
            env=head.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return done.returncode, json.loads(done.stdout) if done.stdout.strip() else {}, done.stderr

    return run


def test_from_raw_data_to_an_onnx_file_on_two_nodes(head: Head, run: Command, tmp_path: Path, ray_cluster: str) -> None:
    (tmp_path / "elsewhere" / "raw.yaml").write_text(yaml.safe_dump({"samples": make_samples(20)}))
    shared = ["--workspace", str(tmp_path / "shared"), "--json"]
    there = ["--address", head.jobs_address]

    code, prepared, told = run("train", "prepare", "--dataset", "raw.yaml", "--output", "data", *there, "--json")
    assert code == 0, told
    assert prepared["kept"] == 40
    assert prepared["output"] == str(tmp_path / "elsewhere" / "data")
    data = split_dataset(open_dataset(tmp_path / "elsewhere" / "data"), SplitPlan(seed=1)).dataset

    code, trained, told = run("train", "finetune", "--data", "data", *flags(SETTINGS), *there, *shared)
    assert code == 0, told
    assert trained["version"] == 1
    assert "Staging" in told or "Job finetune-" in told
    saved = [task["node_id"] for task in read_state(head, "tasks") if task["name"] == "save_and_export"]
    gate = ["--min", "f1=1.1"]
    code, evaluated, told = run("train", "evaluate", "--model", "trained_model", *gate, *there, *shared)
    assert code == 3, told
    assert evaluated["n"] == data.table("test").num_rows
    code, _, told = run("train", "export", "--model", "trained_model", "--output", "m.onnx", *there, *shared)
    assert code == 0, told
    assert (tmp_path / "elsewhere" / "m.onnx").stat().st_size > 10_000

    _, listed, _ = run("jobs", "list", *there, "--json")
    assert [job["exit_code"] for job in listed["jobs"]] == [0, 0, 3, 0]
    assert TOKEN not in json.dumps(listed)

    config = resolve_config({**SETTINGS, "data": str(tmp_path / "elsewhere" / "data")})
    local = prepare_run(plan_training(TrainRequest("finetune", "trained_model", config, tmp_path / "local")))
    launch(local)
    runs = [newest_run(tmp_path / "shared", "trained_model"), local]
    newest = [list_checkpoints(run.layout.checkpoints)[-1] for run in runs]
    assert newest[0].weights.read_bytes() == newest[1].weights.read_bytes()
    there, here = ([rank.node for rank in read_ranks(AttemptLayout(run.layout.attempt))] for run in runs)
    assert len(set(there)) == 2  # not the head, which has CPUs for both
    assert set(saved) <= set(there)
    assert len(saved) == 1
    assert len(set(here)) == 1


def test_a_script_submitted_by_hand_trains_and_registers(head: Head, tmp_path: Path) -> None:
    submit = [Path(sys.executable).parent / "ray", "job", "submit", "--address", head.jobs_address]
    arguments = ["--config", "smoke.yaml", "--workspace", tmp_path / "w"]
    command = [*submit, "--working-dir", PROJECT / "jobs", "--", sys.executable, "train.py", *arguments]
    done = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Registered smoke/1" in done.stdout
    (log,) = (tmp_path / "w" / "runs" / "smoke").glob("*/logs/rank_0.log")
    assert ", 1 threads, " in log.read_text()  # the head has two, but work goes to the others


def trained_by(node: int, workspace: Path) -> Run | None:
    """The run that a process of this node trains right now."""
    for run in list_runs(workspace, "c"):
        for rank in read_ranks(AttemptLayout(run.layout.attempt)):
            with suppress(psutil.NoSuchProcess):
                if node in {parent.pid for parent in psutil.Process(rank.pid).parents()}:
                    return run
    return None


def test_a_sweep_trains_on_every_node_and_outlives_one(head: Head, tmp_path: Path) -> None:
    here, shared = tmp_path / "elsewhere", tmp_path / "shared"
    here.mkdir()
    (here / "raw.yaml").write_text(yaml.safe_dump({"samples": make_samples(20)}))
    NamedConfigs(shared).create("c", parse_layer({**SWEPT, "data": "raw.yaml"}))
    words = ["train", "tune", "--config", "c", "--num-samples", "4", "--workspace", str(shared), "--json"]
    with ExitStack() as stack:
        node = stack.enter_context(ExitStack())
        doomed = node.enter_context(worker_node(head))
        driver = subprocess.Popen(
            [sys.executable, "-c", MAIN, *words, "--address", head.jobs_address],
            cwd=here,
            env=head.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        stack.callback(driver.kill)
        wait_until(lambda: trained_by(doomed, shared) is not None, "a trial on the third node", 240)
        lost = trained_by(doomed, shared)
        node.close()
        out, told = driver.communicate(timeout=300)
    assert driver.returncode == 0, told
    assert lost is not None, "its trial ended before its node did"
    sweep = json.loads(out)
    assert sweep["max_concurrent"] == 3
    assert [trial["status"] for trial in sweep["trials"]] == ["finished"] * 4
    assert {trial["run_dir"]: trial["deaths"] for trial in sweep["trials"]} == {
        str(run.root): int(run.root == lost.root) for run in list_runs(shared, "c")
    }
    assert sweep["best"]["version"] == 1
