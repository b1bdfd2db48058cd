"""SIGKILL of a real process at random times; 4 in the ordinary test run, 20 in `make soak`."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from killed import start_training
from training_runs import copy_run, history, new_run, weights, write_dataset

from secauditai.training.launch import training_finished

pytestmark = pytest.mark.slow

KILLS = 20 if os.environ.get("SOAK") else 4


def test_random_kills_cost_not_a_bit(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    prepared = new_run(data, tmp_path / "w", max_steps=40, eval_interval=7, keep_checkpoints=3, micro_batch_tokens=256)
    calm = copy_run(prepared, tmp_path / "calm")
    started = time.monotonic()
    start_training(calm).join()
    undisturbed_seconds = time.monotonic() - started
    source = random.Random(os.environ.get("SOAK_SEED", "1"))
    kills, run_number = 0, 0
    while kills < KILLS:
        rough = copy_run(prepared, tmp_path / f"rough_{run_number}")
        run_number += 1
        while not training_finished(rough):
            process = start_training(rough)
            if kills < KILLS:
                process.join(source.uniform(0, undisturbed_seconds))
                process.kill()
            process.join()
            kills += process.exitcode == -signal.SIGKILL
        assert weights(rough) == weights(calm)
        assert history(rough) == history(calm)
