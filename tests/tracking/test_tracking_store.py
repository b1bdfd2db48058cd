import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from secauditai.errors import ConfigError, RunError
from secauditai.tracking.connection import call
from secauditai.tracking.store import (
    may_be_registered,
    open_existing_store,
    open_store,
    own_uri,
    read_workspace_id,
    shared_uri,
    tracking_uri,
)

FIRST_USE = """
import sys
from pathlib import Path
from secauditai.tracking.runs import create_run, finish_run
workspace = Path(sys.argv[1])
run = create_run(workspace, name="first", params={"a": 1}, tags={})
finish_run(workspace, run, "finished")
"""
IMPORTS = """
import sys
import secauditai.tracking.registry, secauditai.tracking.runs, secauditai.tracking.shipper, secauditai.tracking.store
heavy = {"mlflow", "torch", "onnxruntime", "transformers", "pandas", "ray"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_importing_the_modules_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=60)


def test_uri_is_absolute_and_the_variable_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(Path("w")) == f"sqlite:///{tmp_path}/w/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "  ")
    assert tracking_uri(Path("w")) == f"sqlite:///{tmp_path}/w/mlflow.db"
    for given, expected in [
        ("http://host:5000", "http://host:5000"),
        ("databricks", "databricks"),
        ("postgresql+psycopg2://u:p@h/db", "postgresql+psycopg2://u:p@h/db"),
        ("sqlite:///here.db", f"sqlite:///{tmp_path}/here.db"),
    ]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        assert tracking_uri(Path("w")) == expected


def test_what_is_shared_has_no_credentials_and_each_process_adds_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5000")
    shared = shared_uri(Path("w"))
    assert shared == "http://host:5000"
    assert own_uri(shared) == "http://user:secret@host:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@elsewhere:5000")
    assert own_uri(shared) == shared
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert own_uri(shared) == shared


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "/tmp/mlruns", "ftp://u:secret@host/x", "http:"])
def test_unusable_uris_are_refused(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI") as caught:
        tracking_uri(Path("w"))
    assert "secret" not in str(caught.value)


def test_a_path_that_mlflow_cannot_open_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="%"):
        open_store(tmp_path / "50%")


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_an_error_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(RunError, match="no server answers") as caught:
            open_store(tmp_path)
    assert time.monotonic() - started < 10
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)


@pytest.mark.slow
def test_processes_may_use_a_new_workspace_at_once_and_say_nothing(tmp_path: Path) -> None:
    workspace = tmp_path / "new"
    command = [sys.executable, "-c", FIRST_USE, str(workspace)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs == ["", ""]
    store = open_store(workspace)
    assert len(store.client.search_runs([store.experiment_id])) == 2
    experiment = store.client.get_experiment(store.experiment_id)
    assert experiment.artifact_location == (workspace / "artifacts").as_uri()
    assert not list(workspace.glob(".*partial"))


def test_looking_something_up_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert open_existing_store(tmp_path / "w") is None
    assert not (tmp_path / "w").exists()


def test_the_workspace_keeps_its_id(tmp_path: Path) -> None:
    first = read_workspace_id(tmp_path)
    assert read_workspace_id(tmp_path) == first
    assert json.loads((tmp_path / "workspace.json").read_text())["workspace_id"] == first
    (tmp_path / "workspace.json").write_text("{")
    with pytest.raises(ConfigError, match=r"workspace\.json"):
        read_workspace_id(tmp_path)


@pytest.mark.slow
def test_calls_are_repeated_while_mlflow_is_down_but_not_when_it_refuses() -> None:
    from mlflow.exceptions import MlflowException

    answers: list[Exception | int] = [ConnectionError("down"), MlflowException("locked", 2), 7]

    def act() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert call(act, uri="sqlite:///x", patience=20, what="act") == 7
    answers = [MlflowException.invalid_parameter_value("no such thing.\nmore"), 7]
    with pytest.raises(RunError, match=r"MLflow cannot act: no such thing\. Do this\.$"):
        call(act, uri="sqlite:///x", patience=20, what="act", hint="Do this.")
    answers = [ConnectionError("down")] * 9
    with pytest.raises(RunError, match="down"):
        call(act, uri="sqlite:///x", patience=0.5, what="act")


def test_whether_a_name_is_registered_is_seen_without_mlflow(tracked: Path, tmp_path: Path) -> None:
    store = open_store(tracked)
    store.client.create_registered_model("looked-up")
    assert may_be_registered(tracked, "looked-up")
    assert not may_be_registered(tracked, "never-registered")
    assert not may_be_registered(tmp_path, "in-no-database")
    (tmp_path / "mlflow.db").write_text("no database")
    assert may_be_registered(tmp_path, "MLflow has to say it")
