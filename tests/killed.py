"""Trainings in processes of their own that die by SIGKILL, at a named place or whenever the test kills them.

The processes are forked from a server that has imported everything once, so that each starts at once.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from secauditai.runs import Run

PLACES = (
    "mid-accumulation",
    "evaluation",
    "checkpoint half-written",
    "checkpoint not renamed",
    "checkpoint renamed",
    "checkpoint deleted by half",
)

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["secauditai.training.loop", "secauditai.models.classifier", "secauditai.models.encoders"]
)


def start_training(run: Run, place: str | None = None, count: int = 1) -> BaseProcess:
    """Train a run in a new process that dies when it comes to the place for the `count`-th time."""
    process = _context.Process(target=_train, args=(str(run.root), place, count))
    process.start()
    return process


def die_at(run: Run, place: str, count: int) -> None:
    """Train a run in a process until it has died there."""
    process = start_training(run, place, count)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended with {process.exitcode} before {place}, number {count}"


def _train(run_root: str, place: str | None, count: int) -> None:
    from secauditai.training.loop import train_rank

    if place is not None:
        _arm(place, count)
    train_rank(Path(run_root), 0, 1)


def _arm(place: str, count: int) -> None:
    from secauditai.training import checkpoint
    from secauditai.training.objectives import Classification

    match place:
        case "mid-accumulation":
            _die_in(Classification, "loss", count)
        case "evaluation":
            _die_in(Classification, "outputs", count)
        case "checkpoint half-written":
            _die_in(checkpoint, "save_file", count, after=True)
        case "checkpoint not renamed":
            _die_in(checkpoint, "delete_checkpoint", count)
        case "checkpoint renamed":
            _die_in(checkpoint, "_sync", count, when=lambda path: path.name == "checkpoints")
        case "checkpoint deleted by half":
            _die_in(
                checkpoint.shutil,
                "rmtree",
                count,
                when=lambda path, **_: path.name.endswith(".old.partial"),
                after=True,
            )
        case _:
            raise ValueError(place)


def _die_in(
    owner: Any, name: str, count: int, *, when: Callable[..., bool] = lambda *_, **__: True, after: bool = False
) -> None:
    """Make the `count`-th call of a function for which `when` holds the last thing this process does."""
    real, calls = getattr(owner, name), [0]

    def deadly(*arguments: Any, **options: Any) -> Any:
        calls[0] += when(*arguments, **options)
        last = calls[0] == count and when(*arguments, **options)
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **options)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)
