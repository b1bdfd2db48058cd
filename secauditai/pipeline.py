"""One training from plan to registered model: prepare, track, train, save, export, register.

The commands, sweeps and cluster jobs all come through here.
"""

import json
import sys
import threading
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
from secauditai.tracking.connection import PATIENT, OutOfReachError, sqlite_path
from secauditai.tracking.runs import TrackedDataset
from secauditai.tracking.runs import create_run as create_mlflow_run
from secauditai.tracking.runs import finish_run as finish_mlflow_run
from secauditai.tracking.runs import reopen_run as reopen_mlflow_run
from secauditai.tracking.shipper import ship_remaining
from secauditai.tracking.store import probe_store, shared_uri, tracking_uri
from secauditai.training.attempt import AttemptLayout, held, step_reached
from secauditai.training.launch import Launch, launch, training_finished
from secauditai.training.mirrored import BRIEF, send_begun, send_ended
from secauditai.training.preparation import TrainingPlan, prepare_run
from secauditai.training.recipe import read_recipe, write_recipe
from secauditai.training.stopping import end_attempt

Notify = Callable[[str], None]

TRACKING_POLL = 0.2
"""Seconds between two looks whether training goes, and between two attempts to open MLflow then."""


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


def past_outcome(run: Run) -> Outcome:
    """What the command reported that finished a run."""
    summary = run.info.summary or {}
    return Outcome(
        run=run,
        version=run.info.model_version,
        global_step=_last_step(run),
        metrics=summary.get("metrics", {}),
        samples_per_second=summary.get("samples_per_second", 0.0),
        seconds=summary.get("seconds", 0.0),
        ray_startup_seconds=summary.get("ray_startup_seconds", 0.0),
    )


def _last_step(run: Run) -> int:
    return max((record["step"] for record in read_metrics(run.layout.metrics) if record["kind"] == "train"), default=0)


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


class Tracking:
    """Opens the MLflow run of a run, or opens it again: at once, or in the background as soon as training goes.

    Importing MLflow, and building a new workspace's database, takes seconds that nothing has to wait for: the metrics
    are in a file, and what ships them looks for the MLflow run until it is there.
    """

    def __init__(self, run: Run, workspace: Path, notify: Notify, *, parent: str | None = None) -> None:
        """Prepare; nothing happens before `open` or `start`.

        Args:
            run: the run.
            workspace: the workspace directory.
            notify: told when MLflow is out of reach in the background, where it is tried again and again.
            parent: the MLflow run of the sweep that this one is a trial of.
        """
        self._run, self._workspace, self._notify, self._parent = run, workspace, notify, parent
        self._attempt, self._first_step = AttemptLayout(run.layout.attempt), sys.maxsize
        self._opening, self._opened, self._wanted = threading.Lock(), False, threading.Event()
        self._thread = threading.Thread(target=self._open_when_training, name="tracking", daemon=True)

    def start(self) -> None:
        """Open the MLflow run in the background after the first step, or when `open` or `close` wants it.

        When MLflow refuses, training stops after the step with a checkpoint, and `launch` raises the refusal.
        """
        if not self._opened:
            self._thread.start()

    def open(self, patience: float = 0.0) -> None:
        """Have the MLflow run open on return.

        Args:
            patience: seconds to go on trying beyond the few of every call.

        Raises:
            ConfigError: when MLFLOW_TRACKING_URI is unusable.
            RunError: when MLflow refuses or is out of reach.
        """
        self._wanted.set()
        give_up = time.monotonic() + patience
        while True:
            try:
                return self._open()
            except OutOfReachError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(TRACKING_POLL)

    def catch_up(self) -> None:
        """Have the MLflow run open, with every metric that training wrote before it was, however short the training.

        Raises:
            ConfigError, RunError: as `open`.
        """
        self.open(PATIENT)
        run_id = self._run.info.mlflow_run_id
        assert run_id is not None, "an open run has an id"
        ship_remaining(self._workspace, run_id, self._run.layout.metrics)

    def close(self) -> None:
        """Wait for what goes on in the background."""
        self._wanted.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _open(self) -> None:
        with self._opening:
            if self._opened:
                return
            if self._run.info.mlflow_run_id is None:
                track(self._run, self._workspace, parent=self._parent)
            else:
                reopen_mlflow_run(self._workspace, self._run.info.mlflow_run_id)
            self._opened = True

    def _open_when_training(self) -> None:
        told = False
        while not self._wanted.wait(TRACKING_POLL):
            if not self._a_step_is_done():
                continue
            try:
                self._open()
                break
            except OutOfReachError as error:
                if not told:
                    self._notify(f"Training goes on without MLflow, which is tried again until its end: {error}")
                told = True
            except SecAuditError as error:
                end_attempt(self._attempt, error)
                break

    def _a_step_is_done(self) -> bool:
        """Whether the ranks are at a later step than the one they began with."""
        step = step_reached(self._attempt)
        self._first_step = min(self._first_step, step or sys.maxsize)
        return step is not None and step > self._first_step


def is_local(workspace: Path) -> bool:
    """Whether runs are tracked in a database file of this machine; a server is asked before anything starts."""
    return sqlite_path(tracking_uri(workspace)) is not None


def track(run: Run, workspace: Path, *, parent: str | None = None) -> None:
    """Open the MLflow run of a run, under the parent MLflow run if there is one, and note its id in `run.json`."""
    recipe, info = read_recipe(run.layout.recipe), run.info
    settings = resolve_config(read_layer(run.layout.config)).flat()
    tags = {
        "run_id": info.run_id,
        "run_dir": address_of(run.root),
        "kind": info.kind,
        "task": info.task,
        "dataset_hash": info.dataset_hash or "",
        "encoder_source": json.dumps(recipe.encoder_source),
        "parent_run_id": info.parent_run_id or "",
    }
    mlflow_run_id = create_mlflow_run(
        workspace,
        name=f"{info.name} {info.run_id}",
        params=settings | {"learning_rate": recipe.learning_rate, "total_steps": recipe.total_steps},
        tags={key: value for key, value in tags.items() if value},
        parent=parent,
        dataset=TrackedDataset(
            name=settings["data"] or "", content_hash=info.dataset_hash or "", source=info.dataset or ""
        ),
    )
    run.update(mlflow_run_id=mlflow_run_id)


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
        info = run.update(
            status=FINISHED if published else STOPPED,
            finished=time.time(),
            model_version=published.version if published else None,
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
    records = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "train"]
    rates = [record["samples_per_second"] for record in records if "samples_per_second" in record]
    outcome = Outcome(
        run=run,
        version=info.model_version,
        global_step=records[-1]["step"] if records else 0,
        metrics=published.metrics if published else {},
        samples_per_second=sum(rates) / len(rates) if rates else 0.0,
        seconds=time.monotonic() - started - result.ray_startup_seconds,
        ray_startup_seconds=result.ray_startup_seconds,
    )
    run.update(
        summary={
            "metrics": outcome.metrics,
            "samples_per_second": outcome.samples_per_second,
            "seconds": outcome.seconds,
            "ray_startup_seconds": outcome.ray_startup_seconds,
        }
    )
    send_ended(run)
    return outcome


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
