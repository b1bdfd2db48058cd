import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from training_runs import SMALL, history, new_run, weights, write_dataset

from secauditai.errors import RunError
from secauditai.runs import list_runs, open_run
from secauditai.tracking.connection import PATIENT, OutOfReachError
from secauditai.tracking.runs import create_run
from secauditai.tracking.store import open_store
from secauditai.training.launch import launch
from secauditai.tuning.ledger import SweepLayout
from secauditai.tuning.trial import TrialTask, check_trial, run_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="module")
def parent(workspace: Path) -> str:
    return create_run(workspace, name="sweep", params={}, tags={"kind": "sweep"})


def a_task(data: Path, workspace: Path, sweep: Path, **changes: Any) -> TrialTask:
    settings = {**SMALL, "data": str(data), "threads": 1, "max_steps": 8, "eval_interval": 2, "keep_checkpoints": 1}
    made = TrialTask(
        sweep=str(sweep),
        sweep_id=sweep.name,
        trial_id="0000",
        name="c",
        workspace=str(workspace),
        settings={**settings, **changes.pop("settings", {})},
        seeds=[13],
        chosen={"max_steps": 8},
        metric="roc_auc",
        higher_is_better=True,
        grace_samples=16,
        factor=None,
        distributed=False,
        parent=None,
    )
    return replace(made, **changes)


def test_trials_one_after_the_other_in_one_process_equal_fresh_runs(
    data: Path, workspace: Path, parent: str, tmp_path: Path
) -> None:
    done = [run_trial(a_task(data, workspace, tmp_path, trial_id=f"{n:04d}", seeds=[n], parent=parent)) for n in (1, 2)]
    for number, outcome in enumerate(done, start=1):
        assert (outcome.status, outcome.error) == ("finished", None)
        trained = open_run(Path(outcome.seeds[0]["run_dir"]))
        settings = {"max_steps": 8, "eval_interval": 2, "keep_checkpoints": 1, "threads": 1, "seed": number}
        fresh = new_run(data, tmp_path / f"fresh{number}", kind="start", **settings)
        launch(fresh)
        assert weights(trained) == weights(fresh)
        assert history(trained) == history(fresh)
        assert (trained.info.sweep_id, trained.info.trial_id) == (tmp_path.name, f"{number:04d}")


def test_a_trial_does_not_feel_what_its_process_did_before(
    data: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secauditai.tuning.ray_tune import TrialActor

    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path / "ray"))

    def config(number: int, **settings: Any) -> dict[str, Any]:
        task = a_task(data, workspace, tmp_path, trial_id=f"{number:04d}", settings=settings)
        return {"trial_id": task.trial_id, "task": json.dumps(asdict(task)), "in_ray_job": False}

    actor = TrialActor(config(0, threads=2, dropout=0.3, max_steps=4))
    outcomes = [json.loads(actor.step()["outcome"])]
    for settings in ({"stride": 60}, {"max_steps": 6}):
        assert actor.reset_config(config(len(outcomes), **settings))
        outcomes.append(json.loads(actor.step()["outcome"]))
    assert [outcome["status"] for outcome in outcomes] == ["finished", "failed", "finished"]
    trained = open_run(Path(outcomes[-1]["seeds"][0]["run_dir"]))
    assert trained.info.trial_id == "0002"
    fresh = new_run(data, tmp_path / "fresh", kind="start", max_steps=6, eval_interval=2, keep_checkpoints=1, threads=1)
    launch(fresh)
    assert weights(trained) == weights(fresh)
    assert history(trained) == history(fresh)


