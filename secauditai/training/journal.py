"""What a run writes while it trains: records, checkpoints, and metrics on their way to MLflow. Only rank 0 has one."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from secauditai.errors import RunError
from secauditai.runs import Run, RunLayout
from secauditai.training.attempt import held
from secauditai.training.checkpoint import TrainState, clear_directory
from secauditai.training.mirrored import sending
from secauditai.training.recipe import Recipe
from secauditai.training.recorder import Recorder
from secauditai.training.schedule import CheckpointClock
from secauditai.training.writer import CheckpointWriter, write_error

logger = logging.getLogger("secauditai.training")

LOCK_SECONDS = 30.0
"""How long the workers of a killed driver may outlive it."""


class Journal:
    """Writes a run's history and checkpoints; a disk that takes no more ends the run at the next step."""

    def __init__(self, recipe: Recipe, layout: RunLayout, state: TrainState) -> None:
        """Open the files of a run that goes on from a state; what came after it is cut off or set aside."""
        self._recipe, self._layout = recipe, layout
        for aside in clear_directory(layout.checkpoints, state.global_step):
            logger.warning("set a checkpoint aside that cannot be used: %s", aside)
        self._recorder = Recorder(layout.metrics, state.metrics_bytes)
        if self._recorder.lost:
            logger.warning("%d bytes of history are missing in %s", self._recorder.lost, layout.metrics)
        self._writer = CheckpointWriter(layout.checkpoints, layout.metrics, recipe.keep_checkpoints)
        self._clock = CheckpointClock(recipe.checkpoint_interval, recipe.steps_per_epoch)
        self._refused: RunError | None = None

    @property
    def failed(self) -> bool:
        """Whether something could not be written; then the run has to stop."""
        return self._refused is not None or self._writer.failed

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a record to the history."""
        try:
            self._recorder.record(kind, step, step / self._recipe.steps_per_epoch, dict(values))
        except OSError as error:
            self._refused = self._refused or write_error(
                f"the history of step {step} could not be written", error, self._layout.checkpoints
            )

    def due(self, step: int) -> bool:
        """Whether the checkpoint interval asks for a checkpoint after this step."""
        return self._clock.due(step)

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
        """Have a checkpoint of this moment written, unless something could not be written before it."""
        if self._refused is None:
            self._writer.write(model, optimizer, replace(state, metrics_bytes=self._recorder.position()))
            self._clock.saved(state.global_step)

    def settle(self) -> None:
        """Wait until all is written.

        Raises:
            RunError: when something could not be written.
        """
        self._writer.wait()
        if self._refused is not None:
            raise self._refused

    def close(self) -> None:
        """Finish the checkpoint on its way and close the files."""
        self._writer.close()
        self._recorder.close()


@contextmanager
def open_journal(recipe: Recipe, layout: RunLayout, state: TrainState) -> Iterator[Journal]:
    """The journal of a run, which no other process may train meanwhile.

    Raises:
        RunError: when one does.
    """
    with ExitStack() as stack:
        stack.enter_context(held(layout.lock, LOCK_SECONDS))
        stack.enter_context(sending(layout, state.global_step, recipe.keep_checkpoints))
        journal = Journal(recipe, layout, state)
        stack.callback(journal.close)
        stack.enter_context(_shipping(recipe, layout))
        yield journal


@contextmanager
def _shipping(recipe: Recipe, layout: RunLayout) -> Iterator[None]:
    """Send metrics to MLflow from a background thread while the run goes on."""
    if recipe.tracking_uri is None:
        yield
        return
    from secauditai.tracking.shipper import MetricShipper
    from secauditai.tracking.store import own_uri

    run = Run(layout)
    shipper = MetricShipper(own_uri(recipe.tracking_uri), lambda: run.info.mlflow_run_id, layout.metrics)
    shipper.start()
    try:
        yield
    finally:
        shipper.close(timeout=20.0)
