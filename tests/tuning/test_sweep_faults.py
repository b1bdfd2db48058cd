"""Real kills: the process of a trial, the driver of a sweep, a worker of a distributed trial; and what sweeps leave."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from training_runs import SMALL, history, new_run, weights, write_dataset

from secauditai.config.files import NamedConfigs, parse_layer
from secauditai.runs import Run, list_runs, open_run, read_metrics
from secauditai.training.launch import launch
from secauditai.tuning.ledger import Ledger, read_ledger

SOAK = bool(os.environ.get("SOAK"))
IN_A_ROW = 20 if SOAK else 3
STEPS = 60
SPACE = {"learning_rate": {"loguniform": [1e-4, 1e-2]}}
SETTINGS = {"max_steps": STEPS, "eval_interval": 20, "checkpoint_interval": 10, "threads": 1}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def configure(workspace: Path, data: Path, **changes: Any) -> None:
    layer = parse_layer({**SMALL, **SETTINGS, **SPACE, "data": str(data), **changes})
    NamedConfigs(workspace).create("c", layer)


def tune(workspace: Path, *arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own, with a Ray session that only its own environment knows."""
    code = "from secauditai.cli.app import main; main()"
    command = [sys.executable, "-c", code, "train", "tune", "--workspace", workspace, "--json", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_ADDRESS")}
    return subprocess.Popen(
        [str(part) for part in command], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def finished_without_a_trace(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The document of a command none of whose processes lives on for 120 s."""
    seen: dict[int, psutil.Process] = {}
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen |= {child.pid: child for child in watched.children(recursive=True)}
        time.sleep(0.2)
    give_up = time.monotonic() + 120
    while left := [child for child in seen.values() if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < give_up, left
        time.sleep(0.5)
    return finished(process)


def wait_for(found: Callable[[], Any], what: str) -> Any:
    give_up = time.monotonic() + 300
    while time.monotonic() < give_up:
        result = found()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited in vain for {what}")


def only_ledger(workspace: Path) -> Ledger:
    (path,) = (workspace / "sweeps").glob("*/*/ledger.json")
    return read_ledger(path)


def run_at(workspace: Path, step: int, *, not_in: tuple[str, ...] = ()) -> Run | None:
    """A run that trains and has come so far."""
    for run in list_runs(workspace, "c"):
        steps = [record["step"] for record in read_metrics(run.layout.metrics)]
        if steps and step <= steps[-1] < STEPS and run.root.name not in not_in:
            return run
    return None


def pid_of(run: Run, rank: int = 0) -> int:
    text = (run.layout.logs / f"rank_{rank}.log").read_text(encoding="utf-8")
    return int(re.findall(r"pid (\d+)", text)[-1])


def test_a_killed_trial_is_tried_again_and_a_killed_driver_resumed(data: Path, tmp_path: Path) -> None:
    configure(tmp_path, data)
    driver = tune(tmp_path, "--config", "c", "--num-samples", 4)
    victim = wait_for(lambda: run_at(tmp_path, 15), "a trial at work")
    psutil.Process(pid_of(victim)).kill()
    wait_for(lambda: any(trial.deaths for trial in only_ledger(tmp_path).trials), "the death in the ledger")
    interrupted = wait_for(lambda: run_at(tmp_path, 25, not_in=(victim.root.name,)), "another trial at work")
    before = only_ledger(tmp_path)
    driver.kill()
    driver.communicate()

    sweep = finished_without_a_trace(tune(tmp_path, "--resume"))
    assert sweep["sweep_id"] == before.sweep_id
    assert [trial["status"] for trial in sweep["trials"]] == ["finished"] * 4
    assert len({trial["run_dir"] for trial in sweep["trials"]}) == len(list_runs(tmp_path, "c")) == 4
    killed = next(trial for trial in sweep["trials"] if trial["run_dir"] == str(victim.root))
    assert killed["deaths"] == 1
    for trial in before.trials:  # what had ended stays as it was
        if trial.status == "finished":
            assert trial in only_ledger(tmp_path).trials
    assert sweep["best"]["version"] == 1
    for run in (victim, interrupted):
        trial = next(trial for trial in sweep["trials"] if trial["run_dir"] == str(run.root))
        more = {**SETTINGS, **trial["settings"], "seed": 13, "keep_checkpoints": 1}
        calm = new_run(data, tmp_path / f"calm{trial['trial_id']}", kind="start", **more)
        launch(calm)
        assert weights(run) == weights(calm)
        assert history(run) == history(calm)


def test_an_interrupt_stops_cleanly_and_a_budget_ends_with_what_there_is(data: Path, tmp_path: Path) -> None:
    configure(tmp_path, data, max_steps=2000)
    driver = tune(tmp_path, "--config", "c", "--num-samples", 2)
    wait_for(lambda: [run for run in list_runs(tmp_path, "c") if read_metrics(run.layout.metrics)], "a trial at work")
    driver.terminate()
    _, err = driver.communicate(timeout=300)
    assert driver.returncode == 130, err
    assert "goes on" in err
    assert "Traceback" not in err
    ledger = only_ledger(tmp_path)
    assert ledger.status == "interrupted"
    assert {trial.status for trial in ledger.trials} == {"interrupted"}
    assert ledger.version is None

    sweep = finished(tune(tmp_path, "--resume", ledger.sweep_id, "--time-budget", "1s"))
    assert sweep["status"] == "interrupted"
    assert sweep["best"]["version"] == 1
    assert Path(sweep["summary"]).exists()
    assert {trial["status"] for trial in sweep["trials"]} == {"interrupted"}


@pytest.mark.ray
def test_a_trial_that_is_asked_to_end_goes_on_when_the_sweep_does(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import run_sweep

    configure(tmp_path, data)
    asked: list[Run] = []

    def ask() -> None:
        run = wait_for(lambda: run_at(tmp_path, 15), "a trial at work")
        psutil.Process(pid_of(run)).terminate()
        asked.append(run)

    asker = threading.Thread(target=ask, daemon=True)
    asker.start()
    layer = NamedConfigs(tmp_path).read("c")
    result = run_sweep(SweepRequest("c", layer, tmp_path, num_samples=1), notify=lambda _text: None)
    asker.join()
    (trial,) = result.ledger.trials
    assert (trial.status, trial.deaths, trial.run_dir) == ("finished", 1, str(asked[0].root))
    assert result.ledger.status == "finished"
    calm = new_run(data, tmp_path / "calm", kind="start", **SETTINGS, **trial.settings, seed=13, keep_checkpoints=1)
    launch(calm)
    assert weights(asked[0]) == weights(calm)
    assert_nothing_is_left()


@pytest.mark.ray
def test_a_killed_worker_of_a_trial_costs_a_restart(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import run_sweep

    configure(tmp_path, data, num_workers=2)
    killed: list[Run] = []

    def kill() -> None:
        run = wait_for(lambda: run_at(tmp_path, 25), "a trial at work")
        psutil.Process(pid_of(run, rank=1)).kill()
        killed.append(run)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    layer = NamedConfigs(tmp_path).read("c")
    result = run_sweep(SweepRequest("c", layer, tmp_path, num_samples=1), notify=lambda _text: None)
    killer.join()
    assert [trial.status for trial in result.ledger.trials] == ["finished"]
    assert result.ledger.trials[0].run_dir == str(killed[0].root)
    log = (open_run(killed[0].root).layout.logs / "rank_1.log").read_text(encoding="utf-8")
    assert len(re.findall(r"pid \d+", log)) == 2
    assert_nothing_is_left()


@pytest.mark.ray
def test_sweeps_in_a_row_leave_nothing(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import run_sweep

    for number in range(IN_A_ROW):
        workers = 2 if number % 3 == 2 else 1
        short = {"max_steps": 4, "eval_interval": 2, "num_workers": workers, "threads": 1, "data": str(data)}
        layer = parse_layer({**SMALL, **short, **SPACE})
        few = 1 if workers == 2 and not SOAK else 2  # `test_sweep` has ASHA over trials of two workers
        request = SweepRequest("c", layer, tmp_path, num_samples=few, scheduler="asha", reduction_factor=16)
        result = run_sweep(request, notify=lambda _text: None)
        assert {trial.status for trial in result.ledger.trials} <= {"finished", "stopped"}
        assert_nothing_is_left()


def assert_nothing_is_left() -> None:
    """No worker after 10 s, no placement group, no reserved CPU; the session itself lives on."""
    import ray
    from ray.util import placement_group_table

    def clean() -> bool:
        names = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                names.append(" ".join(process.cmdline()))
        at_work = [name for name in names if "TrialActor" in name or "ResourceTrainable" in name or "RayTrain" in name]
        groups = {group["state"] for group in placement_group_table().values()} - {"REMOVED"}
        free = ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
        return not at_work and not groups and free

    give_up = time.monotonic() + 10
    while not clean():
        assert time.monotonic() < give_up
        time.sleep(0.2)
