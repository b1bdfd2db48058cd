"""Small real runs for the training tests."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from conftest import make_samples

from secauditai.config.files import resolve_config
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.runs import Run, RunLayout, read_metrics
from secauditai.training.checkpoint import list_checkpoints, read_state
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.request import TrainRequest

SMALL = {
    "max_length": 64,
    "batch_size": 8,
    "epochs": 2,
    "checkpoint_interval": 3,
    "log_interval": 1,
    "vocab_size": 320,
    "precision": "fp32",
    "threads": 1,
}


def write_dataset(directory: Path, pairs: int = 30) -> Path:
    """A prepared and split dataset."""
    (directory / "samples.yaml").write_text(yaml.safe_dump({"samples": make_samples(pairs)}))
    prepare(str(directory / "samples.yaml"), directory / "data")
    split_dataset(open_dataset(directory / "data"), SplitPlan(seed=1))
    return directory / "data"


def new_run(data: Path, workspace: Path, *, kind: str = "finetune", **settings: Any) -> Run:
    """A prepared run, not yet trained and not tracked."""
    config = resolve_config({**SMALL, "data": str(data), **settings})
    return prepare_run(plan_training(TrainRequest(kind, "m", config, workspace)))


def copy_run(run: Run, directory: Path) -> Run:
    """A copy of a run's directory; it reads the same token stores and initial encoder."""
    shutil.copytree(run.root, directory / run.root.name)
    return Run(RunLayout(directory / run.root.name))


def weights(run: Run) -> dict[str, object]:
    """The bytes of the newest checkpoint's tensors, and what it knows of the best one and of the run's health."""
    checkpoint = list_checkpoints(run.layout.checkpoints)[-1]
    state = read_state(checkpoint)
    tensors = {path.name: path.read_bytes() for path in (checkpoint.weights, checkpoint.optimizer)}
    return {**tensors, "best": (state.best_step, state.best_value, state.stale_validations), "health": state.health}


def history(run: Run) -> list[dict[str, Any]]:
    """The records without clocks and rates."""
    clocks = ("time", "seconds", "samples_per_second", "tokens_per_second")
    return [
        {key: value for key, value in record.items() if key not in clocks}
        for record in read_metrics(run.layout.metrics)
    ]
