"""`monitor` from another terminal, while a run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from threading import Thread

import pytest

from secauditai.runs import FINISHED, Run, create_run

pytestmark = pytest.mark.slow

HEEDING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
"""As from a terminal: what a script starts in the background has interrupts ignored."""
MAIN = "from secauditai.cli.app import main; main()"
COMMAND = [sys.executable, "-c", f"{HEEDING}; {MAIN}", "train", "monitor", "--model", "m"]


class Monitor:
    """The command in another process, line by line."""

    def __init__(self, workspace: Path) -> None:
        command = [*COMMAND, "--workspace", str(workspace)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._lines: Queue[str] = Queue()
        Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip())

    def line_with(self, text: str) -> str:
        """The next line that says this."""
        while text not in (line := self._lines.get(timeout=60)):
            pass
        return line


@pytest.fixture
def run(workspace: Path) -> Run:
    """A run of this process, of which three of ten steps are done."""
    run = create_run(workspace, "m", kind="finetune", task="vulnerability_detection", total_steps=10)
    record_steps(run, 1, 2, 3)
    checkpoint = run.layout.checkpoints / "checkpoint_2"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text("{}")
    return run


@pytest.fixture
def monitor(run: Run, workspace: Path) -> Iterator[Monitor]:
    """The command, watching that run."""
    watching = Monitor(workspace)
    yield watching
    watching.process.kill()
    watching.process.wait(timeout=30)


def record_steps(run: Run, *steps: int) -> None:
    """Write what a training writes at these steps, three seconds each."""
    with run.layout.metrics.open("a") as file:
        for step in steps:
            record = {"kind": "train", "step": step, "epoch": step / 5, "time": 3.0 * step, "loss": 1 / step}
            file.write(json.dumps({**record, "samples_per_second": 7.0}) + "\n")


def test_a_run_is_followed_to_its_end(run: Run, monitor: Monitor) -> None:
    first = monitor.line_with("step 3/10")
    assert first.strip() == "step 3/10 (30%), epoch 0.60, loss 0.333, 7.0 samples/s, 21 s left, checkpoint_2"
    record_steps(run, 4, 5)
    assert "5/10 (50%), epoch 1.00, loss 0.200, 7.0 samples/s, 15 s left" in monitor.line_with("step 5")
    assert monitor.process.poll() is None
    record_steps(run, *range(6, 11))
    run.update(status=FINISHED, model_version=4, dataset="my data", summary={"metrics": {"f1": 0.75}})
    assert "left" not in monitor.line_with("step 10/10")
    assert monitor.line_with("validation") == "  validation f1: 0.750"
    assert monitor.line_with("Registered") == "Registered as m/4."
    told = f"secauditai train evaluate --model m --test-data 'my data' --workspace {run.root.parents[2]}"
    assert monitor.line_with("Next: ").endswith(told)
    assert monitor.process.wait(timeout=30) == 0


def test_a_run_whose_process_dies_is_seen_to_be_interrupted(run: Run, monitor: Monitor) -> None:
    with subprocess.Popen(["sleep", "600"]) as training:
        run.layout.recipe.write_text("{}")
        run.update(pid=training.pid)
        monitor.line_with("step 3/10")
        training.kill()
    assert "secauditai train resume --model m" in monitor.line_with("resume")
    assert monitor.process.wait(timeout=30) == 0


def test_an_interrupt_stops_watching_and_not_the_run(run: Run, monitor: Monitor) -> None:
    monitor.line_with("step 3/10")
    time.sleep(0.5)  # between two looks
    monitor.process.send_signal(signal.SIGINT)
    assert monitor.process.wait(timeout=30) == 130
    assert (run.info.status, run.info.pid) == ("running", os.getpid())
    assert monitor.process.stderr is not None
    assert "Traceback" not in monitor.process.stderr.read()
