"""A real MLflow server that goes away during a run and comes back: training goes on, metrics arrive later, once."""

from pathlib import Path

import pytest
from fault_runs import at_steps, wait_for_step
from tracking_server import Server
from training_runs import new_run

from secauditai.runs import read_metrics
from secauditai.training.launch import launch
from secauditai.training.tracked import track

pytestmark = pytest.mark.slow


def test_an_outage_of_mlflow_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    server = Server(tmp_path)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        run = new_run(data, tmp_path, max_steps=900, checkpoint_interval=300, eval_interval=100, threads=1)
        track(run, tmp_path)

        def outage() -> None:
            server.stop()
            wait_for_step(run, 400)  # training goes on without it
            server.start()

        away = at_steps(run, (100, outage))
        assert launch(run).finished
        away.join()
        client, records = MlflowClient(server.uri), read_metrics(run.layout.metrics)
        for kind, key in (("train", "loss"), ("val", "roc_auc")):
            arrived = client.get_metric_history(run.info.mlflow_run_id, f"{kind}/{key}")
            written = [(r["step"], r[key]) for r in records if r["kind"] == kind]
            assert sorted((m.step, m.value) for m in arrived) == written
    finally:
        server.stop()
