"""What a sweep says of itself at its end, and what is checked before one goes on; none of it needs Ray."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_runs import SMALL, new_run, write_dataset

from secauditai.cli.output import Output
from secauditai.cli.tune import _show_result
from secauditai.config.files import parse_layer
from secauditai.data.dataset import open_dataset
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.errors import ConfigError, RunError, SecAuditError
from secauditai.runs import Run
from secauditai.tuning import sweep
from secauditai.tuning.ledger import FINISHED, INTERRUPTED, Ledger, Trial, TrialRun, read_ledger
from secauditai.tuning.planning import SweepRequest, plan_sweep, resume_request


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


def refuse_to_resume(
    ledger: Ledger, workspace: Path, message: str, kind: type[SecAuditError] = RunError, **changes: Any
) -> None:
    """Resume a sweep in vain, which has to leave its ledger alone."""
    ledger.save()
    before = ledger.path.read_bytes()
    with pytest.raises(kind, match=message):
        sweep.resume_sweep(SweepRequest("", {}, workspace, **changes), None, notify=lambda _text: None)
    assert ledger.path.read_bytes() == before


def age(run: Run) -> None:
    """Have a run begin with a library of another version."""
    recipe = json.loads(run.layout.recipe.read_text())
    recipe["versions"]["torch"] = "1.0"
    run.layout.recipe.write_text(json.dumps(recipe))


def test_trials_that_began_with_other_code_keep_a_sweep_from_going_on(data: Path, tmp_path: Path) -> None:
    ended, begun = new_run(data, tmp_path), new_run(data, tmp_path)
    age(ended)
    age(begun)
    ledger = a_ledger(tmp_path)
    ledger.put(Trial("0000", {"dropout": 0.1}, 0.5, str(ended.root), status=FINISHED))
    ledger.put(Trial("0001", {"dropout": 0.2}))
    for trial, run in (("0000", ended), ("0001", begun)):
        (ledger.layout.trials / f"{trial}.json").write_text(json.dumps({"13": str(run.root)}))
    refuse_to_resume(ledger, tmp_path, "this run began with other code: torch 1.0")


def test_other_data_under_the_same_path_keeps_a_sweep_from_going_on(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    layer = parse_layer({**SMALL, "data": str(data), "learning_rate": {"loguniform": [1e-4, 1e-2]}})
    plan = plan_sweep(SweepRequest("c", layer, tmp_path))
    ledger = plan.new_ledger()
    split_dataset(open_dataset(data), SplitPlan(seed=2))
    refuse_to_resume(ledger, tmp_path, f"{data}: the sweep's data is not what it was: its splits changed")
    document = json.loads(ledger.path.read_text())
    del document["data"]  # as before digests were noted
    ledger.path.write_text(json.dumps(document))
    plan.check_data(read_ledger(ledger.path))


def test_a_grid_is_not_given_more_trials_than_it_has(data: Path, tmp_path: Path) -> None:
    layer = parse_layer({**SMALL, "data": str(data), "batch_size": {"choice": [4, 8]}})
    ledger = plan_sweep(SweepRequest("c", layer, tmp_path, sampler="grid")).new_ledger()
    ledger.status = FINISHED
    refuse_to_resume(ledger, tmp_path, "--num-samples: the grid has 2 trials", ConfigError, num_samples=3)
    assert resume_request(ledger, tmp_path, SweepRequest("", {}, tmp_path, num_samples=2)).num_samples == 2


def test_the_next_step_evaluates_on_the_test_split_and_not_on_the_file_that_holds_the_training_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = tmp_path / "my cache" / "data"
    ledger = a_ledger(tmp_path, fixed={"data": str(prepared)}, version=2, status=FINISHED)
    ledger.layer["data"] = "samples.yaml"
    ledger.put(Trial("0000", {"dropout": 0.1}, 0.5, "r", status=FINISHED))
    _show_result(sweep.SweepResult(ledger, 1, 1.0, 0.0), Output(as_json=False))
    out = capsys.readouterr().out
    assert f"Next: secauditai train evaluate --model c/2 --test-data '{prepared}'\n" in out
