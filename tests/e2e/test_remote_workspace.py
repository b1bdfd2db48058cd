"""A workspace on an object store: one machine trains; another, with an empty cache, does everything else."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from machines import Machines, tracked_store
from s3_server import SECRET, all_bytes
from training_runs import history, weights

from secauditai.runs import list_runs
from secauditai.storage import open_storage
from secauditai.training.mirrored import fetch_run

pytestmark = pytest.mark.slow
SETTINGS = "--max-length 64 --batch-size 8 --max-steps 6 --eval-interval 3 --checkpoint-interval 2 --threads 1"


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    with tracked_store(tmp_path) as (server, tracking):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
        yield Machines(server, "s3://models/team", tmp_path, monkeypatch)


def test_another_machine_finds_everything(
    cli: Cli, machines: Machines, tmp_path: Path, samples_yaml: Callable[..., Path]
) -> None:
    said: list[str] = []

    def run(*words: object) -> dict[str, Any]:
        done = cli(*words, "--workspace", machines.address, "--json")
        said.extend((done.out, done.err))
        assert done.code == 0, done.err
        return json.loads(done.out)  # type: ignore[no-any-return]

    samples_yaml(20)
    cli("train", "prepare", "--dataset", "samples.yaml", "--output", "data")
    cli("train", "split", "--dataset", "data")
    machines.become("one")
    run("train", "config", "create", "--name", "mine", "--type", "transformer")
    trained = run("train", "start", "--config", "mine", "--data", "data", "--vocab-size", 320, *SETTINGS.split())
    assert trained["version"] == 1
    assert trained["run_dir"] == f"s3://models/team/runs/mine/{trained['run_id']}"
    shutil.rmtree(tmp_path / "one")
    shutil.rmtree(tmp_path / "data")

    machines.become("two")
    assert run("train", "monitor", "--model", "mine", "--once")["status"] == "finished"
    assert run("train", "monitor", "--model", "mine", "--once")["last_checkpoint"] == 6
    evaluated = run("train", "evaluate", "--model", "mine")
    assert evaluated["n"] > 0
    assert evaluated["data"].startswith(f"the test split of {machines.address}/cache/datasets/")
    run("train", "export", "--model", "mine", "--output", "mine.onnx")
    assert run("train", "verify", "--model", "mine.onnx")["ok"]
    (listed,) = run("runs", "list")["runs"]
    assert (listed["step"], listed["version"]) == (6, 1)
    assert run("train", "resume", "--model", "mine")["version"] == 1

    machines.become("three")
    assert (
        run("train", "report", "--model", "mine", "--output", "r.html")["evaluation_id"] == evaluated["evaluation_id"]
    )
    branched = run("train", "resume", "--model", "mine", "--checkpoint", "checkpoint_2.pt")
    assert branched["version"] == 2
    first, second = list_runs(machines.open("four"))
    fetch_run(first)
    fetch_run(second)
    assert weights(first) == weights(second)
    assert history(first) == history(second)
    pruned = run("runs", "prune", "--name", "mine", "--keep-last", 1, "--registered", "--yes")
    assert [removed["run_id"] for removed in pruned["runs"]] == [trained["run_id"]]
    storage = open_storage(machines.address)
    assert storage.files(f"runs/mine/{trained['run_id']}") == []
    assert run("train", "evaluate", "--model", "mine/1", "--test-data", "samples.yaml")["n"] == 40

    kept = [storage.read_bytes(file.key) for file in storage.files()]
    assert kept
    assert SECRET.encode() not in b"".join([*kept, all_bytes(tmp_path), "".join(said).encode()])
