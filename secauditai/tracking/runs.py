"""MLflow runs: one per run directory, and one above the trials of a sweep."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secauditai.errors import SecAuditError
from secauditai.runs import FINISHED, STOPPED
from secauditai.tracking.connection import BRIEF, PATIENT, call, logger
from secauditai.tracking.numbers import finite_numbers, newest_steps
from secauditai.tracking.redact import clean_key, clean_params, clean_tags, redact_text
from secauditai.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

PARAMS_PER_BATCH = 100
STATUS = {FINISHED: "FINISHED", STOPPED: "KILLED"}
"""MLflow's word for how a run ended; anything else failed."""


@dataclass(frozen=True)
class TrackedDataset:
    """The data of a run, as MLflow shows it."""

    name: str
    content_hash: str
    source: str
    """What the user wrote after `--data`."""
    profile: str = "{}"
    """JSON: counts."""


def create_run(
    workspace: Path,
    *,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, str],
    parent: str | None = None,
    dataset: TrackedDataset | None = None,
) -> str:
    """Open an MLflow run and return its id.

    Args:
        workspace: the workspace directory.
        name: what MLflow shows.
        params: settings as plain values; unset ones, secrets and credentials in URIs are left out.
        tags: lineage; cleaned like params.
        parent: the MLflow run of the sweep that this one is a trial of.
        dataset: the training data.

    Raises:
        ConfigError: when MLFLOW_TRACKING_URI is unusable.
        RunError: when MLflow refuses or is out of reach.
    """
    store = open_store(workspace)
    system = {"mlflow.source.name": "secauditai", "mlflow.source.type": "LOCAL", "workspace_id": store.workspace_id}
    if parent is not None:
        system["mlflow.parentRunId"] = parent

    def create() -> str:
        created = store.client.create_run(store.experiment_id, tags=clean_tags(tags) | system, run_name=name)
        return str(created.info.run_id)

    run_id = call(create, uri=store.uri, patience=BRIEF, what="create a run")
    call(lambda: _log_params(store, run_id, params), uri=store.uri, patience=BRIEF, what="log params")
    if dataset is not None:
        inputs = _dataset_input(dataset)
        call(lambda: store.client.log_inputs(run_id, [inputs]), uri=store.uri, patience=BRIEF, what="log the dataset")
    return run_id


def reopen_run(workspace: Path, mlflow_run_id: str) -> None:
    """Set the MLflow run of a resumed run back to running; its params stay as they are.

    Raises:
        RunError: when MLflow does not have this run, refuses or is out of reach.
    """
    store = open_store(workspace)
    update = store.client.update_run
    call(
        lambda: update(mlflow_run_id, status="RUNNING"),
        uri=store.uri,
        patience=BRIEF,
        what="reopen the run",
        hint="MLFLOW_TRACKING_URI has to be the same as when the run was started.",
    )


def finish_run(workspace: Path, mlflow_run_id: str | None, status: str) -> bool:
    """Tell MLflow how a run ended, and when.

    Args:
        workspace: the workspace directory.
        mlflow_run_id: nothing happens without one.
        status: `finished` or `stopped`; anything else counts as failed.

    Returns:
        Whether MLflow knows now. Never raises what tracking does wrong: a run's own result matters more.
    """
    if mlflow_run_id is None:
        return False
    try:
        store = open_store(workspace)
        word = STATUS.get(status, "FAILED")
        close = store.client.set_terminated
        call(lambda: close(mlflow_run_id, word), uri=store.uri, patience=BRIEF, what="finish the run")
    except SecAuditError as error:
        logger.warning("%s", error)
        return False
    return True


def log_summary(workspace: Path, mlflow_run_id: str, metrics: Mapping[str, Any], *, step: int = 0) -> None:
    """Log final metrics under the given names at one step; those already there at this step are left alone.

    Raises:
        RunError: when MLflow refuses or is out of reach for minutes.
    """
    store = open_store(workspace, patience=PATIENT)

    def log() -> None:
        from mlflow.entities import Metric

        known = newest_steps(store.client, mlflow_run_id)
        now = int(time.time() * 1000)
        fresh = [
            Metric(key, value, now, step) for key, value in finite_numbers(metrics).items() if known.get(key, -1) < step
        ]
        store.client.log_batch(mlflow_run_id, metrics=fresh)

    call(log, uri=store.uri, patience=PATIENT, what="log the final metrics")


def log_tags(workspace: Path, mlflow_run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags of a run; cleaned like params.

    Raises:
        RunError: when MLflow refuses or is out of reach for minutes.
    """
    store = open_store(workspace, patience=PATIENT)
    from mlflow.entities import RunTag

    entities = [RunTag(key, value) for key, value in clean_tags(tags).items()]
    log = store.client.log_batch
    call(lambda: log(mlflow_run_id, tags=entities), uri=store.uri, patience=PATIENT, what="set tags")


def log_artifacts(workspace: Path, mlflow_run_id: str, paths: Sequence[Path], *, folder: str | None = None) -> None:
    """Store files with a run, such as its config and its report.

    Raises:
        RunError: when MLflow refuses or is out of reach for minutes.
    """
    store = open_store(workspace, patience=PATIENT)

    def log() -> None:
        for path in paths:
            store.client.log_artifact(mlflow_run_id, str(path), folder)

    call(log, uri=store.uri, patience=PATIENT, what="store files")


def _log_params(store: Store, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    entities = [Param(key, value) for key, value in clean_params(params).items()]
    for start in range(0, len(entities), PARAMS_PER_BATCH):
        store.client.log_batch(run_id, params=entities[start : start + PARAMS_PER_BATCH])


def _dataset_input(dataset: TrackedDataset) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    entity = Dataset(
        name=clean_key(redact_text(dataset.name)),
        digest=dataset.content_hash[:36],
        source_type="local",
        source=f'{{"uri": "{redact_text(dataset.source)}"}}',
        profile=dataset.profile,
    )
    return DatasetInput(entity, [InputTag("mlflow.data.context", "training")])
