"""Sweeps and cross-validations in a workspace on an object store, begun on one machine and finished on another."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from machines import Machines, tracked_store
from ray_head import ray_head, worker_node
from s3_server import SECRET, S3Server, all_bytes
from training_runs import SMALL, write_dataset

import secauditai.cross_validation as cross_validation
from secauditai.config.files import NamedConfigs, parse_layer
from secauditai.runs import Run, list_runs, read_metrics
from secauditai.storage import open_storage

pytestmark = pytest.mark.slow
FOLDS = "train finetune --data samples.yaml --folds 2 --max-length 64 --vocab-size 320 --batch-size 8 --epochs 1"
SETTINGS = {**SMALL, "max_steps": 120, "eval_interval": 20, "checkpoint_interval": 50}
RATES = [1e-9, 1e-3, 2e-9]
"""Of the three trials: the first to come to a rung goes on, the second is better, the third is not."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, str]]:
    """A store and the address of an MLflow server."""
    with tracked_store(tmp_path_factory.mktemp("servers")) as found:
        yield found


@pytest.fixture
def machines(servers: tuple[S3Server, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    server, tracking = servers
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    return Machines(server, f"s3://models/{tmp_path.name}", tmp_path, monkeypatch)


def assert_no_secret_is_kept(machines: Machines, directory: Path, *said: str) -> None:
    storage = open_storage(machines.address)
    kept = [storage.read_bytes(file.key) for file in storage.files()]
    assert kept
    assert SECRET.encode() not in b"".join([*kept, all_bytes(directory), "".join(said).encode()])


def test_a_cross_validation_goes_on_on_another_machine(
    cli: Cli,
    machines: Machines,
    tmp_path: Path,
    samples_yaml: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = (*FOLDS.split(), "--precision", "fp32", "--threads", 1)
    there = ("--workspace", machines.address)
    samples_yaml(20)
    real, trained = cross_validation.train, []

    def train(*plan: object, **options: object) -> object:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(1)
        return real(*plan, **options)  # type: ignore[arg-type]

    machines.become("one")
    monkeypatch.setattr(cross_validation, "train", train)
    assert cli(*command, *there).code == 130
    (first,) = list_runs(machines.open("one"), "trained_model")
    shutil.rmtree(tmp_path / "one")
    (tmp_path / "samples.yaml").unlink()

    machines.become("two")
    trained.clear()
    done = cli("train", "resume", "--model", "trained_model", *there, "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert trained == [1]
    assert document["folds"][0]["run_id"] == first.root.name
    assert document["folds"][0]["run_dir"] == f"{machines.address}/runs/trained_model/{first.root.name}"
    assert document["pooled"]["n"] == 40
    assert list(document["versions"]) == [str(document["best_fold"])]

    machines.become("three")
    samples_yaml(20)
    again = cli(*command, *there, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == document
    assert trained == [1]
    assert_no_secret_is_kept(machines, tmp_path, done.out, done.err, again.err)


def tune(environment: Mapping[str, str], machines: Machines, *words: object) -> "subprocess.Popen[str]":
    """The command in a process of its own."""
    line = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train", "tune"]
    line += ["--workspace", machines.address, "--json", *map(str, words)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(line, env=environment, text=True, **pipes)


def run_of_trial(workspace: Path, trial: str) -> Run | None:
    return next((run for run in list_runs(workspace, "c") if run.info.trial_id == trial), None)


def is_at(workspace: Path, trial: str, step: int) -> bool:
    run = run_of_trial(workspace, trial)
    return run is not None and any(record["step"] >= step for record in read_metrics(run.layout.metrics))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_sweep_goes_on_with_driver_and_trials_on_other_machines(cli: Cli, machines: Machines, tmp_path: Path) -> None:
    there, storage, here = ("--workspace", machines.address), open_storage(machines.address), machines.open("one")
    data = write_dataset(tmp_path)
    layer = {**SETTINGS, "data": str(data), "learning_rate": {"choice": RATES}}
    NamedConfigs(here).create("c", parse_layer(layer))
    search = ("--sampler", "grid", "--trial-scheduler", "asha", "--max-concurrent", 1)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = tune(environment, machines, "--config", "c", *search)
    give_up = time.monotonic() + 300
    while not is_at(here, "0001", 25):
        assert time.monotonic() < give_up, "the second trial does not come to its work"
        time.sleep(0.2)
    driver.terminate()
    _, stopped = driver.communicate(timeout=300)
    assert driver.returncode == 130, stopped

    machines.become("two")
    kept = json.loads(cli("runs", "prune", "--name", "c", "--yes", *there, "--json").out)["kept"]
    assert ["which is interrupted" in reason for reason in kept.values()] == [True, True]
    (ledger,) = [file.key for file in storage.files("sweeps") if file.key.endswith("ledger.json")]
    begun = json.loads(storage.read_bytes(ledger))
    assert [trial["status"] for trial in begun["trials"]] == ["finished", "interrupted"]
    assert str(tmp_path / "one") not in json.dumps(begun)
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(data)

    with ray_head(tmp_path, cpus=0) as head, worker_node(head, XDG_CACHE_HOME=str(tmp_path / "three")):
        out, said = tune(head.environment, machines, "--resume", "--address", head.gcs_address).communicate(timeout=400)
    assert out, said
    sweep = json.loads(out)
    assert sweep["sweep_id"] == begun["sweep_id"]
    assert [trial["status"] for trial in sweep["trials"]] == ["finished", "finished", "stopped"]
    assert sweep["trials"][2]["rung"] == 0  # which it could only tell from the others' values
    for before, after in zip(begun["trials"], sweep["trials"], strict=False):
        assert after["run_dir"] == f"{machines.address}/{before['run_dir']}"
    assert sweep["trials"][0]["seconds"] == begun["trials"][0]["seconds"]
    assert (sweep["best"]["trial_id"], sweep["best"]["version"]) == ("0001", 1)

    workspace = machines.open("four")
    assert NamedConfigs(workspace).read("c-best")["learning_rate"] == RATES[1]
    again = json.loads(cli("train", "tune", "--resume", *there, "--json").out)
    assert (again["trials"], again["best"]) == (sweep["trials"], sweep["best"])
    assert storage.read_bytes(ledger.replace("ledger.json", "summary.html")).count(b"<tr") == 4
    assert json.loads(cli("train", "monitor", "--model", "c", "--once", *there, "--json").out)["version"] == 1
    assert len(list_runs(workspace, "c")) == 3
    assert_no_secret_is_kept(machines, tmp_path, stopped, out, said)
