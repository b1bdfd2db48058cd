"""Runs to be disturbed: two Ray workers, small and quick, and what kills, blocks or starves them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from training_runs import history, new_run, weights

from secauditai.runs import MetricsTail, Run, newest_run
from secauditai.training.attempt import AttemptLayout, read_ranks

STEPS = 120
NAME = "m"


def start(data: Path, workspace: Path, workers: int | str = 2, **settings: object) -> Run:
    """A prepared run of `STEPS` steps, one thread per worker."""
    few = {"num_workers": workers, "threads": 1, "max_steps": STEPS, "checkpoint_interval": 10}
    return new_run(data, workspace, **{**few, **settings})


def wait_until(happened: Callable[[], bool], what: str, seconds: float = 900) -> None:
    """Poll until something is true."""
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up, f"{what} did not happen"
        time.sleep(0.01)


def wait_for_step(run: Run, step: int) -> None:
    """Wait until a step is in the history."""
    history = MetricsTail(run.layout.metrics)
    wait_until(lambda: any(r["step"] >= step for r in history.read()), f"step {step}")


def rank_pids(run: Run) -> dict[int, int]:
    """The process of each rank of the newest attempt."""
    return {rank.index: rank.pid for rank in read_ranks(AttemptLayout(run.layout.attempt))}


def at_steps(run: Run, *acts: tuple[int, Callable[[], object]]) -> threading.Thread:
    """Do something from another thread as soon as the run has made a step, one after the other."""

    def wait_and_act() -> None:
        for step, act in acts:
            wait_for_step(run, step)
            act()

    thread = threading.Thread(target=wait_and_act, daemon=True)
    thread.start()
    return thread


def kill_ranks(run: Run, ranks: Iterable[int], how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to some ranks, as soon as they are there."""
    wait_until(lambda: set(ranks) <= rank_pids(run).keys(), "the start of the ranks")
    pids = rank_pids(run)
    for rank in ranks:
        os.kill(pids[rank], how)


def same(disturbed: Run, undisturbed: Run) -> None:
    """Weights, optimizer and history are equal to the last bit."""
    assert weights(disturbed) == weights(undisturbed)
    assert history(disturbed) == history(undisturbed)


def sabotage(monkeypatch: pytest.MonkeyPatch, module: ModuleType, act: Callable[[dict[str, str]], None]) -> None:
    """Let every worker do something before its loop begins; the function travels by value."""
    import ray.cloudpickle

    from secauditai.training import workers

    ray.cloudpickle.register_pickle_by_value(module)

    def run_rank(config: dict[str, str]) -> None:
        from secauditai.training.workers import run_rank as real

        act(config)
        real(config)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(workers, "run_rank", run_rank)


def command(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    code = "from secauditai.cli.app import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )


def finetune_flags(data: Path, workspace: Path | str) -> list[object]:
    """The command line that makes the very run of `start`."""
    flags = {
        "name": NAME,
        "data": data,
        "workspace": workspace,
        "max_length": 64,
        "batch_size": 8,
        "epochs": 2,
        "vocab_size": 320,
        "precision": "fp32",
        "log_interval": 1,
        "num_workers": 2,
        "threads": 1,
        "max_steps": STEPS,
        "checkpoint_interval": 10,
    }
    return [
        "train",
        "finetune",
        *(word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", value)),
    ]


def run_of(workspace: Path, name: str = NAME) -> Run:
    """The run of a command, as soon as it trains."""
    wait_until(lambda: bool(list((workspace / "runs").glob("*/*/metrics.jsonl"))), "training")
    return newest_run(workspace, name)


def run_case(case: str, data: Path, directory: Path, **more: str) -> dict[str, Any]:
    """Run a case of `faults/clusters.py` in a process of its own; what it reports."""
    script = Path(__file__).parent / "faults" / "clusters.py"
    environment = {**os.environ, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.2", **more}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, str(script), case, str(data), str(directory)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def left_over(processes: list[psutil.Process], seconds: float) -> list[str]:
    """Those processes that still run after some time."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return [f"{process.pid} {' '.join(process.cmdline())[:80]}" for process in alive if process.is_running()]
