"""The command, with real faults: a closed port, a stranger's server, a wrong token, a full disk, too few resources."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from secauditai.doctor.endpoint import asks_for_token, check_job_api, check_token, is_loopback
from secauditai.doctor.examine import Needs
from secauditai.doctor.findings import Finding


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def answering(body: bytes, token: str | None = None) -> Iterator[str]:
    """A server on loopback that answers everything with `body`, or with 401 without its token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = token is None or self.headers.get("Authorization") == f"Bearer {token}"
            self.send_response(200 if right else 401)
            self.end_headers()
            self.wfile.write(body if right else b"")

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without a token, and none in the environment."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return home


def checks(result: Any) -> dict[str, Any]:
    return {check["check"]: check for check in json.loads(result.out)["checks"]}


@pytest.mark.slow
def test_a_machine_that_is_fine_passes(cli: Cli, workspace: Path) -> None:
    result = cli("doctor", "--min-free-gb", 0.001, "--json")
    assert result.code == 0, result.err
    found = checks(result)
    assert list(found) == ["token", "versions", "storage", "disk", "memory", "shm", "resources", "mlflow", "hub"]
    assert {check["result"] for check in found.values()} <= {"ok", "skipped", "warning"}
    assert not list(workspace.glob(".doctor_*"))
    assert list((workspace / "artifacts").rglob("doctor_*/mark.txt")) == []


def test_planted_faults_are_found_with_exit_3(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    result = cli("doctor", "--min-free-gb", 10**9, "--num-workers", 1000, "--model", "codebert", "--json")
    assert result.code == 3
    failed = {name: check["message"] for name, check in checks(result).items() if check["result"] == "failed"}
    assert set(failed) == {"disk", "resources", "mlflow", "hub"}
    assert "1000 workers of 1 CPUs are wanted" in failed["resources"]
    assert "here: MLflow cannot open the tracking store" in failed["mlflow"]
    assert "offline mode is on" in failed["hub"]


@pytest.mark.slow
def test_a_cached_model_needs_no_hub(cli: Cli, tiny_hub: Path) -> None:
    assert checks(cli("doctor", "--model", "codebert", "--min-free-gb", 0, "--json"))["hub"]["result"] == "ok"


def test_a_workspace_that_cannot_be_written_is_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = cli("doctor", "--workspace", tmp_path / "file")
    assert result.code == 1
    assert result.err.startswith("Error: ")


def test_a_missing_token_is_found(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_token("auto").result == "warning"
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    found = check_token("auto")
    assert found.result == "failed"
    assert "get-auth-token" in (found.hint or "")
    assert check_token(None).result == "skipped"
    (bare / ".ray").mkdir()
    (bare / ".ray" / "auth_token").write_text("t")
    assert check_token("auto").result == "ok"


def test_a_wrong_endpoint_is_found(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "nothing answers" in check_job_api(f"http://127.0.0.1:{closed_port()}").message
    with answering(b"<html>") as address:
        assert "not Ray's job API" in check_job_api(address).message
    with answering(b'{"ray_version": "2.9.0"}') as address:
        assert "runs Ray 2.9.0" in check_job_api(address).message
    body = json.dumps({"ray_version": version("ray")}).encode()
    with answering(body, token="right") as address:
        assert "no token was sent" in check_job_api(address).message
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        assert "not the cluster's" in check_job_api(address).message
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        assert check_job_api(address).result == "ok"
        assert asks_for_token(address.removeprefix("http://")) is True
    with answering(body) as address:
        assert asks_for_token(address.removeprefix("http://")) is False
    assert asks_for_token(f"127.0.0.1:{closed_port()}") is None


def test_a_cluster_that_is_not_there_ends_the_examination(cli: Cli, bare: Path) -> None:
    result = cli("doctor", "--address", f"http://127.0.0.1:{closed_port()}")
    assert result.code == 3
    assert "FAIL cluster" in result.out


def test_a_cluster_is_found_by_its_name(cli: Cli, bare: Path, workspace: Path) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    workspace.mkdir()
    (workspace / "clusters.yaml").write_text(f"lab: {{address: '{address}'}}\n")
    result = cli("doctor", "--address", "lab")
    assert result.code == 3
    assert f"nothing answers at {address}" in result.out
    result = cli("doctor", "--address", "lap")
    assert (result.code, result.err) == (1, "Error: there is no cluster 'lap'. Did you mean lab?\n")


@pytest.mark.parametrize(("wanted", "checked"), [("auto", None), ("3", 3), ("2-4", 2)])
def test_the_fewest_workers_of_a_range_are_checked(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, wanted: str, checked: int | None
) -> None:
    asked: list[Needs] = []

    def examine(needs: Needs, _say: object) -> list[Finding]:
        asked.append(needs)
        return []

    monkeypatch.setattr("secauditai.doctor.examine.examine", examine)
    assert cli("doctor", "--num-workers", wanted).code == 0
    assert [needs.num_workers for needs in asked] == [checked]


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:8265", True),
        ("[::1]:8265", True),
        ("localhost:8265", True),
        ("10.0.0.5:8265", False),
        ("0.0.0.0:1", False),
    ],
)
def test_loopback_is_told_from_the_network(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


@pytest.mark.ray
def test_every_node_of_a_cluster_is_asked(cli: Cli, ray_cluster: str, workspace: Path) -> None:
    result = cli("doctor", "--address", ray_cluster, "--min-free-gb", 0.001, "--num-workers", 1, "--json")
    assert result.code == 0, result.out + result.err
    found = checks(result)
    assert {"cluster", "dashboard", "versions", "storage", "mlflow"} <= set(found)
    assert found["storage"]["result"] == found["versions"]["result"] == found["mlflow"]["result"] == "ok"
    few = cli("doctor", "--address", ray_cluster, "--min-free-gb", 0, "--num-workers", 1000, "--json")
    assert few.code == 3
    assert checks(few)["resources"]["result"] == "failed"
    assert not list(workspace.glob(".doctor_*"))
