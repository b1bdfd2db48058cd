"""Disks that are really full: the run stops cleanly, names the last good checkpoint, and goes on once there is room."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import fill, small_disk
from training_runs import copy_run, history, new_run, weights, write_dataset

from secauditai.errors import RunError
from secauditai.runs import Run
from secauditai.training import journal
from secauditai.training.checkpoint import CheckpointLayout, list_checkpoints
from secauditai.training.launch import launch
from secauditai.training.recorder import Recorder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = write_dataset(tmp_path_factory.mktemp("data"), pairs=15)
    return new_run(data, tmp_path_factory.mktemp("w"), checkpoint_interval=2)


@pytest.fixture(scope="module")
def undisturbed(prepared: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = copy_run(prepared, tmp_path_factory.mktemp("u"))
    assert launch(run, in_process=True).finished
    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 64 * 1024) as mounted:
        yield mounted


def size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_a_full_disk_stops_a_checkpoint_and_leaves_nothing_half_written(
    prepared: Run, undisturbed: Run, disk: Path
) -> None:
    run = copy_run(prepared, disk)
    one = size_of(list_checkpoints(undisturbed.layout.checkpoints)[-1].root)
    filler = fill(disk, leave=int(2.5 * one))
    with pytest.raises(
        RunError, match=r"checkpoint_\d+ could not be written: the disk is full\. .*checkpoint_3\b"
    ) as stopped:
        launch(run, in_process=True)
    assert "Free some space, then use `secauditai train resume`" in str(stopped.value)
    assert [c.step for c in list_checkpoints(run.layout.checkpoints)] == [0, 2, 3]
    assert not [path for path in run.layout.checkpoints.iterdir() if path.name.startswith(".")]
    filler.unlink()
    assert launch(run, in_process=True).finished
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)


def test_a_full_disk_stops_the_history(
    prepared: Run, undisturbed: Run, disk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_run(prepared, disk)
    real = Recorder.record
    filled: list[Path] = []

    def record(self: Recorder, kind: str, step: int, epoch: float, values: dict[str, object]) -> None:
        if step == 4 and not filled:
            log = run.layout.logs / "rank_0.log"
            with log.open("ab") as file:  # to the end of its page, so that it takes no more either
                file.write(b"x" * (-log.stat().st_size % 4096))
            filled.append(fill(disk))
        while True:  # up to the end of the last page of the file
            real(self, kind, step, epoch, values)
            if step != 4:
                return

    monkeypatch.setattr(Recorder, "record", record)
    with pytest.raises(RunError, match=r"history of step 4 could not be written: the disk is full\. .*checkpoint_3\b"):
        launch(run, in_process=True)
    monkeypatch.undo()
    assert "Traceback" not in capfd.readouterr().err
    filled[0].unlink()
    assert launch(run, in_process=True).finished
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)


def test_another_process_that_trains_the_run_is_noticed(
    prepared: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from filelock import FileLock

    monkeypatch.setattr(journal, "LOCK_SECONDS", 0.05)
    run = copy_run(prepared, tmp_path)
    with FileLock(run.root / "training.lock"), pytest.raises(RunError, match="another process is training this run"):
        launch(run, in_process=True)
    assert not list_checkpoints(run.layout.checkpoints)


def test_the_only_whole_checkpoint_survives_a_failing_write(prepared: Run, undisturbed: Run, disk: Path) -> None:
    run = copy_run(prepared, disk)
    recipe = run.layout.recipe.read_text()
    run.layout.recipe.write_text(recipe.replace('"keep_checkpoints": null', '"keep_checkpoints": 1'))
    newest = list_checkpoints(undisturbed.layout.checkpoints)[0]
    shutil.copytree(newest.root, run.layout.checkpoints / newest.root.name)
    fill(disk, leave=size_of(newest.root) // 2)
    with pytest.raises(RunError, match="The last good checkpoint is checkpoint_0"):
        launch(run, in_process=True)
    assert list_checkpoints(run.layout.checkpoints) == [CheckpointLayout(run.layout.checkpoints / newest.root.name)]
