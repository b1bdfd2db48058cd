"""One training from plan to registered model: prepare, track, train, save, export, register.

The commands, sweeps and cluster jobs all come through here.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.config.files import read_layer, resolve_config
from secauditai.errors import ClusterError
from secauditai.export.publish import publish
from secauditai.mirror import address_of
from secauditai.progress import Progress, silent
from secauditai.runs import FINISHED, STOPPED, Run, read_metrics
from secauditai.tracking.runs import TrackedDataset
from secauditai.tracking.runs import create_run as create_mlflow_run
from secauditai.tracking.runs import finish_run as finish_mlflow_run
from secauditai.tracking.runs import reopen_run as reopen_mlflow_run
from secauditai.tracking.store import shared_uri
from secauditai.training.launch import Launch, launch, training_finished
from secauditai.training.mirrored import BRIEF, send_begun, send_ended
from secauditai.training.preparation import TrainingPlan, prepare_run
from secauditai.training.recipe import read_recipe, write_recipe

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
    ray_startup_seconds: float

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
    run = prepare_run(plan, progress)
    for notice in read_recipe(run.layout.recipe).notices:
        notify(notice)
    track(run, request.workspace, parent=request.parent_mlflow_run)
    notify(f"Run {run.info.run_id} in {address_of(run.root)}")
    return complete(
        run,
        request.workspace,
        started,
        address=request.address,
        in_process=request.in_process,
        register_model=register_model,
        progress=progress,
        notify=notify,
    )


def track(run: Run, workspace: Path, *, parent: str | None = None) -> None:
    """Open the MLflow run of a run, under the parent MLflow run if there is one, and tell the recipe about it."""
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
    changed = recipe.model_copy(update={"tracking_uri": shared_uri(workspace), "mlflow_run_id": mlflow_run_id})
    write_recipe(run.layout.recipe, changed)


def complete(
    run: Run,
    workspace: Path,
    started: float,
    *,
    address: str | None = None,
    in_process: bool = False,
    register_model: bool = True,
    progress: Progress = silent,
    notify: Notify = print,
) -> Outcome:
    """Train a prepared and tracked run to its end, then save, export and register the best weights.

    Also right for a run whose training is over but whose model is not registered yet.
    """
    config = resolve_config(read_layer(run.layout.config))
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
        published = (
            publish(run, workspace, register_model=register_model, progress=progress) if result.finished else None
        )
        info = run.update(
            status=FINISHED if published else STOPPED,
            finished=time.time(),
            model_version=published.version if published else None,
        )
    except BaseException:
        with suppress(ClusterError):  # what went wrong first is what is told
            send_ended(run, BRIEF)
        raise
    finally:
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
    """Continue an interrupted run, or a branch, to its end; `parent` is the MLflow run it belongs under, if any."""
    started = time.monotonic()
    if run.info.mlflow_run_id is None:
        track(run, workspace, parent=parent)
    else:
        reopen_mlflow_run(workspace, run.info.mlflow_run_id)
    return complete(
        run,
        workspace,
        started,
        address=address,
        register_model=register_model,
        progress=progress,
        notify=notify,
    )
