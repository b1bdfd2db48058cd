"""Faults planted in a real cluster of several raylets: `doctor` finds each, and no command starts in spite of one."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, make_samples
from ray_head import PROJECT, Head, free_port, ray_head, worker_node

pytestmark = [pytest.mark.slow, pytest.mark.ray]
TRAIN = "train finetune --data data.json --max-length 64 --vocab-size 320 --max-steps 2 --threads 1 --num-workers 2"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the user works: data, and a workspace."""
    root = tmp_path_factory.mktemp("site")
    (root / "ws").mkdir()
    (root / "data.json").write_text(json.dumps(make_samples(20)))
    return root


@pytest.fixture(scope="module")
def head(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head and two nodes. One has a disk of its own in place of the workspace, nearly full, and another torch."""
    directory = tmp_path_factory.mktemp("cluster")
    metadata = directory / "other" / "torch-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.0\n")
    paths = f"{metadata.parents[1]}:{PROJECT}"
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with (
        ray_head(directory, cpus=1, **secret) as found,
        worker_node(found),
        worker_node(found, hidden=site / "ws", PYTHONPATH=paths),
    ):
        yield found


def command(head: Head, site: Path, line: str, *, with_workspace: bool = True, **more: str) -> tuple[int, str, str]:
    """Run a command in a process of its own: the address of another cluster is for a fresh one."""
    words = [*line.split(), "--address", head.gcs_address]
    words += ["--workspace", str(site / "ws")] if with_workspace else []
    done = subprocess.run(
        [sys.executable, "-c", "from secauditai.cli.app import main; main()", *words],
        cwd=site,
        env={**head.environment, **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


def test_doctor_finds_every_fault_of_the_cluster(head: Head, site: Path) -> None:
    code, out, err = command(head, site, "doctor --num-workers 4 --min-free-gb 0.1 --json")
    assert code == 3, err
    checks: dict[str, Any] = {check["check"]: check for check in json.loads(out)["checks"]}
    told = {name: check["message"] for name, check in checks.items() if check["result"] == "failed"}
    assert set(told) == {"versions", "storage", "disk", "resources", "mlflow"}
    assert "has torch 1.0, here it is" in told["versions"]
    assert told["versions"].count("torch") == 1  # one node only
    assert "does not see what this machine wrote" in told["storage"]
    assert f"has 0.0 GiB in {site / 'ws'}" in told["disk"]
    assert "4 workers of 1 CPUs are wanted, 3 fit" in told["resources"]
    assert "is one machine's file, and there are 3 nodes" in told["mlflow"]
    assert checks["head"]["result"] == "warning"
    assert list((site / "ws").glob(".doctor_*")) == []


def test_data_is_not_prepared_where_nodes_do_not_share_the_output(head: Head, site: Path) -> None:
    line = f"train prepare --dataset data.json --output {site / 'ws' / 'prepared'} --ray-data-min-mb 0"
    code, _, err = command(head, site, line, with_workspace=False)
    assert code == 3, err
    told = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert [line.split(": ")[1] for line in told] == ["versions", "storage", "disk"]
    assert "Write --output to a directory that all nodes share." in told[1]
    assert [path for path in (site / "ws").iterdir() if "prepared" in path.name] == []


def test_a_training_stops_before_it_starts_with_one_line_for_each_fault(head: Head, site: Path) -> None:
    down = f"http://127.0.0.1:{free_port()}"
    code, out, err = command(head, site, TRAIN, MLFLOW_TRACKING_URI=down)
    assert code == 3, err
    found = [line.removeprefix("Error: ").split(":")[0] for line in err.splitlines() if line.startswith("Error: ")]
    assert found == ["versions", "storage", "disk", "mlflow"]
    assert "Error: mlflow: here: MLflow cannot open the tracking store: no server answers" in err
    assert "Traceback" not in err
    assert out == ""
    assert not (site / "ws" / "runs").exists()


@pytest.mark.parametrize("fault", ["token", "endpoint", "closed"])
def test_what_cannot_be_submitted_to_is_one_line(
    head: Head, site: Path, fault: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where no token is
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    closed = f"http://127.0.0.1:{free_port()}"
    address = {"token": head.jobs_address, "endpoint": f"http://{head.gcs_address}", "closed": closed}[fault]
    message = "refuses: no token was sent" if fault == "token" else f"nothing answers at {address}"
    words = TRAIN.replace("data.json", str(site / "data.json")).split()
    result = cli(*words, "--address", address)
    assert result.code == 3, result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: cluster: ")
    assert message in line
    examined = cli("doctor", "--address", address)
    assert examined.code == 3
    assert message in examined.out
