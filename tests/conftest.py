"""Fixtures that all tests share: a workspace, tiny models, small data, one Ray cluster, and the command line."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import yaml

if TYPE_CHECKING:
    from machines import Machines
    from s3_server import S3Server

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Two tests at a time share the cores: a thread that waits for others must not spin meanwhile.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
# Tests start this package many times over: it is compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("SECAUDITAI_WORKSPACE", None)

hypothesis.settings.register_profile("default", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
hypothesis.settings.register_profile("soak", max_examples=10_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


LONGEST = (
    "e2e/test_guide.py",
    "tuning/test_sweep_faults.py",
    "faults/test_workers.py",
    "e2e/test_concurrent_tracking.py",
    "e2e/test_submission.py",
    "e2e/test_remote_sweeps.py",
    "faults/test_clusters.py",
    "faults/test_remote_nodes.py",
)
"""Files that take minutes. They come first, so that of two processes none waits at the end for the other's long file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    ranks = {str(Path(__file__).parent / name): rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(str(item.path), len(ranks)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In continuous integration a skipped test is a failure, except by marker `gpu`."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped in continuous integration: {report.longrepr}"


@dataclass(frozen=True)
class CommandResult:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., CommandResult]


@pytest.fixture
def cli(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., CommandResult]:
    """Run the command line in this process, in an empty directory: `cli("train", "split", …)`."""
    from secauditai.cli.app import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["secauditai", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capfd.readouterr()
        return CommandResult(int(ended.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """An empty workspace."""
    return tmp_path / ".secauditai"


@pytest.fixture
def tiny_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache with a tiny `microsoft/codebert-base`."""
    from huggingface_hub import constants
    from tiny_hub import write_tiny_hub

    cache = tmp_path / "hub"
    write_tiny_hub(cache)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def make_samples(pairs: int, *, start: int = 0) -> list[dict[str, object]]:
    """Vulnerable/fixed pairs that a model can tell apart; each pair is a group."""
    samples: list[dict[str, object]] = []
    for number in range(start, start + pairs):
        for label, call in (("vulnerability", "eval"), ("safe", "int")):
            samples.append(
                {
                    "id": f"sample_{number}_{label[0]}",
                    "code": f"def handler_{number}(request):\n    value_{number} = request.args['key']\n"
                    f"    return {call}(value_{number})\n",
                    "label": label,
                    "severity": ("high", "critical")[number % 2] if label == "vulnerability" else "none",
                    "category": "injection" if label == "vulnerability" else "none",
                    "metadata": {"language": "python", "cwe": "CWE-94", "group": f"pair_{number}"},
                }
            )
    return samples


@pytest.fixture
def samples_yaml(tmp_path: Path) -> Callable[..., Path]:
    """Write a YAML file of pairs: `samples_yaml(20)`."""

    def write(pairs: int = 20, name: str = "samples.yaml", **options: int) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"samples": make_samples(pairs, **options)}, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray cluster for the whole session; commands in this process use it."""
    import ray

    from secauditai.cluster import ensure_ray

    os.environ.pop("RAY_ADDRESS", None)
    ensure_ray()
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session")
def server() -> "Iterator[S3Server]":
    """One S3-compatible server for the whole session, with a bucket `models`."""
    from s3_server import s3_server

    with s3_server() as found:
        found.create_bucket("models")
        yield found


@pytest.fixture
def machines(server: "S3Server", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Machines":
    """Machines that share a remote workspace of the test's own; MLflow is not to be reached from them."""
    from machines import NO_SERVER, Machines

    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_SERVER)
    return Machines(server, f"s3://models/{tmp_path.name}", tmp_path, monkeypatch)
