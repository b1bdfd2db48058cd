"""Whole worker groups killed at random steps; twice in the ordinary test run, 20 times in `make soak`."""

import os
import random
from pathlib import Path

import pytest
from fault_runs import STEPS, at_steps, kill_ranks, same, start

from secauditai.runs import Run
from secauditai.training.launch import launch

pytestmark = pytest.mark.slow

KILLS = 20 if os.environ.get("SOAK") else 2


@pytest.mark.ray
@pytest.mark.timeout(120 * (KILLS + 2))
def test_random_kills_of_whole_groups_cost_not_a_bit(data: Path, tmp_path: Path, undisturbed: Run) -> None:
    rough = start(data, tmp_path)
    steps = sorted(random.Random(os.environ.get("SOAK_SEED", "1")).sample(range(5, STEPS - 20), KILLS))
    said: list[str] = []

    def kill_next(_text: str = "") -> None:
        said.append(_text)
        if steps:
            at_steps(rough, (steps.pop(0), lambda: kill_ranks(rough, [0, 1])))

    kill_next()
    result = launch(rough, max_failures=KILLS, notify=kill_next)
    assert (result.attempts, result.finished, steps) == (KILLS + 1, True, [])
    same(rough, undisturbed)
