"""What an attempt leaves behind, what it means, and who notices; no Ray."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from fault_runs import wait_until
from training_runs import history, new_run, weights, write_dataset

from secauditai.cluster import Node
from secauditai.config.files import resolve_config
from secauditai.errors import ConfigError, RunError
from secauditai.files import write_json
from secauditai.runs import Run, read_metrics
from secauditai.training import attempt as attempts
from secauditai.training.attempt import (
    AttemptLayout,
    Hang,
    await_predecessor,
    end_processes,
    read_hangs,
    read_ranks,
    record_rank,
    running_here,
    step_reached,
    was_validating,
)
from secauditai.training.devices import choose_devices
from secauditai.training.launch import launch
from secauditai.training.losses import Kind, find_hang
from secauditai.training.memory import Budget, budget_at, halved, read_budgets, write_budgets
from secauditai.training.objectives import Classification
from secauditai.training.stopping import StopCheck, StopRequest, read_stop, request_stop
from secauditai.training.watchdog import Pulse, Watchdog

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def layout(root: Path) -> AttemptLayout:
    found = AttemptLayout(root)
    found.renew()
    return found


def test_a_rank_is_found_by_its_record_and_ended(tmp_path: Path) -> None:
    here = layout(tmp_path / "a")
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    record_rank(here, 0, 2, None)
    mine = read_ranks(here)[0]
    other = replace(mine, index=1, pid=child.pid, started=attempts.psutil.Process(child.pid).create_time())
    write_json(here.rank(1), asdict(other))
    assert [rank.index for rank in running_here(read_ranks(here))] == [0, 1]
    with pytest.raises(RunError, match=rf"trained by another process: rank 1 \(pid {child.pid} on "):
        await_predecessor(here, patience=0.1)
    assert end_processes([(child.pid, 12345.0)], 1.0) == []  # somebody else's pid by now
    assert child.poll() is None
    assert end_processes([(other.pid, other.started)], 10.0) == []
    child.wait()
    await_predecessor(here, patience=0.1)


def test_the_step_reached_survives_the_process(tmp_path: Path) -> None:
    here = layout(tmp_path)
    assert step_reached(here) is None
    for index, step in ((0, 7), (1, 123_456)):
        pulse = Pulse(here.step(index))
        pulse.begin(1_000_000)
        pulse.begin(step)
        pulse.close()
    assert step_reached(here) == 123_456
    assert not was_validating(here)
    pulse = Pulse(here.step(0))
    pulse.begin(123_456, validating=True)
    assert (step_reached(here), was_validating(here)) == (123_456, True)
    pulse.begin(123_457)
    assert (step_reached(here), was_validating(here)) == (123_457, False)
    pulse.close()


def sleeping_rank(here: AttemptLayout, *, waiting: bool) -> None:
    pulse = Pulse(here.step(0))
    pulse.begin(5)
    with Watchdog(pulse, 0.2, here.root / "log", here, 0, ends=False):
        deadline = time.monotonic() + 30
        with pulse.waiting() if waiting else threading.Lock():
            while not read_hangs(here) and time.monotonic() < deadline:
                time.sleep(0.01)
    pulse.close()


def test_a_rank_without_progress_reports_where_it_stands(tmp_path: Path) -> None:
    here = layout(tmp_path / "a")
    sleeping_rank(here, waiting=False)
    (hang,) = read_hangs(here)
    assert (hang.index, hang.step, hang.waiting) == (0, 5, False)
    assert any("in sleeping_rank" in frame for frame in hang.frames)
    assert "sleeping_rank" in (here.root / "log").read_text()
    loss = find_hang(here)
    assert loss is not None
    assert re.match(r"rank hung: rank 0 made no progress for \d+ s in step 5, at ", str(loss))
    assert loss.counts


def test_progress_keeps_the_watchdog_quiet(tmp_path: Path) -> None:
    here, pulse = layout(tmp_path / "a"), Pulse()
    with Watchdog(pulse, 0.5, here.root / "log", here, 0, ends=True):  # would end this very process
        for _ in range(100):
            pulse.beat()
            time.sleep(0.01)
    assert read_hangs(here) == []


def test_who_only_waits_is_not_to_blame(tmp_path: Path) -> None:
    here = layout(tmp_path / "a")
    for index in range(3):
        record_rank(here, index, 3, None)
    for index, waiting in ((0, True), (2, True)):
        write_json(here.hang(index), asdict(Hang(index, 9, 6.0, waiting, ("rank.py:1 in sum",))))
    silent = find_hang(here)
    assert silent is not None
    assert silent.rank == 1
    assert "rank 1 (pid " in silent.detail
    assert "gave no sign of life" in silent.detail
    write_json(here.hang(1), asdict(Hang(1, 9, 5.0, waiting=False, frames=("a.py:1 in f",))))
    found = find_hang(here)
    assert found is not None
    assert (found.kind, found.rank) == (Kind.HUNG, 1)


def test_requests_to_stop(tmp_path: Path) -> None:
    here = layout(tmp_path)
    ranks = [StopCheck(here, index, lambda: False) for index in range(2)]
    assert [rank.wanted() for rank in ranks] == [False, False]
    leaving = StopCheck(here, 1, lambda: True)
    assert leaving.wanted()
    assert read_stop(here) == StopRequest("the node is going away", preempted=True)
    assert [rank.wanted() for rank in ranks] == [True, False]  # rank 0 tells the others in the step's all-reduce
    request_stop(here, StopRequest("SIGTERM"))
    assert read_stop(here) == StopRequest("SIGTERM")


def test_budgets_hold_from_their_step_on(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    assert read_budgets(path) == []
    budgets = halved(halved([], 10, 1024), 4, 1024)
    write_budgets(path, budgets)
    assert read_budgets(path) == budgets == [Budget(10, 512), Budget(4, 512)]
    assert [budget_at(budgets, step, 1024) for step in (1, 4, 10)] == [1024, 512, 512]
    assert budget_at(halved(budgets, 12, 1024), 12, 1024) == 256


def test_memory_that_ran_out_outside_a_step_restarts_with_half(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = new_run(data, tmp_path / "calm", micro_batch_tokens=512, eval_interval=4, max_steps=10)
    write_budgets(calm.layout.memory, [Budget(5, 256)])
    assert launch(calm).finished
    run, said, real = (
        new_run(data, tmp_path, micro_batch_tokens=512, eval_interval=4, max_steps=10),
        [],
        Classification.outputs,
    )

    def crowded(self: Classification, model: torch.nn.Module, batch: object) -> object:
        if not model.training and not run.layout.memory.exists():  # in the validation after step 4
            wait_until(run.layout.checkpoints.joinpath("checkpoint_3").exists, "the checkpoint before it", 60)
            raise MemoryError
        return real(self, model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "outputs", crowded)
    result = launch(run, notify=said.append)
    assert (result.attempts, result.finished) == (2, True)
    assert "restart with micro_batch_tokens 256 from step 3" in said[0]
    assert read_budgets(run.layout.memory) == [Budget(4, 256)]


def test_a_hang_in_this_process_is_only_told(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said, real = new_run(data, tmp_path, hang_timeout=1, max_steps=4), [], Classification.loss

    def slow(self: Classification, model: object, batch: object) -> object:
        deadline = time.monotonic() + 60
        while not said and time.monotonic() < deadline:
            time.sleep(0.05)
        return real(self, model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "loss", slow)
    assert launch(run, notify=said.append).finished
    assert "rank 0 has made no progress for" in said[0]
    assert "in slow; its log has all stacks" in said[0]


def test_a_second_interrupt_ends_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, said = new_run(data, tmp_path), []

    def endless(self: Classification, model: object, batch: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")

    monkeypatch.setattr(Classification, "loss", endless)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background process begins without it
    with pytest.raises(KeyboardInterrupt):
        launch(run, notify=said.append)
    assert said == ["SIGINT: training stops after this step, with a checkpoint; once more ends it at once"]
    assert (run.info.status, run.info.message) == ("stopped", "interrupted")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_before_training_begins_stops_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secauditai.training import launch as launching

    run = new_run(data, tmp_path)
    monkeypatch.setattr(launching, "fit_in_this_process", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert not launch(run).finished
    assert (run.info.status, run.info.message) == ("stopped", "asked to stop before the end (SIGTERM)")
    assert read_metrics(run.layout.metrics) == []


@pytest.mark.parametrize("wanted", ["0", "0-2", "4-2"])
def test_a_range_of_workers_makes_sense(wanted: str) -> None:
    with pytest.raises(ConfigError, match=r"num_workers must be at least 1, auto, or a range such as 2-4"):
        resolve_config({"num_workers": wanted if "-" in wanted else int(wanted)})


def node(cpus: float, gpus: float = 0) -> Node:
    return Node("", "", cpus, gpus, is_head=False)


@pytest.mark.parametrize(
    ("workers", "nodes", "threads"),
    [
        (1, [node(4), node(8)], 8),  # a worker is on one node
        (2, [node(4), node(8)], 4),
        (3, [node(4), node(8)], 4),
        (5, [node(1), node(2)], 1),  # they do not fit: that is told elsewhere
        ("auto", [node(16), node(4, 2)], 2),  # where the GPUs are
    ],
)
def test_threads_are_those_that_a_worker_finds_on_one_node(workers: int | str, nodes: list[Node], threads: int) -> None:
    devices = choose_devices(resolve_config({"num_workers": workers}).execution, nodes)
    assert devices.threads == threads


def test_an_elastic_range_asks_for_its_most(data: Path, tmp_path: Path) -> None:
    settings = resolve_config({"num_workers": "2-4", "threads": 1}).execution
    devices = choose_devices(settings, [node(8)])
    assert (devices.min_workers, devices.world_size) == (2, 4)
    assert devices.describe() == "cpu, 2 to 4 workers, 1 thread each"
    assert choose_devices(resolve_config({"num_workers": "2-2"}).execution, [node(8)]).min_workers is None


def test_too_few_devices_for_the_workers_are_told() -> None:
    settings = resolve_config({"num_workers": 2, "threads": 1, "gpu": "0"}).execution
    devices = choose_devices(settings, [node(8, 1)])
    assert devices.device == "cpu"
    assert devices.warning == "--gpu 0 gives 1 CUDA devices to 2 workers: training runs on the CPU"


def test_the_same_run_with_another_number_of_workers_says_so(data: Path, tmp_path: Path) -> None:
    import json

    run: Run = new_run(data, tmp_path, max_steps=6)
    calm = new_run(data, tmp_path / "calm", max_steps=6)
    launch(calm)
    launch(run)
    for checkpoint in sorted(run.layout.checkpoints.iterdir()):
        if checkpoint.name != "checkpoint_3":
            for path in checkpoint.iterdir():
                path.unlink()
            checkpoint.rmdir()
    state = run.layout.checkpoints / "checkpoint_3" / "state.json"
    manifest = state.with_name("manifest.json")
    write_json(state, json.loads(state.read_text()) | {"world_size": 2})
    from secauditai.files import describe_file

    document = json.loads(manifest.read_text())
    document["files"]["state.json"] = describe_file(state)
    write_json(manifest, document)
    said: list[str] = []
    launch(run, notify=said.append)
    assert said == ["step 3: going on with 1 workers instead of 2"]
    assert weights(run) == weights(calm)
    assert [record for record in history(run) if record["kind"] != "event"] == history(calm)
