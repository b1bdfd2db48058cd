"""The command line with two Ray workers: its driver killed, then stopped; resumed to the very same end."""

import signal
from pathlib import Path

import psutil
import pytest
from fault_runs import NAME, command, finetune_flags, left_over, rank_pids, run_of, same, wait_for_step, wait_until

from secauditai.runs import Run


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_is_killed_then_stopped_and_resumed_bit_for_bit(data: Path, tmp_path: Path, undisturbed: Run) -> None:
    resume = ["train", "resume", "--model", NAME, "--workspace", tmp_path]
    killed = command(*finetune_flags(data, tmp_path))
    wait_for_step(run_of(tmp_path), 25)
    ranks = [psutil.Process(pid) for pid in rank_pids(run_of(tmp_path)).values()]
    family = psutil.Process(killed.pid).children(recursive=True)
    assert len(ranks) == 2
    killed.kill()
    killed.communicate()
    assert left_over(ranks, 10) == []
    assert left_over(family, 120) == []

    stopped = command(*resume)
    # The history may hold the step already: only with ranks of its own does the new driver listen.
    wait_until(lambda: run_of(tmp_path).info.pid == stopped.pid and len(rank_pids(run_of(tmp_path))) == 2, "ranks")
    wait_for_step(run_of(tmp_path), 60)
    family = psutil.Process(stopped.pid).children(recursive=True)
    stopped.send_signal(signal.SIGTERM)
    said, _ = stopped.communicate()
    assert stopped.returncode == 0, said
    assert "SIGTERM: training stops after this step" in said
    assert f"secauditai train resume --model {NAME}" in said
    info = run_of(tmp_path).info
    assert (info.status, info.message) == ("stopped", "asked to stop before the end (SIGTERM)")

    finished = command(*resume)
    said, _ = finished.communicate()
    assert finished.returncode == 0, said
    same(run_of(tmp_path), undisturbed)
    assert run_of(tmp_path).info.model_version == 1
    assert left_over(family, 120) == []
