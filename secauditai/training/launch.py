"""The door to Ray Train: run the loop in this process or in a group of workers, and restart it when workers die.

Every attempt is a fresh Ray run with a name of its own; Ray never holds a checkpoint of ours.
"""

import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from secauditai.cluster import ensure_ray, in_ray_job
from secauditai.errors import ClusterError, RunError, SecAuditError
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, RUNNING, STOPPED, Run
from secauditai.training.checkpoint import TrainState, newest_checkpoint, read_state
from secauditai.training.follow import Follower
from secauditai.training.loop import AfterValidation, train_rank
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.rungs import RungRule

logger = logging.getLogger("secauditai.training")

_BROKEN_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "timed out",
    "broken pipe",
)
"""What gloo and nccl say in the surviving ranks when another rank has died."""
STOP_MESSAGES = {"request": "asked to stop before the end", "sweep": "stopped by request of the sweep"}
"""By `TrainState.stopped_by`."""


@dataclass(frozen=True)
class Launch:
    """How the training of a run went."""

    seconds: float
    """Wall time of training, without Ray's start-up."""
    ray_startup_seconds: float
    attempts: int
    finished: bool
    """False when it was asked to stop before the end."""
    stopped_by: str | None = None
    """Who asked: `request` (a user, a scheduler) or `sweep`."""


class WorkersLost(Exception):
    """Workers or their controller died; the run can go on from its newest checkpoint."""


def launch(
    run: Run,
    *,
    address: str | None = None,
    in_process: bool = False,
    after_validation: AfterValidation | None = None,
    max_failures: int = 3,
    progress: Progress = silent,
    notify: Callable[[str], None] = print,
) -> Launch:
    """Train a prepared run to its end, or go on with one that was interrupted.

    Args:
        run: the run; its recipe says all the rest.
        address: the Ray cluster, when it is not this machine.
        in_process: train in this process without Ray Train, as a sweep's trial does.
        after_validation: told every validation, and may end the training there; only a `RungRule` travels to workers.
        max_failures: worker deaths survived by starting again from the newest checkpoint.
        progress: told about the global step.
        notify: told, in a sentence, about each restart.

    Raises:
        RunError: when the run cannot go on, for example because the loss is no longer finite.
        ClusterError: when workers died more often than `max_failures` allows.
    """
    recipe = read_recipe(run.layout.recipe)
    run.update(status=RUNNING, message=None)
    begun, startup, attempts = time.monotonic(), 0.0, 0
    try:
        with Follower(run.layout.metrics, recipe.total_steps, progress):
            while True:
                attempts += 1
                try:
                    startup += _attempt(run, recipe, address, after_validation, in_process=in_process)
                    break
                except WorkersLost as loss:
                    if attempts > max_failures:
                        raise _gave_up(run, attempts, loss) from None
                    notify(
                        f"workers were lost ({loss}); restart {attempts} of {max_failures} from the newest checkpoint"
                    )
    except SecAuditError as error:
        run.update(status=FAILED, message=str(error))
        raise
    state = _newest_state(run)
    finished, stopped_by = state.finished, state.stopped_by
    if not finished:
        run.update(status=STOPPED, message=STOP_MESSAGES.get(stopped_by or "", "stopped before the end"))
    return Launch(time.monotonic() - begun - startup, startup, attempts, finished, stopped_by)


def training_finished(run: Run) -> bool:
    """Whether the newest whole checkpoint is the end of training."""
    return _newest_state(run).finished


def _newest_state(run: Run) -> TrainState:
    newest = newest_checkpoint(run.layout.checkpoints, logger.warning)
    return read_state(newest) if newest else TrainState()


def uses_worker_group(recipe: Recipe, address: str | None) -> bool:
    """Whether Ray workers do the training; otherwise this process does, in Ray Train's in-process mode."""
    return recipe.world_size > 1 or address is not None or in_ray_job()


