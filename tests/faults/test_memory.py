"""A real limit on the memory of a worker: the micro-batch is halved, the step redone, and that remembered.

Whether allocation fails, or the kernel kills the worker.
"""

import sys
from pathlib import Path

import pytest
from fault_runs import sabotage, same, start
from memory_group import memory_group

from secauditai.errors import RunError
from secauditai.runs import Run, read_metrics
from secauditai.training.launch import launch
from secauditai.training.memory import Budget, read_budgets, write_budgets

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FEW = {"max_steps": 12, "checkpoint_interval": 4, "micro_batch_tokens": 256}


def limit(config: dict[str, str]) -> None:
    """Give rank 0 so much address space beyond its own, and let each token of a micro-batch take some."""
    import resource
    from pathlib import Path

    import psutil
    import ray.train
    import torch

    from secauditai.training.objectives import Classification

    if ray.train.get_context().get_world_rank() != 0:
        return
    room, per_token = (int(word) * 2**20 for word in (Path(config["run_root"]) / "limit").read_text().split())
    real = Classification.loss

    def loss(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + room, resource.RLIM_INFINITY))
        ballast = torch.empty(per_token * batch.input_ids.numel(), dtype=torch.uint8)  # type: ignore[attr-defined]
        found = real(self, model, batch)  # type: ignore[arg-type]
        del ballast
        return found

    Classification.loss = loss  # type: ignore[method-assign, assignment]


def limited(data: Path, workspace: Path, megabytes: int, per_token: int) -> Run:
    run = start(data, workspace, 2, **FEW)
    (run.root / "limit").write_text(f"{megabytes} {per_token}")
    return run


@pytest.fixture(scope="module")
def halved(data: Path, tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Run:
    """A run that begins with half the micro-batch, as if it had run out of memory in its first step."""
    run = start(data, tmp_path_factory.mktemp("halved"), 2, **FEW)
    write_budgets(run.layout.memory, [Budget(1, 128)])
    assert launch(run).finished
    return run


def test_a_limit_on_a_worker_halves_the_micro_batch(
    data: Path, tmp_path: Path, halved: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = limited(data, tmp_path, 1700, 8), list[str]()
    sabotage(monkeypatch, sys.modules[__name__], limit)
    result = launch(run, notify=said.append)
    assert (result.attempts, result.finished) == (1, True)
    assert read_budgets(run.layout.memory) == [Budget(1, 128)]
    assert [r["micro_batch_tokens"] for r in read_metrics(run.layout.metrics) if r["kind"] == "event"] == [128]
    assert said == ["step 0: out of memory: going on with micro_batch_tokens 128"]
    same(run, halved)


def test_a_sample_that_cannot_fit_is_named_by_the_only_rank_that_knows(
    data: Path, tmp_path: Path, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = limited(data, tmp_path, 500, 1000)
    sabotage(monkeypatch, sys.modules[__name__], limit)
    with pytest.raises(RunError, match=r"sample sample_\d+_[sv] alone does not fit into memory"):
        launch(run)
    assert run.info.status == "failed"


def starve(config: dict[str, str]) -> None:
    """Put rank 0 under a limit of the kernel's before its first step, and let each token of a micro-batch take 4 MiB."""
    import os
    from pathlib import Path

    import ray.train
    import torch

    from secauditai.training.objectives import Classification

    if ray.train.get_context().get_world_rank() != 0:
        return
    joined, real = [False], Classification.loss

    def loss(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        if not joined[0]:
            Path((Path(config["run_root"]) / "group").read_text()).write_text(str(os.getpid()))
            joined[0] = True
        ballast = torch.ones(2**22 * batch.input_ids.numel(), dtype=torch.uint8)  # type: ignore[attr-defined]
        found = real(self, model, batch)  # type: ignore[arg-type]
        del ballast
        return found

    Classification.loss = loss  # type: ignore[method-assign, assignment]


def test_a_worker_that_the_kernel_kills_comes_back_with_half_the_micro_batch(
    data: Path, tmp_path: Path, halved: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = start(data, tmp_path, 2, **FEW), list[str]()
    with monkeypatch.context() as patch, memory_group(850) as members:
        (run.root / "group").write_text(str(members))
        sabotage(patch, sys.modules[__name__], starve)
        result = launch(run, notify=said.append)
    assert (result.attempts, result.finished) == (2, True)
    assert "the kernel killed it for want of memory; restart with micro_batch_tokens 128 from step" in said[0]
    assert read_budgets(run.layout.memory) == [Budget(1, 128)]
    same(run, halved)