def test_a_training_over_before_mlflow_was_open_has_its_metrics_there(
    data: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secauditai.training.tracked.TRACKING_POLL", 300.0)
    outcome = run_trial(a_task(data, workspace, tmp_path, settings={"max_steps": 2, "log_interval": 1}))
    run = open_run(Path(outcome.seeds[0]["run_dir"]))
    sent = open_store(workspace).client.get_metric_history(str(run.info.mlflow_run_id), "train/loss")
    assert [metric.step for metric in sent] == [1, 2]


def test_a_trial_with_several_seeds_has_its_own_folder_in_mlflow(
    data: Path, workspace: Path, parent: str, tmp_path: Path
) -> None:
    outcome = run_trial(a_task(data, workspace, tmp_path, seeds=[1, 2], parent=parent))
    assert [run["seed"] for run in outcome.seeds] == [1, 2]
    folder = json.loads((tmp_path / "trials" / "0000.mlflow.json").read_text())["mlflow_run_id"]
    client = open_store(workspace).client
    assert client.get_run(folder).data.tags["mlflow.parentRunId"] == parent
    assert client.get_run(folder).info.status == "FINISHED"
    for run in outcome.seeds:
        seed = client.get_run(open_run(Path(run["run_dir"])).info.mlflow_run_id)
        assert (seed.data.tags["mlflow.parentRunId"], seed.info.status) == (folder, "FINISHED")
    assert len(outcome.seeds) == 2


def test_a_trial_stopped_at_a_rung_trains_no_further_seed(data: Path, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "rungs" / "0").mkdir(parents=True)
    for other in ("a", "b"):
        (tmp_path / "rungs" / "0" / f"{other}.json").write_text('{"value": 1.1, "goes_on": true}')
    outcome = run_trial(a_task(data, workspace, tmp_path, seeds=[1, 2], factor=3))
    assert (outcome.status, outcome.rung, len(outcome.seeds)) == ("stopped", 0, 1)
    assert outcome.seeds[0]["step"] == 2
    assert open_run(Path(outcome.seeds[0]["run_dir"])).info.status == "stopped"
    again = run_trial(a_task(data, workspace, tmp_path, seeds=[1, 2], factor=3))  # killed before the ledger knew
    assert (again.status, again.rung, again.seeds) == ("stopped", 0, outcome.seeds)


def test_a_trial_that_another_process_trains_is_left_for_later(
    data: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secauditai.tuning.trial.PREDECESSOR_SECONDS", 0.1)
    (tmp_path / "trials").mkdir()
    with FileLock(tmp_path / "trials" / "0000.lock"):
        outcome = run_trial(a_task(data, workspace, tmp_path))
        assert (outcome.status, outcome.error_kind) == ("interrupted", "TrialBusyError")
        with pytest.raises(RunError, match="another process still trains trial 0000"):
            check_trial(SweepLayout(tmp_path), "0000")
    check_trial(SweepLayout(tmp_path), "0000")


def test_an_interrupted_trial_goes_on_where_it_was(data: Path, workspace: Path, tmp_path: Path) -> None:
    task = a_task(data, workspace, tmp_path, settings={"max_steps": 6})
    whole = run_trial(replace(task, trial_id="0001"))

    class StopOnce:
        """Puts the stop file in place once training has begun."""

        def __enter__(self) -> None:
            import threading

            def touch() -> None:
                while not list((tmp_path / "trials").glob("0002.json")):
                    pass
                (tmp_path / "stop").touch()

            self.thread = threading.Thread(target=touch)
            self.thread.start()

        def __exit__(self, *_: object) -> None:
            self.thread.join()

    before = len(list_runs(workspace, "c"))
    with StopOnce():
        first = run_trial(replace(task, trial_id="0002"))
    assert (first.status, first.seeds[0]["step"]) == ("interrupted", 2)
    assert run_trial(replace(task, trial_id="0003")).seeds == []  # nothing starts while the sweep stops
    (tmp_path / "stop").unlink()
    second = run_trial(replace(task, trial_id="0002"))
    assert second.status == "finished"
    assert first.seeds[0]["run_dir"] == second.seeds[0]["run_dir"]
    assert len(list_runs(workspace, "c")) == before + 1
    one, other = (open_run(Path(outcome.seeds[0]["run_dir"])) for outcome in (whole, second))
    assert weights(one) == weights(other)


def test_a_server_that_is_away_is_waited_for_and_costs_no_trial(
    data: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def refuse(_where: object, patience: float = 0.0) -> None:
        waited.append(patience)
        raise OutOfReachError("MLflow cannot open the tracking store: no server answers")

    task = a_task(data, workspace, tmp_path)
    monkeypatch.setattr("secauditai.tuning.trial.is_local", lambda _workspace: False)
    for place in ("open_store", "Tracking.open"):
        with monkeypatch.context() as away:
            away.setattr(f"secauditai.tuning.trial.{place}", refuse)
            outcome = run_trial(task)
        assert (outcome.status, outcome.error_kind) == ("interrupted", "OutOfReachError")
    assert waited == [PATIENT, PATIENT]


def test_settings_that_contradict_each_other_fail_the_trial_and_nothing_else(
    data: Path, workspace: Path, tmp_path: Path
) -> None:
    outcome = run_trial(a_task(data, workspace, tmp_path, settings={"stride": 60}))
    assert (outcome.status, outcome.error_kind, outcome.seeds) == ("failed", "ConfigError", [])
    assert outcome.error is not None
    assert "stride (60) must be at most half of max_length" in outcome.error
