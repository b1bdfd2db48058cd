"""Real kills: the process of a trial, the driver of a sweep, a worker of a distributed trial; and what sweeps leave."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Cli
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if SOAK else 900)]


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


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Have another thread do something."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield
    thread.join()


def only_ledger(workspace: Path) -> Ledger:
    (path,) = (workspace / "sweeps").glob("*/*/ledger.json")
    return read_ledger(path)


def run_at(workspace: Path, step: int, *, name: str = "c", not_in: tuple[str, ...] = ()) -> Run | None:
    """A run that trains and has come so far."""
    for run in list_runs(workspace, name):
        steps = [record["step"] for record in read_metrics(run.layout.metrics)]
        if steps and step <= steps[-1] < STEPS and run.root.name not in not_in:
            return run
    return None


def pid_of(run: Run, rank: int = 0) -> int:
    text = (run.layout.logs / f"rank_{rank}.log").read_text(encoding="utf-8")
    return int(re.findall(r"pid (\d+)", text)[-1])


def test_a_killed_trial_is_tried_again_and_a_killed_driver_resumed(data: Path, tmp_path: Path) -> None:
    configure(tmp_path, data)
    driver = tune(tmp_path, "--config", "c", "--num-samples", 3)
    victim = wait_for(lambda: run_at(tmp_path, 15), "a trial at work")
    psutil.Process(pid_of(victim)).kill()
    wait_for(lambda: any(trial.deaths for trial in only_ledger(tmp_path).trials), "the death in the ledger")
    interrupted = wait_for(lambda: run_at(tmp_path, 25, not_in=(victim.root.name,)), "another trial at work")
    before = only_ledger(tmp_path)
    driver.kill()
    driver.communicate()

    sweep = finished_without_a_trace(tune(tmp_path, "--resume"))
    assert sweep["sweep_id"] == before.sweep_id
    assert [trial["status"] for trial in sweep["trials"]] == ["finished"] * 3
    assert len({trial["run_dir"] for trial in sweep["trials"]}) == len(list_runs(tmp_path, "c")) == 3
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


@pytest.mark.ray
def test_an_interrupt_stops_cleanly_and_a_budget_ends_with_what_there_is(
    cli: Cli, data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    configure(tmp_path, data, max_steps=2000)
    there = ("--workspace", tmp_path, "--json")

    def interrupt() -> None:
        wait_for(lambda: [r for r in list_runs(tmp_path, "c") if read_metrics(r.layout.metrics)], "a trial at work")
        os.kill(os.getpid(), signal.SIGTERM)

    with meanwhile(interrupt):
        stopped = cli("train", "tune", "--config", "c", "--num-samples", 2, *there)
    assert stopped.code == 130, stopped.err
    assert "goes on" in stopped.err
    assert "Traceback" not in stopped.err
    ledger = only_ledger(tmp_path)
    assert ledger.status == "interrupted"
    assert {trial.status for trial in ledger.trials} == {"interrupted"}
    assert ledger.version is None

    ended = cli("train", "tune", "--resume", ledger.sweep_id, "--time-budget", "1s", *there)
    assert ended.code == 0, ended.err
    sweep = json.loads(ended.out)
    assert sweep["status"] == "interrupted"
    assert sweep["best"]["version"] == 1
    assert Path(sweep["summary"]).exists()
    assert {trial["status"] for trial in sweep["trials"]} == {"interrupted"}
    assert_nothing_is_left()


@pytest.mark.ray
def test_sweeps_in_a_row_leave_nothing_whatever_befalls_their_trials(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    sweeps = (a_trial_is_asked_to_end, a_worker_is_killed, trials_are_stopped_early)
    for number in range(IN_A_ROW):
        sweeps[number % len(sweeps)](data, tmp_path, f"sweep{number}")
        assert_nothing_is_left()


def sweep_here(data: Path, workspace: Path, name: str, samples: int, *, asha: bool = False, **settings: Any) -> Any:
    """A sweep of this process, on the session's cluster."""
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import run_sweep

    layer = parse_layer({**SMALL, **SETTINGS, **SPACE, "data": str(data), **settings})
    early = {"scheduler": "asha", "reduction_factor": 16} if asha else {}
    return run_sweep(SweepRequest(name, layer, workspace, num_samples=samples, **early), notify=lambda _text: None)


def a_trial_is_asked_to_end(data: Path, workspace: Path, name: str) -> None:
    """It goes on, since the sweep does."""
    asked: list[Run] = []

    def ask() -> None:
        asked.append(wait_for(lambda: run_at(workspace, 15, name=name), "a trial at work"))
        psutil.Process(pid_of(asked[0])).terminate()

    with meanwhile(ask):
        ledger = sweep_here(data, workspace, name, 1).ledger
    (trial,) = ledger.trials
    assert (trial.status, trial.deaths, trial.run_dir) == ("finished", 1, str(asked[0].root))
    assert ledger.status == "finished"
    calm = new_run(data, workspace / "calm", kind="start", **SETTINGS, **trial.settings, seed=13, keep_checkpoints=1)
    launch(calm)
    assert weights(asked[0]) == weights(calm)


def a_worker_is_killed(data: Path, workspace: Path, name: str) -> None:
    """Its trial, which has two, is restarted; ASHA judges it and the next."""
    killed: list[Run] = []

    def kill() -> None:
        killed.append(wait_for(lambda: run_at(workspace, 25, name=name), "a trial at work"))
        psutil.Process(pid_of(killed[0], rank=1)).kill()

    with meanwhile(kill):
        result = sweep_here(data, workspace, name, 2, asha=True, num_workers=2)
    assert result.max_concurrent == 1
    first, second = result.ledger.trials
    assert (first.status, first.deaths, first.run_dir) == ("finished", 0, str(killed[0].root))
    assert second.status in ("finished", "stopped")
    for trial, starts in ((first, 2), (second, 1)):
        for rank in (0, 1):
            log = open_run(Path(trial.run_dir)).layout.logs / f"rank_{rank}.log"
            assert len(re.findall(r"pid \d+", log.read_text(encoding="utf-8"))) == starts


def trials_are_stopped_early(data: Path, workspace: Path, name: str) -> None:
    """Nothing else befalls them."""
    ledger = sweep_here(data, workspace, name, 2, asha=True, max_steps=4, eval_interval=2).ledger
    assert {trial.status for trial in ledger.trials} <= {"finished", "stopped"}


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
