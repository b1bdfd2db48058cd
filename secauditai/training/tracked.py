"""The MLflow run of a training: opened when nobody has to wait for it, and left with everything that was measured."""

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from secauditai.config.files import read_layer, resolve_config
from secauditai.errors import SecAuditError
from secauditai.mirror import address_of
from secauditai.runs import Run
from secauditai.tracking.connection import PATIENT, OutOfReachError, sqlite_path
from secauditai.tracking.runs import TrackedDataset, create_run, reopen_run
from secauditai.tracking.shipper import ship_remaining
from secauditai.tracking.store import tracking_uri
from secauditai.training.attempt import AttemptLayout, step_reached
from secauditai.training.recipe import read_recipe
from secauditai.training.stopping import end_attempt

Notify = Callable[[str], None]

TRACKING_POLL = 0.2
"""Seconds between two looks whether training goes, and between two attempts to open MLflow then."""


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
                reopen_run(self._workspace, self._run.info.mlflow_run_id)
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
    mlflow_run_id = create_run(
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
