import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from training_runs import write_dataset

from secauditai.runs import list_runs
from secauditai.tracking.store import open_store

pytestmark = pytest.mark.slow

FLAGS = ("--num-samples", 3, "--trial-scheduler", "asha", "--reduction-factor", 2, "--sampler", "tpe")


def configure(cli: Cli) -> None:
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    settings = ("max_length", 64, "vocab_size", 320, "max_steps", 6, "eval_interval", 2, "batch_size", 8)
    assert cli("train", "config", "set", "c", "learning_rate", "{loguniform: [1.0e-4, 1.0e-3]}", *settings).code == 0


def children_of(client: Any, experiment: str, parent: str) -> list[Any]:
    runs = client.search_runs([experiment])
    return [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent]


@pytest.mark.ray
def test_a_sweep_registers_its_best_trial_below_one_parent(cli: Cli, tmp_path: Path, ray_cluster: str) -> None:
    import ray

    data, workspace = write_dataset(tmp_path), tmp_path / ".secauditai"
    configure(cli)
    looked = json.loads(cli("train", "tune", "--config", "c", "--data", data, *FLAGS, "--dry-run", "--json").out)
    assert (looked["trial"]["total_steps"], list(looked["spaces"]), looked["rungs"]) == (6, ["learning_rate"], [16, 32])
    assert "floor(" in looked["arithmetic"]
    assert not (workspace / "sweeps").exists()

    done = cli("train", "tune", "--config", "c", "--data", data, *FLAGS, "--max-concurrent", 1, "--json")
    assert done.code == 0, done.err
    sweep = json.loads(done.out)
    assert {"sweep_id", "trials", "best", "mlflow_run_id", "summary", "max_concurrent"} <= set(sweep)
    assert [trial["trial_id"] for trial in sweep["trials"]] == ["0000", "0001", "0002"]
    assert {trial["status"] for trial in sweep["trials"]} <= {"finished", "stopped"}
    assert all(1e-4 <= trial["settings"]["learning_rate"] <= 1e-3 for trial in sweep["trials"])
    finished = [trial["value"] for trial in sweep["trials"] if trial["status"] == "finished"]
    assert sweep["best"]["value"] == max(finished)
    assert "Trial 0002" in done.err
    saved = json.loads(cli("train", "config", "show", "c-best", "--json").out)["settings"]
    assert saved["learning_rate"] == sweep["best"]["settings"]["learning_rate"]
    assert Path(sweep["summary"]).read_text(encoding="utf-8").count("<tr") == 4

    store = open_store(workspace)
    children = children_of(store.client, store.experiment_id, sweep["mlflow_run_id"])
    assert {run.info.status for run in children} <= {"FINISHED", "KILLED"}
    assert len(children) == 3
    assert store.client.get_run(sweep["mlflow_run_id"]).info.status == "FINISHED"
    (version,) = store.client.search_model_versions("name='c'")
    assert (version.tags["sweep_id"], version.tags["trial_id"]) == (sweep["sweep_id"], sweep["best"]["trial_id"])
    assert len(list((workspace / "cache" / "tokens").glob("*/manifest.json"))) == 2  # train and val, for all trials
    assert not (workspace / "sweeps" / "c" / sweep["sweep_id"] / "ray").exists()
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"]

    again = json.loads(cli("train", "tune", "--resume", "--json").out)
    assert (again["sweep_id"], again["trials"], again["best"]) == (sweep["sweep_id"], sweep["trials"], sweep["best"])
    (best,) = [trial for trial in sweep["trials"] if trial["trial_id"] == sweep["best"]["trial_id"]]
    resumed = json.loads(cli("train", "resume", "--model", "c", "--json").out)
    assert (resumed["run_dir"], resumed["seconds"]) == (best["run_dir"], round(best["seconds"], 3))
    assert resumed["samples_per_second"] > 0
    more = json.loads(cli("train", "tune", "--resume", sweep["sweep_id"], "--num-samples", 4, "--json").out)
    assert more["trials"][:3] == sweep["trials"]
    assert len(more["trials"]) == len(list_runs(workspace, "c")) == 4


def test_what_makes_no_sense_is_refused(cli: Cli, tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    nothing = cli("train", "tune", "--config", "c", "--data", data)
    assert nothing.code == 1
    assert "has no search space" in nothing.err
    configure_again = cli("train", "config", "set", "c", "dropout", "{uniform: [0.0, 0.2]}")
    assert configure_again.code == 0
    for arguments, message in (
        (("--config", "c", "--max-concurrent", 99), "99 trials at a time do not fit: a trial takes 1 worker of 1 CPU"),
        (("--config", "c", "--sampler", "grid"), "dropout: a grid cannot try all values"),
        (("--config", "c", "--metric", "roc"), "unknown metric 'roc'"),
        (("--config", "c", "--reduction-factor", 4), "only asha has a reduction factor"),
        ((), "there is no configuration to search"),
        (("--resume",), "there is no sweep in"),
    ):
        refused = cli("train", "tune", *arguments, *(("--data", data, "--dry-run") if "--config" in arguments else ()))
        assert refused.code == 1, arguments
        assert message in refused.err
        assert "Traceback" not in refused.err
    fixed = cli("train", "tune", "--resume", "--sampler", "tpe", "--epochs", 3)
    assert "--sampler, --epochs cannot change with --resume" in fixed.err
    for budget in ("soon", "0s", "-1", "9" * 400):
        assert cli("train", "tune", "--config", "c", "--time-budget", budget, "--dry-run").code == 2
    single = cli("train", "start", "--config", "c", "--data", data)
    assert "Only `secauditai train tune` runs it" in single.err
