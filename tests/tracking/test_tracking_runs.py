import json
import socket
from pathlib import Path

import pytest

from secauditai.errors import RunError
from secauditai.tracking.runs import (
    TrackedDataset,
    create_run,
    finish_run,
    log_artifacts,
    log_summary,
    log_tags,
    reopen_run,
)
from secauditai.tracking.store import open_store


def test_a_run_has_params_lineage_parent_and_dataset(tracked: Path) -> None:
    parent = create_run(tracked, name="sweep", params={}, tags={})
    run_id = create_run(
        tracked,
        name="model 1",
        params={"epochs": 3, "data": "s3://k:s@b/d"} | {f"p{number}": number for number in range(150)},
        tags={"run_id": "r1", "dataset_hash": "h"},
        parent=parent,
        dataset=TrackedDataset("training data", "h" * 64, "s3://k:s@b/d?sig=1", '{"train": 8}'),
    )
    store = open_store(tracked)
    run = store.client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "model 1"
    assert len(run.data.params) == 152
    assert run.data.params["data"] == "s3://b/d"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["workspace_id"] == store.workspace_id
    assert run.data.tags["dataset_hash"] == "h"
    dataset = run.inputs.dataset_inputs[0].dataset
    assert (dataset.name, dataset.digest, json.loads(dataset.source)) == (
        "training data",
        "h" * 36,
        {"uri": "s3://b/d"},
    )


@pytest.mark.parametrize(
    ("status", "word"), [("finished", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED"), ("running", "FAILED")]
)
def test_a_run_ends_with_status_and_time(tracked: Path, status: str, word: str) -> None:
    run_id = create_run(tracked, name="x", params={}, tags={})
    assert finish_run(tracked, run_id, status)
    info = open_store(tracked).client.get_run(run_id).info
    assert info.status == word
    assert info.end_time >= info.start_time


def test_a_resumed_run_is_the_same_run(tracked: Path) -> None:
    run_id = create_run(tracked, name="x", params={"epochs": 1}, tags={})
    finish_run(tracked, run_id, "stopped")
    reopen_run(tracked, run_id)
    run = open_store(tracked).client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"epochs": "1"}
    with pytest.raises(RunError, match=r"not found.*MLFLOW_TRACKING_URI"):
        reopen_run(tracked, "0" * 32)


def test_the_summary_is_logged_once(tracked: Path) -> None:
    run_id = create_run(tracked, name="x", params={}, tags={})
    for _ in range(2):
        log_summary(
            tracked, run_id, {"final/f1": 0.5, "final/auc": None, "final/nan": float("nan"), "ok": True}, step=7
        )
    client = open_store(tracked).client
    assert client.get_run(run_id).data.metrics == {"final/f1": 0.5}
    assert [metric.step for metric in client.get_metric_history(run_id, "final/f1")] == [7]


def test_files_and_tags_are_stored_with_the_run(tracked: Path, tmp_path: Path) -> None:
    run_id = create_run(tracked, name="x", params={}, tags={})
    (tmp_path / "config.yaml").write_text("a: 1")
    (tmp_path / "report.html").write_text("<p>")
    log_artifacts(tracked, run_id, [tmp_path / "config.yaml", tmp_path / "report.html"], folder="reports")
    log_tags(tracked, run_id, {"model_version": 3, "nothing": None})
    client = open_store(tracked).client
    assert [item.path for item in client.list_artifacts(run_id, "reports")] == [
        "reports/config.yaml",
        "reports/report.html",
    ]
    assert (tracked / "artifacts" / run_id / "artifacts" / "reports" / "config.yaml").read_text() == "a: 1"
    assert client.get_run(run_id).data.tags["model_version"] == "3"


@pytest.mark.slow
def test_finishing_never_raises(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not finish_run(tracked, None, "finished")
    assert not finish_run(tracked, "0" * 32, "finished")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr("secauditai.tracking.store.BRIEF", 0.1)
        assert not finish_run(tmp_path, "0" * 32, "finished")
