"""A sweep whose machines meet in the store of a remote workspace: rungs, the stop mark, the ledger, who runs it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from machines import Machines
from training_runs import SMALL

from secauditai.errors import RunError
from secauditai.mirror import withdraw
from secauditai.storage import open_storage
from secauditai.training.rungs import RungRule, asked_to_end
from secauditai.tuning import sweep
from secauditai.tuning.ledger import FINISHED, INTERRUPTED, Ledger, Trial, TrialRun, find_sweep, read_ledger
from secauditai.tuning.planning import SweepRequest
from secauditai.tuning.queue import TrialQueue
from secauditai.tuning.trial import TrialOutcome, TrialTask, run_trial

pytestmark = pytest.mark.slow
NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secauditai.training.rungs.PATIENCE", 0.0)


def a_ledger(workspace: Path, **changes: Any) -> Ledger:
    path = workspace / "sweeps" / "c" / "s1" / "ledger.json"
    options = {"layer": {"dropout": {"uniform": [0.0, 0.5]}}, "num_samples": 2, **changes}
    ledger = Ledger(path, "s1", "c", "loss", higher_is_better=False, **options)
    ledger.layout.trials.mkdir(parents=True)
    return ledger


def a_queue(ledger: Ledger) -> TrialQueue:
    return TrialQueue(ledger, max_concurrent=2, max_failures=1, deadline=None, watch=lambda _ledger, _trial: None)


def reaches_rung(machines: Machines, machine: str, trial: str, value: float) -> bool:
    """Whether a trial on a machine that comes to the first rung with this value goes on."""
    machines.become(machine)
    rule = RungRule("sweeps/c/s1", trial, "f1", True, 10, 100, 3, machines.address)
    return not rule(10, {"f1": value})


def test_trials_on_other_machines_are_judged_together(machines: Machines) -> None:
    for name in ("one", "two", "three"):
        machines.open(name)
    assert reaches_rung(machines, "one", "0000", 0.5)
    assert not reaches_rung(machines, "two", "0001", 0.4)
    assert reaches_rung(machines, "two", "0002", 0.6)
    assert not reaches_rung(machines, "three", "0001", 0.9)  # a decision stands
    assert not reaches_rung(machines, "one", "0003", 0.55)


def test_a_store_that_is_away_stops_no_trial_and_learns_of_it_later(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, here = machines.open("two"), machines.open("one")
    assert reaches_rung(machines, "two", "0000", 0.9)
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", NOWHERE)
        away.setattr("secauditai.training.rungs.mirror_directory", lambda _address: here)
        assert reaches_rung(machines, "one", "0001", 0.1)  # as far as this machine knows
    storage = open_storage(machines.address)
    assert not storage.exists("sweeps/c/s1/rungs/0/0001.json")
    assert reaches_rung(machines, "one", "0001", 0.1)
    assert json.loads(storage.read_bytes("sweeps/c/s1/rungs/0/0001.json"))["value"] == 0.1
    assert not (there / "sweeps/c/s1/rungs/0/0001.json").exists()


def test_a_stop_is_known_everywhere_and_forgotten_everywhere(machines: Machines) -> None:
    there, ledger = machines.open("two"), a_ledger(machines.open("one"))
    stop = there / "sweeps/c/s1/stop"
    queue = a_queue(ledger)
    queue.look()
    assert not asked_to_end(stop)
    queue.stop("interrupted")
    queue.look()
    assert asked_to_end(stop)
    assert asked_to_end(ledger.layout.stop)
    withdraw(stop)  # the sweep goes on, driven by the other machine
    assert ledger.layout.stop.exists()
    assert not asked_to_end(ledger.layout.stop)


def test_the_ledger_holds_on_every_machine(machines: Machines) -> None:
    here = machines.open("one")
    fixed = {"data": str(here / "cache/datasets/d"), "model": "transformer", "epochs": 2}
    run_dir = str(here / "runs/c/r")
    ledger = a_ledger(here, fixed=fixed, published=f"{run_dir}@5", layer={"data": "cache/of/mine"})
    ledger.put(Trial("0000", {"dropout": 0.1}, 0.5, run_dir, status=FINISHED, seeds=(TrialRun(1, run_dir, 0.5, 5),)))
    assert read_ledger(ledger.path) == ledger
    assert str(here).encode() not in open_storage(machines.address).read_bytes("sweeps/c/s1/ledger.json")
    there = machines.open("two")
    found = find_sweep(there, "c", None)
    assert found.fixed == {"data": str(there / "cache/datasets/d"), "model": "transformer", "epochs": 2}
    assert found.published == f"{there / 'runs/c/r'}@5"
    assert found.trials[0].run_dir == found.trials[0].seeds[0].run_dir == str(there / "runs/c/r")
    assert found.layer == ledger.layer
    withdraw(found.layout.root)  # somebody gives it up
    os.utime(ledger.path, (0, 0))
    machines.open("one")
    assert not ledger.path.exists()
    with pytest.raises(RunError, match=f"no sweep of c in {machines.address}"):
        find_sweep(here, "c", None)


def test_no_trial_starts_that_the_store_does_not_know_of(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secauditai.tuning.queue.PAUSE", 0.0)
    queue = a_queue(a_ledger(machines.open("one")))
    first = queue.next()
    assert first is not None
    storage = open_storage(machines.address)

    def stored() -> list[tuple[str, str]]:
        trials = json.loads(storage.read_bytes("sweeps/c/s1/ledger.json"))["trials"]
        return [(trial["trial_id"], trial["status"]) for trial in trials]

    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", NOWHERE)
        assert queue.next() is None
        queue.note_outcome("0000", TrialOutcome(FINISHED, 1.0, [{"seed": 1, "run_dir": "runs/c/r", "value": 0.5}]))
    assert stored() == [("0000", "running")]
    second = queue.next()
    assert second is not None
    assert second.trial_id == "0001"
    assert stored() == [("0000", "finished"), ("0001", "running")]
    assert queue.next() is None
    assert not queue.ledger.unsent


def test_one_machine_runs_a_sweep(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secauditai.training.lease.BEAT", 0.2)
    ledger = a_ledger(machines.open("one"))
    ledger.save()
    there = machines.open("two")
    machines.become("one")
    with sweep._alone(ledger):
        machines.become("two")
        with pytest.raises(RunError, match="another machine runs this sweep"):
            sweep.resume_sweep(SweepRequest("", {}, there), None, notify=lambda _text: None)
        machines.become("one")
    keys = [file.key for file in open_storage(machines.address).files("sweeps")]
    assert keys == ["sweeps/c/s1/ledger.json"]


def test_a_trial_is_not_to_blame_for_a_store_that_is_away(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    machines.become("one")
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOWHERE)
    monkeypatch.setattr("secauditai.mirror.PATIENCE", 0.0)
    task = TrialTask(
        sweep="sweeps/c/s1",
        sweep_id="s1",
        trial_id="0000",
        name="c",
        workspace=machines.address,
        settings={**SMALL, "data": "cache/datasets/d"},
        seeds=[13],
        chosen={},
        metric="roc_auc",
        higher_is_better=True,
        grace_samples=16,
        factor=None,
        distributed=False,
        parent=None,
    )
    outcome = run_trial(task)
    assert (outcome.status, outcome.error_kind, outcome.seeds) == (INTERRUPTED, "ClusterError", [])
    assert outcome.error is not None
    assert outcome.error.startswith(machines.address)
