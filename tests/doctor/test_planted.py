"""Faults planted at the door of a real cluster: `doctor` finds each, and no command is submitted in spite of one."""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, make_samples
from ray_head import Head, free_port, ray_head

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
    """A head that asks for a token."""
    directory = tmp_path_factory.mktemp("cluster")
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ray_head(directory, cpus=1, **secret) as found:
        yield found


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
