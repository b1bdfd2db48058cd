"""Which training of a name is the newest: a cross-validation, or a run that came after it."""

from pathlib import Path

from secauditai.fold_records import Record, newest_training
from secauditai.runs import create_run


def record_in(workspace: Path) -> Record:
    path = workspace / "cross_validations" / "m" / "r.json"
    record = Record(path, "r", "finetune", "m", 3, "best", {"epochs": 2}, None, "auto", "f" * 64)
    record.save()
    return record


def test_a_cross_validation_that_has_no_run_yet_is_newer_than_older_runs(tmp_path: Path) -> None:
    create_run(tmp_path, "m", kind="finetune", task="")
    assert newest_training(tmp_path, "m") is None
    record = record_in(tmp_path)
    found = newest_training(tmp_path, "m")
    assert found is not None
    assert found.record_id == record.record_id


def test_its_folds_and_trials_of_sweeps_belong_to_it_and_what_came_later_does_not(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    create_run(tmp_path, "m", kind="finetune", task="", dataset=f"/cache/{record.pool_hash[:24]}-1-fold0of3")
    create_run(tmp_path, "m", kind="start", task="", sweep_id="s", trial_id="0000")
    assert newest_training(tmp_path, "m") is not None
    create_run(tmp_path, "m", kind="start", task="", dataset="/data")
    assert newest_training(tmp_path, "m") is None
    record.begun += 60  # it goes on
    record.save()
    assert newest_training(tmp_path, "m") is not None


def test_the_cluster_it_goes_on_on_may_be_another(tmp_path: Path) -> None:
    record = record_in(tmp_path)
    assert record.request(tmp_path).training.address == "auto"
    assert record.request(tmp_path, "there:6379").training.address == "there:6379"
    assert record.request(tmp_path).training.config.optimization.epochs == 2
