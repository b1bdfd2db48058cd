"""A real MLflow server that goes away during a run and comes back: training goes on, metrics arrive later, once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from fault_runs import at_steps, wait_for_step, wait_until
from training_runs import new_run

from secauditai.pipeline import track
from secauditai.runs import read_metrics
from secauditai.training.launch import launch


class Server:
    """`mlflow server` on loopback, with its store in a directory."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        store = [
            "--backend-store-uri",
            f"sqlite:///{self.directory}/server.db",
            "--artifacts-destination",
            self.directory,
        ]
        place = ["--host", "127.0.0.1", "--port", self.port, "--workers", 1]
        words = [sys.executable, "-m", "mlflow", "server", *store, *place]
        quiet = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight more processes, for nothing here
        self.process = subprocess.Popen(
            list(map(str, words)),
            env=quiet,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_until(self.answers, "the server's start")

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self) -> None:
        """Kill it with its children, which are its process group."""
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.mark.slow
def test_an_outage_of_mlflow_loses_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    server = Server(tmp_path)
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        run = new_run(data, tmp_path, max_steps=1500, checkpoint_interval=500, eval_interval=100, threads=1)
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
