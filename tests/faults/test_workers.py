"""Real worker groups: ranks and controller killed, blocked, asked to stop; all bit-identical to the undisturbed run."""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest
from fault_runs import at_steps, kill_ranks, left_over, rank_pids, sabotage, same, start

from secauditai.errors import ClusterError
from secauditai.files import write_json
from secauditai.runs import Run, read_metrics
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.launch import launch
from secauditai.training.recipe import read_recipe

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_the_budget_of_restarts_ends(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    run = start(data, tmp_path)
    at_steps(run, (12, lambda: kill_ranks(run, [0])))
    with pytest.raises(
        ClusterError, match=r"lost in 1 attempts, the last time: worker lost: rank 0 .* resume --model m"
    ):
        launch(run, max_failures=0, notify=lambda _: None)
    assert run.info.status == "failed"


def controllers() -> list[psutil.Process]:
    """Ray Train's controller processes of this session's cluster."""
    mine = psutil.Process().children(recursive=True)
    return [process for process in mine if "TrainController" in " ".join(process.cmdline())]


def die_while_writing(config: dict[str, str]) -> None:
    """Truncate the newest checkpoint and die in the middle of writing the next."""
    import ray.train

    from secauditai.training import checkpoint
    from secauditai.training.checkpoint import list_checkpoints

    root = Path(config["run_root"])
    if ray.train.get_context().get_world_rank() != 0 or (root / "died").exists():
        return
    real = checkpoint.write_json

    def write_json(path: Path, document: dict[str, int]) -> None:
        if path.name == "manifest.json" and document["global_step"] == 60:
            before, newest = list_checkpoints(root / "checkpoints")[-2:]
            (root / "died").write_text(f"{before.step} {newest.step}")
            os.truncate(newest.weights, 1000)
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, document)

    checkpoint.write_json = write_json  # type: ignore[attr-defined]


def block(config: dict[str, str]) -> None:
    """Rank 1 opens a pipe that nobody writes to, once."""
    import ray.train

    from secauditai.training.step import Stepper

    pipe, real = Path(config["run_root"]) / "pipe", Stepper.run

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        if step == 75 and ray.train.get_context().get_world_rank() == 1 and not pipe.exists():
            os.mkfifo(pipe)
            pipe.read_text()
        return real(self, plan, step, stop=stop)  # type: ignore[arg-type]

    Stepper.run = run  # type: ignore[assignment]


def break_twice(config: dict[str, str]) -> None:
    """Both of the above, each once."""
    die_while_writing(config)
    block(config)


@pytest.mark.timeout(1500)
def test_a_run_survives_everything_and_loses_not_a_bit(
    data: Path, tmp_path: Path, undisturbed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = start(data, tmp_path, hang_timeout=8), list[str]()
    sabotage(monkeypatch, sys.modules[__name__], break_twice)

    def delete_and_kill() -> None:
        shutil.rmtree(run.root / "ray")  # all that Ray keeps of the run
        kill_ranks(run, [0])

    villain = at_steps(
        run,
        (12, lambda: kill_ranks(run, [1])),
        (24, lambda: [process.kill() for process in controllers()]),
        (36, delete_and_kill),
        (102, lambda: kill_ranks(run, [1], signal.SIGSTOP)),
    )
    result = launch(run, max_failures=6, notify=said.append)
    villain.join()
    assert (result.attempts, result.finished) == (7, True)
    restarts = [text for text in said if "restart" in text]
    assert [text.split(": ")[0] for text in restarts] == [
        "worker lost",
        "controller lost",
        "worker lost",
        "worker lost",
        "rank hung",
        "rank hung",
    ]
    killed, _, deleted, writing, blocked, frozen = restarts
    assert "rank 1 (pid " in killed
    assert "restart 1 of 6 from step 1" in killed
    assert "rank 0 (pid " in deleted
    before, newest = (run.root / "died").read_text().split()
    assert f"from step {before}" in writing
    assert any(f"checkpoint_{newest}: damaged checkpoint" in text for text in said)
    assert "rank 1 (pid " in blocked
    assert "in step 75, at " in blocked
    assert "test_workers.py" in blocked
    assert "rank 1 (pid " in frozen
    assert "gave no sign of life; rank 0 " in frozen
    log = (run.layout.logs / "rank_1.log").read_text()
    assert "hung: no progress for" in log
    assert "read_text" in log
    same(run, undisturbed)
    assert left_over([psutil.Process(pid) for pid in rank_pids(run).values() if psutil.pid_exists(pid)], 10) == []


def test_four_workers_stopped_by_a_signal_to_one_and_resumed(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    steps = 60
    calm, stopped = (start(data, tmp_path / name, 4, max_steps=steps) for name in "ab")
    assert launch(calm).finished
    at_steps(stopped, (16, lambda: kill_ranks(stopped, [2], signal.SIGTERM)))
    first = launch(stopped)
    assert (first.attempts, first.finished, first.stopped_by) == (1, False, "request")
    assert (stopped.info.status, stopped.info.message) == (
        "stopped",
        "asked to stop before the end (SIGTERM to rank 2)",
    )
    newest = list_checkpoints(stopped.layout.checkpoints)[-1].step
    assert 16 <= newest < steps
    assert newest == read_metrics(stopped.layout.metrics)[-1]["step"]
    assert launch(stopped).finished
    same(stopped, calm)


def test_a_signal_to_the_driver_stops_its_workers_with_a_checkpoint(
    data: Path, tmp_path: Path, undisturbed: Run
) -> None:
    run, said = start(data, tmp_path), list[str]()
    assert threading.current_thread() is threading.main_thread()
    at_steps(run, (32, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert not launch(run, notify=said.append).finished
    assert any("SIGINT: training stops after this step" in text for text in said)
    assert (run.info.status, run.info.message) == ("stopped", "asked to stop before the end (SIGINT)")
    assert launch(run).finished
    same(run, undisturbed)


def test_one_step_from_the_same_checkpoint_agrees_for_1_2_and_4_workers(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    origin = start(data, tmp_path / "origin", 1, max_steps=25, micro_batch_tokens=128)
    assert launch(origin).finished
    for checkpoint in list_checkpoints(origin.layout.checkpoints):
        if checkpoint.step > 20:
            shutil.rmtree(checkpoint.root)
    records = []
    for workers in (1, 2, 4):
        root = tmp_path / str(workers)
        shutil.copytree(origin.root, root)
        run = Run(type(origin.layout)(root))
        recipe = read_recipe(run.layout.recipe)
        write_json(run.layout.recipe, recipe.model_copy(update={"world_size": workers}).model_dump())
        assert launch(run).finished
        records.append(next(r for r in read_metrics(run.layout.metrics) if r["kind"] == "train" and r["step"] == 21))
    for record in records[1:]:
        assert record["loss"] == pytest.approx(records[0]["loss"], rel=1e-5)
        assert record["gradient_norm"] == pytest.approx(records[0]["gradient_norm"], rel=1e-4)
