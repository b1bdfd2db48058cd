import json
from pathlib import Path

import pytest
from conftest import Cli
from training_runs import write_dataset

from secauditai.tuning.ledger import Ledger, Trial, read_ledger


def test_the_ledger_survives_and_knows_the_best(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "s" / "ledger.json", "s1", "loss", higher_is_better=False)
    ledger.add(Trial("a", {"epochs": 1}, 0.5))
    ledger.add(Trial("b", {"epochs": 2}, 0.3))
    ledger.add(Trial("c", {"epochs": 3}, None, error="died"))
    again = read_ledger(ledger.path)
    assert again.best is not None
    assert again.best.trial_id == "b"
    assert again == ledger


@pytest.mark.ray
def test_a_sweep_registers_its_best_trial_below_one_parent(cli: Cli, tmp_path: Path, ray_cluster: str) -> None:
    data = write_dataset(tmp_path)
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    nothing = cli("train", "tune", "--config", "c", "--data", data)
    assert nothing.code == 1
    assert "has no search space" in nothing.err
    settings = ("max_length", 64, "vocab_size", 320, "max_steps", 6, "batch_size", 8)
    assert cli("train", "config", "set", "c", "learning_rate", "{loguniform: [1.0e-4, 1.0e-3]}", *settings).code == 0
    refused = cli("train", "start", "--config", "c", "--data", data)
    assert refused.code == 1
    assert "train tune" in refused.err
    looked = json.loads(cli("train", "tune", "--config", "c", "--data", data, "--dry-run", "--json").out)
    assert (looked["trial"]["total_steps"], list(looked["spaces"])) == (6, ["learning_rate"])
    done = cli("train", "tune", "--config", "c", "--data", data, "--num-samples", 2, "--json")
    assert done.code == 0, done.err
    sweep = json.loads(done.out)
    assert {"sweep_id", "trials", "best"} <= set(sweep)
    assert len(sweep["trials"]) == 2
    values = [trial["value"] for trial in sweep["trials"]]
    assert sweep["best"]["value"] == max(values)
    rates = {trial["settings"]["learning_rate"] for trial in sweep["trials"]}
    assert len(rates) == 2
    assert all(1e-4 <= rate <= 1e-3 for rate in rates)
    shown = json.loads(cli("train", "config", "show", "c-best", "--json").out)
    assert shown["settings"]["learning_rate"] == sweep["best"]["settings"]["learning_rate"]

    from secauditai.tracking.store import open_store

    client = open_store(tmp_path / ".secauditai").client
    runs = client.search_runs([open_store(tmp_path / ".secauditai").experiment_id])
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == sweep["mlflow_run_id"]]
    assert len(children) == 2
    assert all(run.info.status == "FINISHED" for run in runs)
    assert [v.version for v in client.search_model_versions("name='c'")] in ([1], ["1"])
