"""A run of a remote workspace goes on, on a machine that has nothing, as if it had never stopped."""

import json
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from machines import Machines
from s3_server import S3Server
from training_runs import history, new_run, weights, write_dataset

from secauditai.errors import RunError
from secauditai.mirror import mirror_of
from secauditai.runs import Run, fetch_history, list_runs, read_metrics
from secauditai.storage import open_storage
from secauditai.training.attempt import held
from secauditai.training.checkpoint import CheckpointLayout, list_checkpoints
from secauditai.training.launch import launch
from secauditai.training.lease import lease
from secauditai.training.memory import Budget, read_budgets, write_budgets
from secauditai.training.mirrored import fetch_made, fetch_plan, fetch_run, fetch_start, send_start
from secauditai.training.recipe import read_recipe
from secauditai.training.resume import resolve_resume

pytestmark = pytest.mark.slow

SETTINGS = {"kind": "base", "threads": 1, "max_steps": 10, "eval_interval": 4, "checkpoint_interval": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), pairs=15)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(data, tmp_path_factory.mktemp("w"), **SETTINGS)
    assert launch(run, in_process=True).finished
    return run


def begin(data: Path, workspace: Path, **settings: object) -> Run:
    """A run that was stopped after its first validation, at step 4."""
    run = new_run(data, workspace, **{**SETTINGS, **settings})
    assert not launch(run, in_process=True, after_validation=lambda _step, _metrics: True).finished
    return run


def go_on(workspace: Path) -> Run:
    """Train the newest run to its end."""
    found = resolve_resume(workspace, "m", "latest")
    run = found.begin(workspace)
    assert launch(run, in_process=True).finished
    return run


def stored_steps(address: str, run: Run) -> list[int]:
    files = open_storage(address).files(f"runs/m/{run.root.name}/checkpoints")
    return sorted(int(f.key.split("/")[-2].rpartition("_")[2]) for f in files if f.key.endswith("manifest.json"))


def test_another_machine_goes_on_bit_by_bit(machines: Machines, data: Path, undisturbed: Run, tmp_path: Path) -> None:
    begun = begin(data, machines.open("one"))
    shutil.rmtree(tmp_path / "one")
    run = go_on(machines.open("two"))
    assert run.root.name == begun.root.name
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)
    recipe = read_recipe(run.layout.recipe)
    assert all(str(tmp_path / "two") in path for path in (recipe.initial, recipe.train_store, recipe.val_store))
    assert [checkpoint.step for checkpoint in list_checkpoints(run.layout.checkpoints)] == [4, 6, 8, 10]
    assert stored_steps(machines.address, run) == [0, 2, 4, 6, 8, 10]
    (third,) = list_runs(machines.open("three"))
    fetch_run(third, "checkpoint_2.pt")
    assert weights(third) == weights(undisturbed)
    assert {checkpoint.step for checkpoint in list_checkpoints(third.layout.checkpoints)} >= {2, 10}
    assert read_metrics(third.layout.metrics) == read_metrics(run.layout.metrics)


def test_a_machine_that_was_there_before_takes_what_others_did(
    machines: Machines, data: Path, undisturbed: Run
) -> None:
    begin(data, machines.open("one"))
    go_on(machines.open("two"))
    (run,) = list_runs(machines.open("one"))
    fetch_run(run)
    assert weights(run) == weights(undisturbed)


def test_what_could_not_be_sent_is_kept_where_it_is(machines: Machines, data: Path, undisturbed: Run) -> None:
    run = begin(data, machines.open("one"))
    mirror = mirror_of(run.root)
    assert mirror is not None
    sent = mirror.read(run.layout.metrics)
    assert sent is not None
    mirror.storage.write_bytes(mirror.key(run.layout.metrics), sent[: sent.index(b"\n") + 1])
    mirror.storage.delete_tree(mirror.key(run.layout.checkpoints / "checkpoint_4"))
    assert resolve_resume(machines.open("one"), "m", "latest").step == 4
    assert resolve_resume(machines.open("two"), "m", "latest").step == 2
    assert weights(go_on(machines.open("one"))) == weights(undisturbed)
    assert 4 in stored_steps(machines.address, run)


def test_half_sent_and_damaged_checkpoints_are_passed_over(machines: Machines, data: Path, undisturbed: Run) -> None:
    run = begin(data, machines.open("one"))
    storage, checkpoints = open_storage(machines.address), f"runs/m/{run.root.name}/checkpoints"
    storage.write_bytes(f"{checkpoints}/checkpoint_4/model.safetensors", b"damaged")
    storage.write_bytes(f"{checkpoints}/checkpoint_6/model.safetensors", b"half sent")
    found = resolve_resume(machines.open("two"), "m", "latest")
    assert found.step == 2
    assert "checkpoint_4" in found.damaged[0]
    assert launch(found.begin(machines.open("two")), in_process=True).finished
    assert resolve_resume(machines.open("three"), "m", "checkpoint_4").step == 4
    assert weights(list_runs(machines.open("three"))[0]) == weights(undisturbed)


def test_retention_holds_in_the_store(machines: Machines, data: Path) -> None:
    begin(data, machines.open("one"), keep_checkpoints=1)
    run = go_on(machines.open("two"))
    here = [checkpoint.step for checkpoint in list_checkpoints(run.layout.checkpoints)]
    assert len(here) <= 2
    assert stored_steps(machines.address, run) == here


