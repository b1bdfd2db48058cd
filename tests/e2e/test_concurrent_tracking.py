"""Two trainings and a sweep at once, tracked by a real MLflow server on PostgreSQL, or by sqlite on one host."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Cli
from postgres import mlflow_server, postgres

from secauditai.runs import read_metrics

COMMAND = "from secauditai.cli.app import main; main()"
SMALL = {"max_length": 64, "vocab_size": 320, "batch_size": 8, "max_steps": 6, "log_interval": 1, "eval_interval": 3}
TRIALS = 2


@pytest.fixture(params=["postgresql", "sqlite"])
def tracking(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which clients find the tracking store."""
    if request.param == "sqlite":
        yield {}
        return
    with postgres() as (database, password), mlflow_server(tmp_path / "artifacts", database, password) as client:
        yield client


@pytest.mark.slow
@pytest.mark.ray
def test_everything_arrives_once(
    cli: Cli,
    ray_cluster: str,
    tracking: dict[str, str],
    samples_yaml: Callable[..., Path],
    tmp_path: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = samples_yaml(30)
    environment = {**os.environ, **tracking}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**SMALL, "learning_rate": {"choice": [1.0e-3, 1.0e-4]}}))
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(SMALL))

    def begin(*arguments: object) -> "subprocess.Popen[str]":
        words = ["train", *map(str, arguments), "--data", str(data), "--workspace", str(workspace), "--json"]
        line = [sys.executable, "-c", COMMAND, *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, env=environment, cwd=tmp_path, text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    search = ("tune", "--config", "sweep.yaml", "--num-samples", TRIALS, "--max-concurrent", 1)
    trainings = [begin("start", "--config", "one.yaml", "--name", name) for name in ("first", "second")]
    if tracking:  # which the session's Ray does not know
        swept = _document(begin(*search))
    else:
        done = cli("train", *search, "--data", data, "--workspace", workspace, "--json")
        assert done.code == 0, done.err
        swept = json.loads(done.out)
    trained = [_document(process) for process in trainings]

    for name, value in tracking.items():
        monkeypatch.setenv(name, value)
    from secauditai.tracking.registry import resolve_model
    from secauditai.tracking.store import open_store, tracking_uri

    store = open_store(workspace)
    runs = _all_runs(store.client, store.experiment_id)
    assert Counter(run.info.status for run in runs) == {"FINISHED": 2 + 1 + TRIALS}
    parents = Counter(run.data.tags.get("mlflow.parentRunId") for run in runs)
    assert parents == {None: 3, swept["mlflow_run_id"]: TRIALS}
    with_files = [run for run in runs if run.data.tags.get("run_dir")]
    assert len(with_files) == 2 + TRIALS
    for run in with_files:
        _assert_same_history(store.client, run)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(workspace))
    (workspace / "runs").rename(tmp_path / "runs")  # another machine has no run directories: models come from MLflow
    elsewhere = tmp_path / "elsewhere"
    for name, version in [*((d["model"], d["version"]) for d in trained), ("sweep", swept["best"]["version"])]:
        assert version == 1
        found = resolve_model(f"{name}/1", elsewhere)
        assert found.bundle is not None
        assert found.bundle.is_relative_to(elsewhere)
        assert (found.bundle / "model.safetensors").is_file()
    if tracking:
        _assert_closed(tracking["MLFLOW_TRACKING_URI"])
        written = [path for path in (*workspace.rglob("*"), *(tmp_path / "runs").rglob("*")) if path.is_file()]
        secret = tracking["MLFLOW_TRACKING_PASSWORD"].encode()
        assert [path for path in written if secret in path.read_bytes()] == []


def _document(process: "subprocess.Popen[str]") -> Any:
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err[-3000:]
    return json.loads(out)


def _all_runs(client: Any, experiment: str) -> list[Any]:
    return list(client.search_runs([experiment], max_results=100))


def _assert_same_history(client: Any, run: Any) -> None:
    """What MLflow has of a run is what its file has: every step of every kind, once."""
    records = read_metrics(Path(run.data.tags["run_dir"]) / "metrics.jsonl")
    for kind, expected in (("train", 6), ("val", 2)):
        steps = [record["step"] for record in records if record["kind"] == kind and "loss" in record]
        assert len(steps) == expected
        history = client.get_metric_history(run.info.run_id, f"{kind}/loss")
        assert sorted(metric.step for metric in history) == steps


def _assert_closed(uri: str) -> None:
    """Without a password there is no answer, and a foreign host name is refused."""
    address = f"{uri}/api/2.0/mlflow/registered-models/search"
    for headers, codes in (({}, (401,)), ({"Host": "evil.example"}, (401, 403))):
        with (
            pytest.raises(urllib.error.HTTPError) as refused,
            contextlib.closing(urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30)),
        ):
            pass
        assert refused.value.code in codes
