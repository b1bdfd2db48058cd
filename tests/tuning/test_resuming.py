"""What a sweep says of itself at its end, and what is checked before one goes on; none of it needs Ray."""

from pathlib import Path
from typing import Any

import pytest
from training_runs import new_run, write_dataset

from secauditai.tuning import sweep
from secauditai.tuning.ledger import FINISHED, INTERRUPTED, Ledger, Trial, TrialRun


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def a_ledger(workspace: Path, **changes: Any) -> Ledger:
    path = workspace / "sweeps" / "c" / "s1" / "ledger.json"
    layer = {"dropout": {"uniform": [0.0, 0.5]}}
    ledger = Ledger(path, "s1", "c", "loss", higher_is_better=False, layer=layer, num_samples=2, **changes)
    ledger.layout.trials.mkdir(parents=True)
    return ledger


@pytest.mark.parametrize("left", [True, False])
def test_a_sweep_is_finished_when_every_trial_has_ended(data: Path, tmp_path: Path, left: bool) -> None:
    run = new_run(data, tmp_path)
    ledger = a_ledger(tmp_path, published=f"{run.root}@5", version=1)
    settings = {"dropout": 0.1}
    seeds = (TrialRun(13, str(run.root), 0.5, 5),)
    ledger.put(Trial("0000", settings, 0.5, str(run.root), status=FINISHED, seeds=seeds))
    ledger.put(Trial("0001", settings, status=INTERRUPTED if left else FINISHED, error="asked to stop"))
    told: list[str] = []
    sweep._finish(ledger, tmp_path, None, lambda *_: None, told.append)
    assert ledger.status == (INTERRUPTED if left else FINISHED)
    assert told == (["The sweep ends after 1 of 2 trials: trials were interrupted too often"] if left else [])
