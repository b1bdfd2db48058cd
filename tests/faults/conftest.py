"""What the fault tests share: data, and one undisturbed run with two workers."""

from pathlib import Path

import pytest
from fault_runs import start
from training_runs import write_dataset

from secauditai.runs import Run
from secauditai.training.launch import launch


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Run:
    run = start(data, tmp_path_factory.mktemp("undisturbed"))
    assert launch(run).attempts == 1
    return run
