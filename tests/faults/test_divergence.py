"""A setting that really diverges: each step multiplies the weights by minus nine, until they are no numbers any more."""

import re
import shutil
from pathlib import Path

import pytest
from training_runs import new_run

from secauditai.errors import RunError
from secauditai.runs import read_metrics
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.launch import launch

pytestmark = pytest.mark.slow


def test_a_diverging_run_stops_with_step_samples_and_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    run = new_run(
        data,
        tmp_path,
        learning_rate=10.0,
        weight_decay=1.0,
        warmup_ratio=0.0,
        scheduler="constant",
        max_steps=200,
        checkpoint_interval=3,
        eval_interval=1000,
    )
    with pytest.raises(RunError, match=r"not finite in 4 steps in a row, the last one step \d+") as stopped:
        launch(run)
    trained = [r for r in read_metrics(run.layout.metrics) if r["kind"] == "train"]
    skipped = [r["step"] for r in trained if r.get("skipped")]
    assert skipped == list(range(skipped[0], skipped[0] + 3))
    assert f"the last one step {skipped[-1] + 1}" in str(stopped.value)
    assert "sample_" in str(stopped.value)
    named = re.search(r"The last good checkpoint is checkpoint_(\d+)", str(stopped.value))
    assert named
    assert run.info.status == "failed"
    assert not [c.step for c in list_checkpoints(run.layout.checkpoints) if c.step >= skipped[0]]
    for checkpoint in list_checkpoints(run.layout.checkpoints):
        if checkpoint.step > int(named[1]):
            shutil.rmtree(checkpoint.root)
    with pytest.raises(RunError):
        launch(run)
    again = [r for r in read_metrics(run.layout.metrics) if r["kind"] == "train" and r["step"] > int(named[1])]
    assert again
    assert not again[0].get("skipped")  # its weights are good
