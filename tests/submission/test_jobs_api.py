"""What goes over HTTP to a Jobs API, and what its answers come to; the API is a small server in this process."""

import io
import json
import re
import shlex
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

import secauditai
from secauditai.errors import ClusterError
from secauditai.submission import jobs
from secauditai.submission.jobs import JobsApi, OutOfReach

TRAIN = ("train", "finetune", "--model", "transformer")


@dataclass
class FakeCluster:
    """The jobs of a cluster that runs none: those submitted have succeeded at once."""

    address: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    """Method, path and body of each request."""
    failing: list[tuple[str, int]] = field(default_factory=list)
    """Answers of another status that come first, each to one request whose `METHOD path` matches."""

    def job(self, job_id: str, status: str, **more: Any) -> str:
        """Put a job there."""
        self.jobs[job_id] = {
            "type": "SUBMISSION",
            "submission_id": job_id,
            "status": status,
            "entrypoint": "python x",
            "metadata": {"secauditai": "secauditai train finetune"},
            **more,
        }
        return job_id

    def submitted(self) -> dict[str, Any]:
        """What the one request to start a job said."""
        (body,) = [body for method, path, body in self.asked if (method, path) == ("POST", "/api/jobs/")]
        found: dict[str, Any] = json.loads(body)
        return found

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        self.asked.append((method, path, body))
        for number, (pattern, status) in enumerate(self.failing):
            if re.fullmatch(pattern, f"{method} {path}"):
                del self.failing[number]
                return status, "No available agent to submit job, please try again later."
        words = path.strip("/").split("/")[1:]
        if words == ["version"]:
            return 200, {"version": "4", "ray_version": version("ray"), "ray_commit": ""}
        if words[0] == "packages":
            return (200, "") if method == "PUT" else (404, "Package does not exist")
        if words == ["jobs"] and method == "POST":
            told = json.loads(body)
            self.job(told["submission_id"], "SUCCEEDED", metadata=told["metadata"], driver_exit_code=0)
            return 200, {"job_id": told["submission_id"], "submission_id": told["submission_id"]}
        if words == ["jobs"]:
            return 200, list(self.jobs.values())
        if words[1] not in self.jobs:
            return 404, f"Job {words[1]} does not exist"
        if words[2:] == ["logs"]:
            return 200, {"logs": "first\nsecond\n"}
        if words[2:] == ["stop"]:
            return 200, {"stopped": True}
        return 200, self.jobs[words[1]]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCluster]:
    found = FakeCluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, said = found.answer(self.command, self.path, body)
            content = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(said, str) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PUT = do_GET

        def log_message(self, format: str, *words: object) -> None:
            pass

    monkeypatch.setattr(jobs, "INTERVAL", 0.01)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("words", [("status",), ("stop",), ("logs",), ("logs", "--follow")], ids=" ".join)
@pytest.mark.parametrize("job_id", ["none-1", "a/b", "?x", ""])
def test_a_wrong_id_is_one_line(cli: Cli, cluster: FakeCluster, words: tuple[str, ...], job_id: str) -> None:
    result = cli("jobs", *words, job_id, "--address", cluster.address)
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith(f"Error: {cluster.address}: there is no job {job_id!r}")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("status", "code", "message", "ends", "told"),
    [
        ("SUCCEEDED", 0, None, 0, ""),
        ("FAILED", 3, "Job entrypoint command failed", 3, ""),
        (
            "FAILED",
            None,
            "runtime_env setup failed: no disk\nmore",
            1,
            "the job failed: runtime_env setup failed: no disk",
        ),
        ("STOPPED", None, None, 1, "Job j-1 was stopped."),
    ],
)
def test_logs_end_as_the_job_ended(
    cli: Cli, cluster: FakeCluster, status: str, code: int | None, message: str | None, ends: int, told: str
) -> None:
    cluster.job("j-1", status, driver_exit_code=code, message=message)
    result = cli("jobs", "logs", "j-1", "--follow", "--address", cluster.address)
    assert (result.code, result.out) == (ends, "first\nsecond\n")
    assert told in result.err
    assert bool(told) == bool(result.err)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_job_is_followed_past_errors_of_the_server(cluster: FakeCluster, status: int) -> None:
    job_id = cluster.job("j-1", "SUCCEEDED", driver_exit_code=0)
    cluster.failing = [("GET /api/jobs/j-1", status), ("GET /api/jobs/j-1", status), ("GET /api/jobs/j-1/logs", status)]
    shown: list[str] = []
    assert JobsApi(cluster.address).follow(job_id, shown.append).status == "SUCCEEDED"
    assert shown == ["first", "second"]
    assert cluster.failing == []


def test_a_job_ends_although_its_node_took_the_output_along(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "BRIEF", 0.1)
    cluster.job("j-1", "FAILED", message="node died")
    cluster.failing = [("GET /api/jobs/j-1/logs", 500)] * 1000
    shown: list[str] = []
    assert JobsApi(cluster.address).follow("j-1", shown.append).status == "FAILED"
    assert "out of reach" in shown[0]


