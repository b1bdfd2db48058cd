"""What stops a group of workers: divergence and a full disk are told as in one process, and leave no worker behind."""

from pathlib import Path

import psutil
import pytest
from fault_runs import at_steps, left_over, rank_pids, same, start
from small_disk import fill, small_disk

from secauditai.errors import RunError
from secauditai.runs import Run, read_metrics
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.launch import launch

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def assert_no_rank_is_left(run: Run) -> None:
    assert left_over([psutil.Process(pid) for pid in rank_pids(run).values() if psutil.pid_exists(pid)], 10) == []


def test_a_group_that_diverges_stops_with_step_samples_and_checkpoint(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    breaking = {"learning_rate": 10.0, "weight_decay": 1.0, "warmup_ratio": 0.0, "scheduler": "constant"}
    run = start(data, tmp_path, **breaking, checkpoint_interval=3)
    with pytest.raises(RunError, match=r"not finite in 4 steps in a row, the last one step \d+") as stopped:
        launch(run)
    assert "sample_" in str(stopped.value)
    trained = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "train"]
    skipped = [record["step"] for record in trained if record.get("skipped")]
    assert len(skipped) == 3
    good = [c for c in list_checkpoints(run.layout.checkpoints) if c.step <= skipped[0] - 2][-1]
    assert f"The last good checkpoint is {good.root.name}." in str(stopped.value)
    assert run.info.status == "failed"
    assert_no_rank_is_left(run)


def test_a_group_whose_disk_is_full_stops_and_goes_on_when_there_is_room(
    data: Path, tmp_path: Path, undisturbed: Run
) -> None:
    one = size_of(list_checkpoints(undisturbed.layout.checkpoints)[-1].root)
    with small_disk(tmp_path / "disk", 128 * 1024) as disk:
        run, filler = start(data, disk), list[Path]()
        villain = at_steps(run, (30, lambda: filler.append(fill(disk, leave=one // 2))))
        with pytest.raises(RunError, match=r"could not be written: the disk is full\. .*checkpoint_\d+") as stopped:
            launch(run)
        villain.join()
        assert "Free some space, then use `secauditai train resume`" in str(stopped.value)
        assert list_checkpoints(run.layout.checkpoints)[-1].root.name in str(stopped.value)
        assert not [path for path in run.layout.checkpoints.iterdir() if path.name.startswith(".")]
        assert_no_rank_is_left(run)
        filler[0].unlink()
        assert launch(run).finished
        same(run, undisturbed)
