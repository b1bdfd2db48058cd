"""Real worker groups: killed workers, a killed driver, stop and resume, all bit-identical to the undisturbed run."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from training_runs import history, new_run, weights, write_dataset

from secauditai.runs import Run, read_metrics
from secauditai.training.launch import launch

STEPS = 240


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def start(data: Path, workspace: Path, workers: int) -> Run:
    return new_run(data, workspace, num_workers=workers, threads=1, max_steps=STEPS, checkpoint_interval=20)


def wait_for_step(run: Run, step: int) -> None:
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        if any(record["step"] >= step for record in read_metrics(run.layout.metrics)):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


def worker_pid(run: Run, rank: int) -> int:
    text = (run.layout.logs / f"rank_{rank}.log").read_text(encoding="utf-8")
    return int(re.findall(r"pid (\d+)", text)[-1])


def kill_a_worker_at(run: Run, step: int, rank: int) -> threading.Thread:
    def kill() -> None:
        wait_for_step(run, step)
        os.kill(worker_pid(run, rank), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("workers", [2, 4])
def test_a_killed_worker_costs_a_restart_and_not_a_bit(
    data: Path, tmp_path: Path, ray_cluster: str, workers: int
) -> None:
    undisturbed, disturbed = start(data, tmp_path / "a", workers), start(data, tmp_path / "b", workers)
    assert launch(undisturbed).attempts == 1
    killer = kill_a_worker_at(disturbed, 50, workers - 1)
    said: list[str] = []
    result = launch(disturbed, notify=said.append)
    killer.join()
    assert (result.attempts, result.finished) == (2, True)
    assert "restart 1 of 3" in said[0]
    assert weights(disturbed) == weights(undisturbed)
    assert history(disturbed) == history(undisturbed)


@pytest.mark.ray
def test_another_world_size_takes_the_same_step(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    records = []
    for workers in (1, 2):
        run = new_run(
            data, tmp_path / str(workers), num_workers=workers, threads=1, max_steps=1, micro_batch_tokens=128
        )
        assert launch(run).finished
        records.append(next(record for record in read_metrics(run.layout.metrics) if record["kind"] == "train"))
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-5)
    assert records[0]["gradient_norm"] == pytest.approx(records[1]["gradient_norm"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_driver_is_resumed_bit_for_bit(data: Path, tmp_path: Path) -> None:
    arguments = [
        "train",
        "finetune",
        "--data",
        str(data),
        "--max-length",
        "64",
        "--vocab-size",
        "320",
        "--batch-size",
        "8",
    ]
    arguments += ["--max-steps", str(STEPS), "--checkpoint-interval", "30", "--log-interval", "1", "--threads", "1"]

    def command(*more: str, workspace: str) -> subprocess.Popen[bytes]:
        code = "from secauditai.cli.app import main; main()"
        place = ["--workspace", str(tmp_path / workspace)]
        return subprocess.Popen([sys.executable, "-c", code, *more, *place], stdout=subprocess.DEVNULL)

    def run_of(workspace: str) -> Run:
        from secauditai.runs import newest_run

        return newest_run(tmp_path / workspace, "trained_model")

    assert command(*arguments, workspace="calm").wait() == 0
    killed = command(*arguments, workspace="rough")
    give_up = time.monotonic() + 120
    while not list((tmp_path / "rough" / "runs").glob("*/*/metrics.jsonl")):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    wait_for_step(run_of("rough"), 40)
    children = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.wait()
    assert command("train", "resume", "--model", "trained_model", workspace="rough").wait() == 0
    assert weights(run_of("rough")) == weights(run_of("calm"))
    assert history(run_of("rough")) == history(run_of("calm"))
    assert run_of("rough").info.model_version == 1
    assert not [child for child in children if child.is_running()]
