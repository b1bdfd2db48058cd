"""`runs list` and `runs prune`: sizes, what stays whatever is asked, and what would be lost."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from secauditai.fold_records import Record
from secauditai.pruning import Selection, choose, read_states, remove
from secauditai.runs import FAILED, FINISHED, RUNNING, STOPPED, Run, create_run

DAY = 86400.0


def make_run(
    workspace: Path,
    name: str,
    status: str,
    *,
    steps: tuple[int, ...] = (),
    best: int | None = None,
    age: float = 0.0,
    **more: Any,
) -> Run:
    """A run directory as training leaves it, `age` seconds old, with checkpoints of 1,000 bytes and some."""
    run = create_run(workspace, name, kind="finetune", task="vulnerability_detection", total_steps=40)
    for step in steps:
        root = run.layout.checkpoints / f"checkpoint_{step}"
        root.mkdir()
        (root / "model.safetensors").write_bytes(b"w" * 1000)
        (root / "state.json").write_text(json.dumps({"global_step": step, "best_step": best}))
        (root / "manifest.json").write_text("{}")
    lines = [json.dumps({"kind": "train", "step": step}) for step in range(1, max(steps, default=0) + 1)]
    run.layout.metrics.write_text("".join(line + "\n" for line in lines) + '{"kind": "tr')
    run.update(status=status, pid=more.pop("pid", 2**22 + 1), created=time.time() - age, **more)
    then = time.time() - age
    for path in [run.root, *run.root.rglob("*")]:
        os.utime(path, (then, then))
    return run


def test_list_shows_what_runs_are_and_take(cli: Cli, workspace: Path) -> None:
    make_run(workspace, "a", FINISHED, steps=(20, 40), best=20, age=3 * DAY, model_version=2)
    make_run(workspace, "b", RUNNING, steps=(10,), pid=os.getpid())
    make_run(workspace, "b", RUNNING, steps=(10,), age=DAY)
    document = json.loads(cli("runs", "list", "--json").out)
    runs = {(run["name"], run["status"]): run for run in document["runs"]}
    assert set(runs) == {("a", "finished"), ("b", "running"), ("b", "interrupted")}
    first = runs["a", "finished"]
    assert (first["version"], first["step"], first["total_steps"], first["kind"]) == (2, 40, 40, "finetune")
    files = [path for path in Path(first["run_dir"]).rglob("*") if path.is_file()]
    assert first["bytes"] == sum(path.stat().st_size for path in files)
    assert 2000 < first["checkpoint_bytes"] < first["bytes"]
    assert document["bytes"] == sum(run["bytes"] for run in document["runs"])
    shown = cli("runs", "list", "--name", "a")
    assert "3 days" in shown.out
    assert "1 runs in" in shown.out


def test_an_empty_workspace_has_no_runs(cli: Cli) -> None:
    assert json.loads(cli("runs", "list", "--json").out)["runs"] == []
    assert "Nothing to remove." in cli("runs", "prune", "--status", "failed").out


def test_prune_shows_and_removes_only_with_yes(cli: Cli, workspace: Path) -> None:
    old = make_run(workspace, "m", FAILED, steps=(10, 20), best=10, age=40 * DAY)
    young = make_run(workspace, "m", FAILED, steps=(10,), age=2 * DAY)
    line = ("runs", "prune", "--status", "failed", "--older-than", "30d")
    shown = cli(*line)
    assert shown.code == 0
    assert "unfinished at step 20 of 40, the best so far at step 10" in shown.out
    assert "add --yes" in shown.out
    assert old.root.exists()
    document = json.loads(cli(*line, "--yes", "--json").out)
    assert [run["run_id"] for run in document["runs"]] == [old.root.name]
    assert document["dry_run"] is False
    assert document["bytes"] > 2000
    assert not old.root.exists()
    assert young.root.exists()
    assert not (workspace / ".pruned").exists()


def test_what_may_be_running_always_stays(cli: Cli, workspace: Path) -> None:
    running = make_run(workspace, "m", RUNNING, steps=(10,), age=90 * DAY, pid=os.getpid())
    elsewhere = make_run(workspace, "m", RUNNING, steps=(10,), age=0.0)
    over = make_run(workspace, "m", RUNNING, steps=(10,), age=DAY)
    silent = make_run(workspace, "m", RUNNING, steps=(10,), age=DAY, pid=os.getpid(), host="a pod that died")
    document = json.loads(cli("runs", "prune", "--name", "m", "--yes", "--json").out)
    assert [run["run_id"] for run in document["runs"]] == [over.root.name, silent.root.name]
    assert [run["status"] for run in document["runs"]] == ["interrupted"] * 2
    assert set(document["kept"]) == {running.root.name, elsewhere.root.name}
    assert running.root.exists()
    assert elsewhere.root.exists()
    assert not over.root.exists()


def test_a_run_that_goes_on_again_meanwhile_stays(workspace: Path) -> None:
    run = make_run(workspace, "m", STOPPED, steps=(10,), age=DAY)
    (removal,), _ = choose(read_states(workspace), Selection(name="m"), {}, {})
    run.update(status=RUNNING, pid=os.getpid())
    with pytest.raises(Exception, match="goes on again"):
        remove(workspace, removal)
    assert run.root.exists()


def test_registered_runs_stay_unless_asked(cli: Cli, workspace: Path) -> None:
    run = make_run(workspace, "m", FINISHED, steps=(40,), model_version=3, age=DAY)
    kept = cli("runs", "prune", "--name", "m", "--yes")
    assert "registered as m/3" in kept.out
    assert run.root.exists()
    asked = cli("runs", "prune", "--name", "m", "--registered", "--yes")
    assert "m/3 stays registered and loads from MLflow" in asked.out
    assert not run.root.parent.exists()


def test_keep_last_counts_by_name(cli: Cli, workspace: Path) -> None:
    runs = [make_run(workspace, name, STOPPED, steps=(10,), age=DAY) for name in ("a", "a", "a", "b")]
    ordered = sorted(run.root.name for run in runs[:3])
    document = json.loads(cli("runs", "prune", "--keep-last", 2, "--yes", "--json").out)
    assert [run["run_id"] for run in document["runs"]] == ordered[:1]
    assert runs[3].root.exists()


def test_checkpoints_only_keeps_the_newest_and_the_best(cli: Cli, workspace: Path) -> None:
    run = make_run(workspace, "m", FINISHED, steps=(10, 20, 30, 40), best=20, age=DAY, model_version=1)
    shown = cli("runs", "prune", "--name", "m", "--checkpoints-only")
    assert "branching from steps 10, 30" in shown.out
    cli("runs", "prune", "--name", "m", "--checkpoints-only", "--yes")
    assert sorted(path.name for path in run.layout.checkpoints.iterdir()) == ["checkpoint_20", "checkpoint_40"]
    assert "Nothing to remove." in cli("runs", "prune", "--name", "m", "--checkpoints-only").out


def test_trials_stay_while_their_sweep_can_go_on(cli: Cli, workspace: Path) -> None:
    trial = make_run(workspace, "m", FINISHED, steps=(40,), age=DAY, sweep_id="sweep-1", trial_id="0")
    run = make_run(workspace, "m", FINISHED, steps=(40,), age=2 * DAY)
    ledger = workspace / "sweeps" / "m" / "sweep-1" / "ledger.json"
    ledger.parent.mkdir(parents=True)
    for status in ("interrupted", "failed"):
        ledger.write_text(json.dumps({"status": status}))
        open_ = json.loads(cli("runs", "prune", "--name", "m", "--json").out)
        assert open_["kept"] == {trial.root.name: f"a trial of sweep sweep-1, which is {status}"}
    ledger.write_text(json.dumps({"status": "finished"}))
    over = json.loads(cli("runs", "prune", "--keep-last", 1, "--json").out)
    assert [found["run_id"] for found in over["runs"]] == [trial.root.name]
    assert set(over["kept"]) == {run.root.name}
    assert "sweep sweep-1" in over["runs"][0]["lost"][0]
    ledger.write_text("{")
    broken = cli("runs", "prune", "--name", "m")
    assert broken.code == 1
    assert "damaged ledger" in broken.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Say which runs"),
        (("--name", "m", "--dry-run", "--yes"), "contradict"),
        (("--older-than", "soon"), "no age"),
        (("--status", "running"), "Invalid value"),
    ],
)
def test_wrong_usage_is_named(cli: Cli, arguments: tuple[str, ...], words: str) -> None:
    result = cli("runs", "prune", *arguments)
    assert result.code == 2
    assert words in result.err


def test_finished_folds_stay_while_their_cross_validation_can_go_on(cli: Cli, workspace: Path) -> None:
    fold, other = (make_run(workspace, "m", FINISHED, steps=(40,), age=DAY) for _ in range(2))
    record = Record(
        workspace / "cross_validations" / "m" / "r1.json", "r1", "finetune", "m", 2, "best", {}, None, None, "f" * 64
    )
    record.runs["0"] = str(fold.root)
    record.save()
    document = json.loads(cli("runs", "prune", "--name", "m", "--yes", "--json").out)
    assert document["kept"] == {fold.root.name: "a fold of cross-validation r1, which is not finished"}
    assert [run["run_id"] for run in document["runs"]] == [other.root.name]
    record.finished = time.time()
    record.save()
    assert json.loads(cli("runs", "prune", "--name", "m", "--yes", "--json").out)["kept"] == {}
    assert not fold.root.exists()
    record.path.write_text("{")
    broken = cli("runs", "prune", "--name", "m")
    assert broken.code == 1
    assert "damaged record of a cross-validation" in broken.err


def test_a_run_whose_model_another_begins_with_stays(cli: Cli, workspace: Path) -> None:
    donor = make_run(workspace, "a", FINISHED, steps=(40,), age=DAY, model_version=1)
    heir = make_run(workspace, "b", STOPPED, steps=(10,), age=DAY)
    heir.layout.recipe.write_text(json.dumps({"initial_bundle": str(donor.layout.bundle)}))
    line = ("runs", "prune", "--name", "a", "--registered", "--yes", "--json")
    reason = f"run {heir.root.name} of b begins with its model, and is not finished"
    assert json.loads(cli(*line).out)["kept"] == {donor.root.name: reason}
    assert json.loads(cli(*line, "--checkpoints-only").out)["kept"] == {}
    heir.layout.recipe.write_text("{")  # which cannot go on
    ledger = workspace / "sweeps" / "b" / "sweep-1" / "ledger.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text(json.dumps({"status": "interrupted", "fixed": {"model": str(donor.layout.bundle)}}))
    reason = "sweep sweep-1 begins with its model, and is not finished"
    assert json.loads(cli(*line).out)["kept"] == {donor.root.name: reason}
    ledger.write_text(json.dumps({"status": "finished"}))
    assert json.loads(cli(*line).out)["kept"] == {}
    assert not donor.root.exists()
