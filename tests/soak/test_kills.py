"""Kills at random steps; 4 in the ordinary test run, 20 in `make soak`."""

import os
import random
from pathlib import Path

import pytest
from training_runs import history, new_run, weights, write_dataset

from secauditai.training.launch import launch
from secauditai.training.loop import train_rank
from secauditai.training.step import Stepper

KILLS = 20 if os.environ.get("SOAK") else 4


class Killed(BaseException):
    """Stands for a process that dies on the spot."""


def test_random_kills_cost_not_a_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dataset(tmp_path)
    calm, rough = new_run(data, tmp_path / "a", max_steps=40), new_run(data, tmp_path / "b", max_steps=40)
    launch(calm)
    source = random.Random(os.environ.get("SOAK_SEED", "1"))
    doomed = {"step": 0}
    real = Stepper.run

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        result = real(self, plan, step, stop=stop)  # type: ignore[arg-type]
        if step >= doomed["step"] > 0:
            doomed["step"] = 0
            raise Killed
        return result

    monkeypatch.setattr(Stepper, "run", run)
    for _ in range(KILLS):
        doomed["step"] = source.randint(1, 40)
        with pytest.raises(Killed):
            train_rank(rough.root, 0, 1)
    state = train_rank(rough.root, 0, 1)
    assert state is not None
    assert state.finished
    assert weights(rough) == weights(calm)
    assert history(rough) == history(calm)
