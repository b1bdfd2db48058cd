import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tracking.samples import write_bundle


@pytest.fixture(scope="session")
def tracked_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with MLflow's schema, which takes seconds to make."""
    from secauditai.tracking.store import open_store

    saved = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("MLFLOW_")}
    workspace = tmp_path_factory.mktemp("tracked äö") / ".secauditai"
    open_store(workspace)
    os.environ.update(saved)
    return workspace


@pytest.fixture
def tracked(tracked_once: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The session's workspace; no test here reaches a server that the developer's environment names."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield tracked_once
    shutil.rmtree(tracked_once / "cache", ignore_errors=True)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")
