"""When the MLflow run of a training is opened, and what happens when it cannot be."""

import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock
from training_runs import new_run, write_dataset

from secauditai import runs
from secauditai.errors import RunError
from secauditai.pipeline import complete, go_on
from secauditai.runs import FAILED, FINISHED, Run, RunInfo, RunLayout
from secauditai.tracking.connection import OutOfReachError
from secauditai.training.attempt import AttemptLayout, read_ranks, step_reached
from secauditai.training.checkpoint import newest_checkpoint
from secauditai.training.stopping import read_stop
from secauditai.training.tracked import Tracking

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("tracking"))


@pytest.fixture
def own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database file of the workspace `tmp_path`, which does not exist yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "mlflow.db"


def write_old_schema(path: Path) -> None:
    """A database as an MLflow that nobody knows has left it."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(
            "CREATE TABLE alembic_version (version_num VARCHAR(32)); INSERT INTO alembic_version VALUES ('0');"
            "CREATE TABLE experiments (experiment_id INTEGER);"
        )


def work_on(run: Run, step: int) -> None:
    """What a rank notes when a step begins."""
    run.layout.attempt.mkdir(exist_ok=True)
    AttemptLayout(run.layout.attempt).step(0).write_text(f"{step}\n")


def test_mlflow_waits_for_the_first_step_and_an_outage_is_told_once_and_ridden_out(
    data: Path, own_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = new_run(data, tmp_path), list[str]()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        tracking = Tracking(run, tmp_path, told.append)
        tracking.start()
        work_on(run, 1)
        time.sleep(0.7)
        assert not told
        work_on(run, 2)
        give_up = time.monotonic() + 120
        while not told and time.monotonic() < give_up:
            time.sleep(0.05)
        assert "Training goes on without MLflow" in told[0]
        assert read_stop(AttemptLayout(run.layout.attempt)) is None
        with pytest.raises(OutOfReachError, match="no server answers"):
            tracking.open()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracking.open()
    tracking.close()
    assert run.info.mlflow_run_id is not None
    assert len(told) == 1
    assert own_database.exists()


def test_whoever_sees_a_run_finished_sees_its_summary(
    data: Path, own_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = new_run(data, tmp_path, max_steps=2), list[RunInfo]()
    real = runs.write_info

    def watched(layout: RunLayout, info: RunInfo) -> None:
        written.append(info)
        real(layout, info)

    monkeypatch.setattr(runs, "write_info", watched)
    outcome = complete(
        run,
        tmp_path,
        Tracking(run, tmp_path, print),
        time.monotonic(),
        in_process=True,
        register_model=False,
        notify=lambda _text: None,
    )
    finished = [info for info in written if info.status == FINISHED]
    assert finished
    assert all(info.summary["metrics"] == outcome.metrics for info in finished)
    assert outcome.metrics["accuracy"] is not None


def test_a_refusal_ends_training_with_a_checkpoint_and_one_line(data: Path, own_database: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, max_steps=5000, checkpoint_interval=5000, eval_interval=5000)
    write_old_schema(own_database)
    with pytest.raises(RunError, match="MLflow cannot open the tracking store") as caught:
        complete(run, tmp_path, Tracking(run, tmp_path, print), time.monotonic(), notify=lambda _text: None)
    assert "\n" not in str(caught.value)
    assert "another version of MLflow" in str(caught.value)
    assert run.info.status == FAILED
    assert run.info.mlflow_run_id is None
    newest = newest_checkpoint(run.layout.checkpoints, print)
    assert newest is not None
    assert newest.step == step_reached(AttemptLayout(run.layout.attempt)) < 5000


def test_a_file_that_is_no_database_is_refused_before_anything_starts(
    data: Path, own_database: Path, tmp_path: Path
) -> None:
    run = new_run(data, tmp_path)
    own_database.write_text("no database, whatever its name")
    with pytest.raises(RunError, match=r"file is not a database.*Move the file away"):
        go_on(run, tmp_path)
    assert not read_ranks(AttemptLayout(run.layout.attempt))


def test_a_run_that_another_command_trains_is_left_alone(data: Path, own_database: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path)
    work_on(run, 3)
    before = run.info
    with FileLock(run.layout.driver_lock), pytest.raises(RunError, match="another process is training this run"):
        go_on(run, tmp_path)
    assert run.info == before
    assert step_reached(AttemptLayout(run.layout.attempt)) == 3
    assert not own_database.exists()