def test_only_one_machine_trains_a_run(machines: Machines, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secauditai.training.lease.BEAT", 0.2)
    run = begin(data, machines.open("one"))
    mirror = mirror_of(run.root)
    assert mirror is not None
    there = resolve_resume(machines.open("two"), "m", "latest").begin(machines.open("two"))
    with lease(mirror, run.root / "lease.json"), pytest.raises(RunError, match="another machine is training this run"):
        launch(there, in_process=True)
    mirror.storage.write_bytes(mirror.key(run.root / "lease.json"), b'{"machine": "dead and gone"}')
    monkeypatch.setattr("secauditai.training.lease.SILENCE", 0.5)
    assert launch(there, in_process=True).finished
    assert not mirror.storage.exists(mirror.key(run.root / "lease.json"))


def test_after_a_restart_the_rank_of_the_same_driver_is_waited_for(
    machines: Machines, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secauditai.training.lease.BEAT", 0.2)
    monkeypatch.setattr("secauditai.training.lease.SILENCE", 1.0)
    run = begin(data, machines.open("one"))
    mirror = mirror_of(run.root)
    assert mirror is not None
    mark, silent = run.root / "lease.json", threading.Event()
    key = mirror.key(mark)

    def die_away() -> None:
        for beat in range(8):
            mirror.storage.write_bytes(key, json.dumps({"machine": "b", "driver": "d", "beat": beat}).encode())
            time.sleep(0.3)
        silent.set()

    dying = threading.Thread(target=die_away)
    dying.start()
    time.sleep(0.3)
    with pytest.raises(RunError, match="another machine is training this run: b"), lease(mirror, mark, driver="e"):
        pass
    with lease(mirror, mark, driver="d"):
        assert silent.is_set()
    dying.join()


def test_ranks_elsewhere_begin_where_the_leading_one_does(machines: Machines, data: Path) -> None:
    run = begin(data, machines.open("one"))
    write_budgets(run.layout.memory, [Budget(3, 8)])
    send_start(run.layout, CheckpointLayout(run.layout.checkpoints / "checkpoint_4"))

    (seen,) = list_runs(machines.open("two"))
    shutil.copytree(run.layout.checkpoints / "checkpoint_2", seen.layout.checkpoints / "checkpoint_6")
    for step in (2, 4):
        fetch_plan(seen.layout)
        fetch_start(seen.layout, step)
        assert [checkpoint.step for checkpoint in list_checkpoints(seen.layout.checkpoints)][-1] == step
    assert read_budgets(seen.layout.memory) == [Budget(3, 8)]
    assert read_recipe(seen.layout.recipe).initial == str(seen.layout.initial)
    assert not seen.layout.metrics.exists()

    run.layout.memory.unlink()
    send_start(run.layout, None)
    fetch_start(seen.layout, -1)
    assert read_budgets(seen.layout.memory) == []
    assert list_checkpoints(seen.layout.checkpoints) == []


def test_what_ranks_elsewhere_have_made_is_brought_and_what_goes_on_from_it_kept(
    machines: Machines, data: Path, undisturbed: Run
) -> None:
    run = begin(data, machines.open("one"))
    go_on(machines.open("two"))
    machines.become("one")
    fetch_made(run.layout)
    assert weights(run) == weights(undisturbed)
    mirror = mirror_of(run.root)
    assert mirror is not None
    before = run.layout.metrics.read_bytes()
    mirror.storage.delete_tree(mirror.key(run.layout.checkpoints / "checkpoint_10"))
    mirror.storage.write_bytes(mirror.key(run.layout.metrics), before[:-1].rpartition(b"\n")[0] + b"\n")
    fetch_made(run.layout)
    assert run.layout.metrics.read_bytes() == before
    assert weights(run) == weights(undisturbed)


def test_whoever_watches_leaves_the_files_of_a_driver_alone(machines: Machines, data: Path) -> None:
    run = begin(data, machines.open("one"))
    mirror = mirror_of(run.root)
    assert mirror is not None
    mine = run.layout.metrics.read_bytes()
    mirror.storage.write_bytes(mirror.key(run.layout.metrics), b"others")
    with held(run.layout.driver_lock):
        run.update(status="running")
        fetch_history(run)
        assert (run.layout.metrics.read_bytes(), run.info.status) == (mine, "running")
    fetch_history(run)
    assert run.layout.metrics.read_bytes() == b"others"


def test_a_store_that_is_away_for_a_while_holds_up_no_step(
    machines: Machines, server: S3Server, data: Path, undisturbed: Run
) -> None:
    run = new_run(data, machines.open("one"), **SETTINGS)
    back: list[float] = []

    def come_back() -> None:
        back.append(time.time())
        server.process.send_signal(signal.SIGCONT)

    def go_away(step: int, _metrics: object) -> bool:
        if step == 4:
            server.process.send_signal(signal.SIGSTOP)
            threading.Timer(20.0, come_back).start()
        return False

    assert launch(run, in_process=True, after_validation=go_away).finished
    assert read_metrics(run.layout.metrics)[-1]["time"] < back[0]
    assert weights(run) == weights(undisturbed)
    assert stored_steps(machines.address, run) == [0, 2, 4, 6, 8, 10]
    (seen,) = list_runs(machines.open("two"))
    fetch_run(seen)
    assert weights(seen) == weights(undisturbed)
