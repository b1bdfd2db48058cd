"""One training from plan to registered model: prepare, track, train, save, export, register.

The commands, sweeps and cluster jobs all come through here.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.cluster import begin_ray, in_ray_job
from secauditai.config.files import read_layer, resolve_config
from secauditai.errors import ClusterError, SecAuditError
from secauditai.mirror import address_of
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, FINISHED, STOPPED, Run, read_metrics
from secauditai.tracking.runs import finish_run as finish_mlflow_run
from secauditai.tracking.store import probe_store, shared_uri
from secauditai.training.attempt import held
from secauditai.training.launch import Launch, launch, training_finished
from secauditai.training.mirrored import BRIEF, send_begun, send_ended
from secauditai.training.preparation import TrainingPlan, prepare_run
from secauditai.training.recipe import read_recipe, write_recipe
from secauditai.training.tracked import Tracking, is_local

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a training command reports."""

    run: Run
    version: int | None
    """The registered version; None when the run was stopped before its end."""
    global_step: int
    metrics: dict[str, float | None]
    """Validation metrics of the saved weights."""
    samples_per_second: float
    seconds: float
    """Wall time without Ray's start-up: both together are the time the command took."""
    ray_startup_seconds: float
    """Wall time in which nothing was done but waiting for Ray: to be connected, and for the workers to enter the loop.
    What Ray did while model and data were prepared beside it is in `seconds`."""

    def document(self) -> dict[str, Any]:
        """The JSON document of training commands."""
        info = self.run.info
        return {
            "run_id": info.run_id,
            "run_dir": address_of(self.run.root),
            "model": info.name,
            "version": self.version,
            "global_step": self.global_step,
            "metrics": self.metrics,
            "mlflow_run_id": info.mlflow_run_id,
            "samples_per_second": round(self.samples_per_second, 2),
            "seconds": round(self.seconds, 3),
            "ray_startup_seconds": round(self.ray_startup_seconds, 3),
        }


def outcome_of(run: Run) -> Outcome:
    """What the command reports, or has reported, that brought a run to its end."""
    summary = run.info.summary or {}
    return Outcome(
        run=run,
        version=run.info.model_version,
        global_step=max((record["step"] for record in _train_records(run)), default=0),
        metrics=summary.get("metrics", {}),
        samples_per_second=_mean_rate(run),
        seconds=summary.get("seconds", 0.0),
        ray_startup_seconds=summary.get("ray_startup_seconds", 0.0),
    )


def _train_records(run: Run) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run.layout.metrics) if record["kind"] == "train"]


def _mean_rate(run: Run) -> float:
    rates = [record["samples_per_second"] for record in _train_records(run) if "samples_per_second" in record]
    return sum(rates) / len(rates) if rates else 0.0


def _summary(metrics: dict[str, float | None], result: Launch, started: float) -> dict[str, Any]:
    return {
        "metrics": metrics,
        "seconds": time.monotonic() - started - result.ray_startup_seconds,
        "ray_startup_seconds": result.ray_startup_seconds,
    }


def train(
    plan: TrainingPlan, *, register_model: bool = True, progress: Progress = silent, notify: Notify = print
) -> Outcome:
    """Carry out a planned training and register its model.

    Args:
        plan: what to do.
        register_model: False for a sweep's trial, of which only the best is registered.
        progress: told how far each part is.
        notify: told, sentence by sentence, what a user should know meanwhile.
    """
    request = plan.request
    started = time.monotonic()
    if is_local(request.workspace):
        probe_store(request.workspace)
    if not request.in_process and (plan.devices.world_size > 1 or in_ray_job()):
        begin_ray(request.address)  # beside the preparation
    run = prepare_run(plan, progress)
    with held(run.layout.driver_lock):
        for notice in read_recipe(run.layout.recipe).notices:
            notify(notice)
        tracking = Tracking(run, request.workspace, notify, parent=request.parent_mlflow_run)
        if request.in_process or not is_local(request.workspace):
            tracking.open()
        notify(f"Run {run.info.run_id} in {address_of(run.root)}")
        return complete(
            run,
            request.workspace,
            tracking,
            started,
            address=request.address,
            in_process=request.in_process,
            register_model=register_model,
            progress=progress,
            notify=notify,
        )


def complete(
    run: Run,
    workspace: Path,
    tracking: Tracking,
    started: float,
    *,
    address: str | None = None,
    in_process: bool = False,
    register_model: bool = True,
    progress: Progress = silent,
    notify: Notify = print,
) -> Outcome:
    """Train a prepared run to its end, then save, export and register the best weights.

    Also right for a run whose training is over but whose model is not registered yet.
    """
    config = resolve_config(read_layer(run.layout.config))
    tracking.start()
    try:
        result = Launch(0.0, 0.0, 0, finished=True)
        if training_finished(run):
            send_begun(run)  # what its last process could not send
        else:
            result = launch(
                run,
                address=address,
                in_process=in_process,
                max_failures=config.execution.max_failures,
                progress=progress,
                notify=notify,
            )
        tracking.catch_up()
        published = None
        if result.finished:
            from secauditai.export.publish import publish

            published = publish(run, workspace, register_model=register_model, progress=progress)
        run.update(
            status=FINISHED if published else STOPPED,
            finished=time.time(),
            model_version=published.version if published else None,
            summary=_summary(published.metrics if published else {}, result, started),
        )
    except BaseException as error:
        if isinstance(error, SecAuditError):
            with suppress(OSError):  # a full disk takes not even this
                run.update(status=FAILED, message=str(error))
        with suppress(ClusterError):  # what went wrong first is what is told
            send_ended(run, BRIEF)
        raise
    finally:
        tracking.close()
        finish_mlflow_run(workspace, run.info.mlflow_run_id, run.info.status)
    seconds = time.monotonic() - started - result.ray_startup_seconds  # with what was still on its way to MLflow
    run.update(summary={**run.info.summary, "seconds": seconds})
    send_ended(run)
    return outcome_of(run)


def go_on(
    run: Run,
    workspace: Path,
    *,
    address: str | None = None,
    parent: str | None = None,
    register_model: bool = True,
    progress: Progress = silent,
    notify: Notify = print,
) -> Outcome:
    """Continue an interrupted run, or a branch, to its end.

    Args:
        run: the run.
        workspace: the workspace directory.
        address: the Ray cluster, when it is not this machine.
        parent: the MLflow run it belongs under, if any.
        register_model: see `train`.
        progress: see `train`.
        notify: see `train`.

    Raises:
        RunError: when another process trains the run, which is left alone.
    """
    started = time.monotonic()
    with held(run.layout.driver_lock):
        recipe, uri = read_recipe(run.layout.recipe), shared_uri(workspace)
        if recipe.tracking_uri != uri and run.info.mlflow_run_id is None:
            write_recipe(run.layout.recipe, recipe.model_copy(update={"tracking_uri": uri}))
        tracking = Tracking(run, workspace, notify, parent=parent)
        if is_local(workspace):
            probe_store(workspace)
        else:
            tracking.open()
        return complete(
            run,
            workspace,
            tracking,
            started,
            address=address,
            register_model=register_model,
            progress=progress,
            notify=notify,
        )
