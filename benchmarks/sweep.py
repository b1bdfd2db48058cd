"""What a sweep costs beside its training, and what it saves: 16 tiny ASHA trials against the same 16 runs in a row.

    python benchmarks/sweep.py DATA.yaml

Wall time excludes Ray's start-up, as `seconds` does everywhere; it includes planning, tokenising, starting the actors,
MLflow, and publishing the best model. The runs in a row have all cores to themselves, need no tokenising any more, and
neither track nor publish.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray lowers the priority of its workers by 15; both sides are measured at the same one, whatever else the machine does.
os.environ.setdefault("RAY_worker_niceness", "0")

from secauditai.config.files import parse_layer, resolve_config
from secauditai.training.launch import launch
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.request import TrainRequest
from secauditai.tuning import sweep as sweeps
from secauditai.tuning.ledger import Ledger
from secauditai.tuning.planning import SweepRequest
from secauditai.tuning.sweep import SweepResult, run_sweep

MOST_OVERHEAD, MOST_RATIO = 3.0, 0.6
SPACES = {"learning_rate": {"loguniform": [1e-4, 5e-3]}, "dropout": {"uniform": [0.0, 0.3]}}
HERE = Path(__file__).parent


def sweep(workspace: Path, data: str, trials: int, epochs: int) -> SweepResult:
    """The sweep itself."""
    layer = parse_layer({**SPACES, "data": data, "epochs": epochs, "max_length": 256})
    request = SweepRequest("bench", layer, workspace, num_samples=trials, sampler="tpe", scheduler="asha")
    return run_sweep(request, notify=lambda text: print(text, flush=True))


@contextmanager
def timed_trials() -> Iterator[list[float]]:
    """Seconds from before the first actor starts to the end of the last trial, once the sweep is over."""
    spans, real = list[float](), sweeps._run_trials

    def run_trials(*arguments: Any, **named: Any) -> None:
        started = time.monotonic()
        real(*arguments, **named)
        spans.append(time.monotonic() - started)

    sweeps._run_trials = run_trials
    try:
        yield spans
    finally:
        sweeps._run_trials = real


def in_a_row(workspace: Path, ledger: Ledger) -> float:
    """Seconds for the same settings, one training after the other in this process, to their end."""
    started = time.monotonic()
    for trial in ledger.trials:
        config = resolve_config({**ledger.fixed, **trial.settings, "threads": len(os.sched_getaffinity(0))})
        run = prepare_run(plan_training(TrainRequest("start", "row", config, workspace)))
        launch(run, in_process=True)
    return time.monotonic() - started


def main() -> int:
    """Measure, print, keep the output; 1 when a bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        workspace = Path(directory).absolute()
        with timed_trials() as spans:
            result = sweep(workspace, arguments.data, arguments.trials, arguments.epochs)
        print(f"sweep: {result.seconds:.1f} s; now the same runs in a row", flush=True)
        row = in_a_row(workspace, result.ledger)
    trials = result.ledger.trials
    training, steps = sum(trial.seconds for trial in trials), sum(trial.step for trial in trials)
    overhead = (result.seconds * result.max_concurrent - training) / len(trials)
    while_running = (spans[0] * result.max_concurrent - training) / len(trials)
    ratio = result.seconds / row
    stopped = sum(trial.status == "stopped" for trial in trials)
    lines = [
        f"{len(trials)} trials of {arguments.epochs} epochs, {result.max_concurrent} at a time, on "
        f"{Path(arguments.data).name}; ASHA stopped {stopped}; {len(os.sched_getaffinity(0))} CPUs",
        f"sweep: {result.seconds:.1f} s, and {result.ray_startup_seconds:.1f} s for Ray to start; {steps} steps",
        f"training in all trials: {training:.1f} s",
        f"overhead per trial, by the time of the whole sweep: {overhead:.2f} s (at most {MOST_OVERHEAD})",
        f"  of that by the time of the trials, {spans[0]:.1f} s: {while_running:.2f} s; the rest is once per sweep",
        f"the same {len(trials)} runs in a row, to their end: {row:.1f} s",
        f"sweep / row: {ratio:.2f} (at most {MOST_RATIO})",
    ]
    print("\n".join(lines))
    (HERE / "results" / "sweep.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    failed = [trial for trial in trials if trial.status == "failed"]
    return int(bool(failed) or overhead > MOST_OVERHEAD or ratio > MOST_RATIO)


if __name__ == "__main__":
    sys.exit(main())
