import time
from pathlib import Path
from typing import Any

from secauditai.tuning.ledger import FINISHED, INTERRUPTED, Ledger, Trial, read_ledger
from secauditai.tuning.queue import TrialQueue
from secauditai.tuning.trial import TrialOutcome


def a_queue(root: Path, trials: int = 3, **changes: Any) -> TrialQueue:
    path = root / "ledger.json"
    layer = {"dropout": {"uniform": [0.0, 0.5]}}
    new = Ledger(path, "s1", "c", "loss", higher_is_better=False, layer=layer, num_samples=trials)
    ledger = read_ledger(path) if path.exists() else new
    (root / "trials").mkdir(exist_ok=True)
    options = {"max_concurrent": 2, "max_failures": 1, "deadline": None, "watch": lambda _ledger, _trial: None}
    return TrialQueue(ledger, **{**options, **changes})


def outcome(*values: float | None, status: str = FINISHED) -> TrialOutcome:
    seeds = [{"seed": n, "run_dir": f"r{n}", "value": value, "step": 5} for n, value in enumerate(values)]
    return TrialOutcome(status, 1.0, seeds)


def test_trials_are_handed_out_up_to_the_limit_until_there_are_none(tmp_path: Path) -> None:
    queue = a_queue(tmp_path)
    first, second = queue.next(), queue.next()
    assert first is not None
    assert second is not None
    assert queue.next() is None
    queue.note_outcome(first.trial_id, outcome(0.5, 0.3))
    assert not queue.has_spare_slot
    third = queue.next()
    assert third is not None
    assert not queue.has_spare_slot
    queue.note_outcome(second.trial_id, outcome(0.4, None))
    assert queue.has_spare_slot
    queue.note_failure(third.trial_id, "ConfigError", "stride is too large")
    assert queue.exhausted
    again = read_ledger(tmp_path / "ledger.json")
    assert [trial.value for trial in again.trials] == [0.4, None, None]
    assert again.best is not None
    assert (again.best.trial_id, again.best.run_dir) == ("0000", "r1")
    assert again.trials[2].error == "stride is too large"
    assert again == queue.ledger


def test_a_dead_trial_is_tried_again_and_given_up_after_its_budget(tmp_path: Path) -> None:
    queue = a_queue(tmp_path, 1)
    for _ in range(2):
        trial = queue.next()
        assert trial is not None
        assert trial.trial_id == "0000"
        queue.note_death(trial.trial_id, "the actor died")
    assert queue.exhausted
    failed = queue.ledger.trials[0]
    assert (failed.status, failed.deaths, failed.error_kind) == ("failed", 2, "TrialDied")
    assert failed.error == "it was cut off 2 times, the last time its process died: the actor died"


def test_a_trial_that_was_asked_to_stop_while_the_sweep_goes_on_is_tried_again(tmp_path: Path) -> None:
    queue = a_queue(tmp_path, 1)
    for _ in range(2):
        assert not queue.exhausted
        trial = queue.next()
        assert trial is not None
        assert trial.trial_id == "0000"
        queue.note_outcome(trial.trial_id, outcome(0.5, status=INTERRUPTED))
    assert queue.exhausted  # not for ever
    (left,) = queue.ledger.trials
    assert (left.status, left.deaths, left.error_kind) == (INTERRUPTED, 2, "TrialStopped")
    assert not queue.ledger.all_ended
    assert queue.ledger.best is None  # it was cut off, so there is nothing to save
    again = a_queue(tmp_path)
    assert again.next() is not None
    again.note_death("0000", "the actor died")
    assert again.next() is not None  # whoever resumes the sweep gives it another chance
    again.note_outcome("0000", outcome(0.4))
    assert again.ledger.all_ended
    assert again.ledger.best is not None
    assert again.ledger.best.error is None


def test_a_resumed_sweep_goes_on_with_what_ran_and_reruns_nothing(tmp_path: Path) -> None:
    queue = a_queue(tmp_path, 4)
    done, running = queue.next(), queue.next()
    assert done is not None
    assert running is not None
    queue.note_outcome(done.trial_id, outcome(0.5))
    again = a_queue(tmp_path)  # the driver was killed
    ids = []
    while (trial := again.next()) is not None or not again.exhausted:
        assert trial is not None
        ids.append((trial.trial_id, trial.settings))
        again.note_outcome(trial.trial_id, outcome(0.6))
    assert [trial_id for trial_id, _ in ids] == ["0001", "0002", "0003"]
    assert ids[0][1] == running.settings
    (tmp_path / "calm").mkdir()
    calm = a_queue(tmp_path / "calm", 4, max_concurrent=4)
    while calm.next() is not None:
        pass
    assert [trial.settings for trial in again.ledger.trials] == [trial.settings for trial in calm.ledger.trials]


def test_a_time_budget_stops_what_runs_and_starts_nothing(tmp_path: Path) -> None:
    queue = a_queue(tmp_path, deadline=time.monotonic() - 1)
    trial = queue.next()
    assert trial is not None
    queue.look()
    assert (tmp_path / "stop").exists()
    assert queue.next() is None
    assert not queue.exhausted
    queue.note_outcome(trial.trial_id, outcome(0.5, status=INTERRUPTED))
    assert queue.exhausted
    assert queue.stopped_for == "the time budget is used up"
    assert queue.ledger.best is not None  # what there is counts
    (resumed,) = [t for t in read_ledger(tmp_path / "ledger.json").trials if t.status == INTERRUPTED]
    assert a_queue(tmp_path).next() == Trial(**{**vars(resumed), "status": "running"})


def test_a_trial_cut_off_before_it_went_on_keeps_what_it_had(tmp_path: Path) -> None:
    queue = a_queue(tmp_path, deadline=time.monotonic() - 1)
    assert queue.next() is not None
    queue.look()
    queue.note_outcome("0000", outcome(0.5, 0.3, status=INTERRUPTED))
    before = queue.ledger.trials[0]
    again = a_queue(tmp_path, deadline=time.monotonic() - 1)
    assert again.next() is not None
    again.look()
    again.note_outcome("0000", TrialOutcome(INTERRUPTED, 0.0, []))
    assert again.ledger.trials[0] == before
    assert before.value == 0.4
    assert again.ledger.best == before
