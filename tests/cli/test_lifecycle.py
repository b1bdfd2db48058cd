"""One small model through every command that needs no Ray, in one process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli

from secauditai.runs import newest_run

pytestmark = pytest.mark.slow

Write = Callable[..., Path]
SMALL = ("--max-length", 64, "--vocab-size", 320, "--batch-size", 8)


def test_from_yaml_to_a_verified_file(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml(60)
    prepared = json.loads(cli("train", "prepare", "--dataset", "samples.yaml", "--output", "data", "--json").out)
    keys = "read kept rejected duplicates output content_hash seconds ray_startup_seconds"
    assert set(prepared) == set(keys.split())
    split = json.loads(cli("train", "split", "--dataset", "data", "--json").out)
    assert split == {"train": 96, "val": 12, "test": 12, "straddling_clusters": 0, "bridges": 0, "drift": {}}

    arguments = ("train", "finetune", "--data", "data", "--task", "multi_task", "--epochs", 6, *SMALL)
    plan = json.loads(cli(*arguments, "--dry-run", "--json").out)
    assert plan["total_steps"] == 72
    assert plan["train_samples"] == 96
    assert not (tmp_path / ".secauditai" / "runs").exists()
    done = cli(*arguments, "--json")
    assert done.code == 0, done.err
    trained = json.loads(done.out)
    keys = (
        "run_id run_dir model version global_step metrics mlflow_run_id samples_per_second seconds ray_startup_seconds"
    )
    assert set(trained) == set(keys.split())
    assert (trained["model"], trained["version"], trained["global_step"]) == ("trained_model", 1, 72)
    assert trained["metrics"]["roc_auc"] > 0.9

    for name in ("checkpoint_999.pt", "999", "nowhere/checkpoint_1.pt", "newest"):
        lost = cli("train", "resume", "--model", "trained_model", "--checkpoint", name)
        assert lost.code == 1, name
        assert "there is no checkpoint" in lost.err
        assert len([line for line in lost.err.splitlines() if line.startswith("Error: ")]) == 1, lost.err
        assert "Traceback" not in lost.err
    state = json.loads(cli("train", "monitor", "--model", "trained_model", "--json").out)
    assert (state["status"], state["step"], state["version"]) == ("finished", 72, 1)

    evaluated = json.loads(cli("train", "evaluate", "--model", "trained_model", "--test-data", "data", "--json").out)
    assert {"n", "threshold", "metrics", "tasks", "baselines"} <= set(evaluated)
    assert evaluated["n"] == 12
    assert set(evaluated["tasks"]) == {"vulnerability_detection", "category_classification", "severity_prediction"}
    assert evaluated["overlap"]["samples"] == 0
    seen = json.loads(cli("train", "evaluate", "--model", "trained_model", "--test-data", "data/train", "--json").out)
    assert seen["overlap"]["samples"] == seen["n"] == 96
    assert "own training data" in seen["notes"][0]
    gate = cli("train", "evaluate", "--model", "trained_model", "--min", "accuracy=1.1")
    assert gate.code == 3
    assert "Below the gate: accuracy" in gate.err

    assert cli("train", "report", "--model", "trained_model/1", "--output", "r.html").code == 0
    assert "<script" not in (tmp_path / "r.html").read_text()

    exported = json.loads(cli("train", "export", "--model", "trained_model", "--output", "m.onnx", "--json").out)
    assert set(exported) == {"path", "sha256", "opset"}
    verified = json.loads(cli("train", "verify", "--model", "m.onnx", "--json").out)
    assert verified["ok"]
    assert verified["max_abs_diff"] < 1e-4
    assert verified["decision_agreement"] == 1.0
    elsewhere = json.loads(cli("train", "verify", "--model", "m.onnx", "--workspace", "other", "--json").out)
    assert elsewhere["ok"]
    assert [check["name"] for check in elsewhere["checks"] if check["result"] == "skipped"]

    for name in ("p.jsonl", "p.parquet"):
        result = cli("train", "predict", "--model", "trained_model", "--data", "data/test", "--output", name)
        assert result.code == 0, result.err
    first = json.loads((tmp_path / "p.jsonl").read_text().splitlines()[0])
    assert set(first) == {"id", "label", "score", "category", "category_score", "severity", "severity_score"}

    (tmp_path / "new.jsonl").write_text('{"code": "x = 1"}\n{"code": "y = 2"}\n{"id": "none"}\n')
    scored = cli("train", "predict", "--model", "trained_model", "--data", "new.jsonl", "--output", "new_scores.jsonl")
    assert "1 of 3 samples cannot be scored: see new_scores.rejected.jsonl" in scored.err
    assert len((tmp_path / "new_scores.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "new_scores.rejected.jsonl").read_text())["reason"] == "no_code"
    (tmp_path / "new_scores.jsonl").unlink()
    taken = cli("train", "predict", "--model", "trained_model", "--data", "new.jsonl", "--output", "new_scores.jsonl")
    assert "new_scores.rejected.jsonl: the output exists" in taken.err

    import mlflow
    import pandas as pd

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/.secauditai/mlflow.db")
    answer = mlflow.pyfunc.load_model("models:/trained_model/1").predict(pd.DataFrame({"code": ["x = 1\n"]}))
    assert answer["label"][0] in ("safe", "vulnerability")
    ours = json.loads(cli("train", "monitor", "--model", "trained_model", "--json").out)["step"]
    client = mlflow.MlflowClient()
    assert max(m.step for m in client.get_metric_history(trained["mlflow_run_id"], "train/loss")) == ours
    mlflow.set_tracking_uri(None)

    complete = cli("train", "resume", "--model", "trained_model")
    assert complete.code == 0
    assert "is complete" in complete.out
    late = cli("train", "resume", "--model", "trained_model", "--epochs", 40)
    assert late.code == 1
    assert "is complete, so this would change nothing: --epochs 40" in late.err
    looked = cli("train", "resume", "--model", "trained_model", "--checkpoint", 60, "--dry-run", "--json")
    rest = json.loads(looked.out)
    assert (rest["left"], rest["total_steps"], rest["step"], rest["branches"]) == (12, 72, 60, True)
    assert (rest["train_samples"], rest["devices"]) == (plan["train_samples"], plan["devices"])
    assert rest["tokens_left"] * 5 < rest["tokens_per_epoch"] * rest["total_steps"] / rest["steps_per_epoch"]
    assert rest["parameters"] == plan["parameters"]
    branched = cli("train", "resume", "--model", "trained_model", "--checkpoint", "checkpoint_60.pt", "--json")
    assert branched.code == 0, branched.err
    branch = json.loads(branched.out)
    assert branch["version"] == 2
    assert newest_run(tmp_path / ".secauditai", "trained_model").info.parent_run_id == trained["run_id"]


def test_start_repeats_the_last_run_with_what_is_said_anew(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml(40)
    assert cli("train", "config", "create", "--name", "mine", "--type", "transformer").code == 0
    assert cli("train", "config", "set", "mine", "max_length", 64, "vocab_size", 320, "max_steps", 4).code == 0
    shown = json.loads(cli("train", "config", "show", "mine", "--epochs", 9, "--json").out)
    assert (shown["settings"]["max_steps"], shown["settings"]["epochs"]) == (4, 9)
    first = cli("train", "start", "--config", "mine", "--data", "samples.yaml", "--gpu", "0")
    assert first.code == 0, first.err
    assert "no such CUDA device" in first.err
    again = cli("train", "start", "--batch-size", 16, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["version"] == 2
    run = newest_run(tmp_path / ".secauditai", "mine")
    assert "batch_size: 16" in run.layout.config.read_text()
    assert "max_steps: 4" in run.layout.config.read_text()
    assert "gpu: null" in run.layout.config.read_text()
    assert json.loads(cli("train", "config", "list", "--json").out) == {"configs": ["mine"]}
    assert cli("train", "config", "delete", "mine").code == 0


@pytest.mark.parametrize("command", ["prepare", "base", "start", "resume", "evaluate", "verify", "tune", "config"])
def test_every_command_has_help_with_an_example(cli: Cli, command: str) -> None:
    result = cli("train", command, "--help")
    assert result.code == 0
    assert "Example:" in result.out