def _attempt(
    run: Run, recipe: Recipe, address: str | None, after_validation: AfterValidation | None, *, in_process: bool
) -> float:
    """Run the loop once; return the seconds that Ray took to start."""
    failure = run.layout.root / "failure.json"
    failure.unlink(missing_ok=True)
    startup = 0.0
    if in_process:
        train_rank(run.root, 0, 1, after_validation)  # Ray Train does not run inside a trial of Ray Tune
    elif uses_worker_group(recipe, address):
        startup = _fit_in_workers(run, recipe, address, after_validation)
    else:
        startup = _fit_here(run, after_validation)
    if failure.exists():
        raise RunError(**json.loads(failure.read_text(encoding="utf-8")))
    return startup


def run_rank(config: dict[str, str]) -> None:
    """What Ray Train calls in every worker, or in this process: one rank of the run that `config` names."""
    import ray.train

    context = ray.train.get_context()
    rule = RungRule(**json.loads(config["rungs"])) if "rungs" in config else None
    state = train_rank(Path(config["run_root"]), context.get_world_rank(), context.get_world_size(), rule)
    if state is not None:
        ray.train.report({"global_step": state.global_step, "finished": int(state.finished)})


def _loop_config(run: Run, after_validation: AfterValidation | None) -> dict[str, str]:
    """What `run_rank` gets: plain text."""
    if after_validation is None:
        return {"run_root": str(run.root)}
    if not isinstance(after_validation, RungRule):
        raise TypeError("only a RungRule can travel to workers")
    return {"run_root": str(run.root), "rungs": json.dumps(asdict(after_validation))}


def _fit_here(run: Run, after_validation: AfterValidation | None) -> float:
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    here = ScalingConfig(num_workers=0)
    TorchTrainer(run_rank, train_loop_config=_loop_config(run, after_validation), scaling_config=here).fit()
    return 0.0


def _fit_in_workers(run: Run, recipe: Recipe, address: str | None, after_validation: AfterValidation | None) -> float:
    started = time.monotonic()
    cluster = ensure_ray(address)
    import ray.exceptions
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    ready = run.root / "ready"
    ready.unlink(missing_ok=True)
    storage = run.root / "ray"
    trainer = TorchTrainer(
        run_rank,
        train_loop_config=_loop_config(run, after_validation),
        scaling_config=_scaling(recipe, cluster.cpus),
        run_config=RunConfig(
            name=f"{run.root.name}-{uuid.uuid4().hex[:8]}",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        trainer.fit()
    except ray.exceptions.RayError as error:
        raise WorkersLost(_first_line(error)) from None
    except ray.train.TrainingFailedError as error:
        _raise_if_bug(error)
        raise WorkersLost(_first_line(error)) from None
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    return max(0.0, ready.stat().st_mtime - time.time() + time.monotonic() - started) if ready.exists() else 0.0


def _scaling(recipe: Recipe, cluster_cpus: float) -> Any:
    """Ask for the threads each worker uses, or for an even share of the CPUs when there are fewer."""
    from ray.train import ScalingConfig

    cpus = min(float(recipe.threads), cluster_cpus / recipe.world_size)
    if cpus <= 0:
        raise ClusterError("the Ray cluster has no CPUs", hint="See `ray status`.")
    return ScalingConfig(
        num_workers=recipe.world_size,
        use_gpu=recipe.device == "cuda",
        resources_per_worker={"CPU": round(cpus, 3)},
    )


def _raise_if_bug(error: Exception) -> None:
    """Let an error of our own code through; what remains is a dead worker, or a rank that lost its peer."""
    failures = getattr(error, "worker_failures", {}).values()
    causes = [getattr(failure, "_base_exc", failure) for failure in failures]
    lost = [cause for cause in causes if _is_loss(cause)]
    if causes and not lost:
        raise causes[0]


def _is_loss(error: BaseException) -> bool:
    import ray.exceptions

    return isinstance(error, ray.exceptions.RayError) or any(word in str(error).lower() for word in _BROKEN_PEER)


def _gave_up(run: Run, attempts: int, loss: WorkersLost) -> ClusterError:
    return ClusterError(
        f"workers were lost in {attempts} attempts, the last time: {loss}",
        where=str(run.root),
        hint=f"See {run.layout.logs}; `secauditai train resume --model {run.info.name}` goes on from there.",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