def test_submitting_and_stopping_wait_for_the_agent(cluster: FakeCluster) -> None:
    cluster.failing = [("POST /api/jobs/", 500), ("PUT .*", 502), ("POST .*/stop", 500), ("GET /api/jobs/", 503)]
    api = JobsApi(cluster.address)
    api.submit("j-1", "python x", "secauditai train base", computes=False)
    api.stop("j-1")
    assert list(cluster.jobs) == ["j-1"]
    assert cluster.failing == []


def test_a_refusal_is_final_and_an_outage_ends(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BRIEF", 0.05)
    cluster.failing = [("POST /api/jobs/", 400), *[("POST /api/jobs/", 500)] * 1000]
    api = JobsApi(cluster.address)
    with pytest.raises(ClusterError, match=r"the cluster refuses: .* 400") as refused:
        api.submit("j-1", "python x", "", computes=False)
    assert not isinstance(refused.value, OutOfReach)
    with pytest.raises(OutOfReach, match=r"the cluster cannot answer now: .*No available agent"):
        api.submit("j-1", "python x", "", computes=False)


def test_a_stopped_job_has_time_for_a_checkpoint(cluster: FakeCluster) -> None:
    JobsApi(cluster.address).submit("j-1", "python x", "", computes=False)
    assert int(cluster.submitted()["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_ray_tells_nothing_of_its_own_while_a_job_is_submitted(
    cluster: FakeCluster, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    JobsApi(cluster.address).submit("j-1", "python x", "", computes=False)
    assert (*capfd.readouterr(), caplog.text) == ("", "", "")


@pytest.mark.parametrize(("answer", "stopped"), [("y", True), ("n", False)])
def test_ctrl_c_on_a_terminal_asks_whether_the_job_stops_too(
    cli: Cli, cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, *, stopped: bool
) -> None:
    def interrupt(*_words: object) -> None:
        raise KeyboardInterrupt

    asked: list[str] = []
    monkeypatch.setattr(JobsApi, "follow", interrupt)
    monkeypatch.setattr(JobsApi, "stop", lambda _api, job_id: asked.append(job_id))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda _text: answer)
    done = cli(*TRAIN, "--data", "security_dataset", "--workspace", tmp_path / "w", "--address", cluster.address)
    assert done.code == 130, done.err
    assert asked == (list(cluster.jobs) if stopped else [])
    assert ("is asked to stop" in done.out + done.err) == stopped
    assert ("goes on" in done.out + done.err) != stopped


def test_words_of_the_entry_point_survive_the_shell(cli: Cli, cluster: FakeCluster, tmp_path: Path) -> None:
    shared = tmp_path / "my work; touch $(x) 'y'"
    result = cli(*TRAIN, "--data", "security_dataset", "--workspace", shared, "--address", cluster.address)
    assert result.code == 0, result.err
    words = shlex.split(cluster.submitted()["entrypoint"])
    assert words[:3] == ["python", "-m", "secauditai.cli.entry"]
    assert words[3] == str(shared)
    assert words[4] in cluster.jobs


def test_a_package_that_is_too_large_is_refused_with_its_size(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secauditai").mkdir()
    with (tmp_path / "secauditai" / "model.bin").open("wb") as large:
        large.truncate(jobs.LARGEST_PACKAGE + 2**20)
    monkeypatch.setattr(secauditai, "__file__", str(tmp_path / "secauditai" / "__init__.py"))
    with pytest.raises(ClusterError, match="the code is 21 MiB, more than 20 MiB"):
        JobsApi(cluster.address).submit("j-1", "python x", "", computes=False)
    assert cluster.jobs == {}


SECRETS = {
    "MLFLOW_TRACKING_URI": "http://me:uri-secret@mlflow:5000",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-secret",
    "MLFLOW_TRACKING_TOKEN": "mlflow-token-secret",
    "AWS_ACCESS_KEY_ID": "aws-id-secret",
    "AWS_SECRET_ACCESS_KEY": "aws-key-secret",
    "AWS_SESSION_TOKEN": "aws-session-secret",
    "HF_TOKEN": "hf-secret",
    "RAY_AUTH_TOKEN": "ray-secret",
}


def test_credentials_of_the_environment_never_travel(
    cli: Cli, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, samples_yaml: Callable[..., Path], tmp_path: Path
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    shared = tmp_path / "shared"
    words = ["--data", samples_yaml(4), "--workspace", shared, "--address", cluster.address]
    assert cli(*TRAIN, *words).code == 0
    assert cluster.submitted()["metadata"]
    (request,) = shared.glob("jobs/*/request.json")
    assert json.loads(request.read_text())["tracking_uri"] == "http://mlflow:5000"
    sent = [body for _method, _path, body in cluster.asked]
    (package,) = [body for body in sent if body.startswith(b"PK")]
    with zipfile.ZipFile(io.BytesIO(package)) as code:
        sent += [code.read(name) for name in code.namelist()]
    sent += [path.read_bytes() for path in shared.rglob("*") if path.is_file()]
    secrets = [value.rpartition("@")[0].rpartition(":")[2] or value for value in SECRETS.values()]
    assert secrets[:2] == ["uri-secret", "mlflow-secret"]
    assert not [secret for secret in secrets for content in sent if secret.encode() in content]
