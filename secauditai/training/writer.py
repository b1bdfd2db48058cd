"""Checkpoints are written in the background, one after another, so that a step is not held up."""

import errno
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from secauditai.errors import RunError
from secauditai.training.checkpoint import (
    Snapshot,
    TrainState,
    newest_checkpoint,
    prune_checkpoints,
    take_snapshot,
    write_snapshot,
)

logger = logging.getLogger("secauditai.training")

FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointWriter:
    """Copies the state of training at once and writes the copy in a thread of its own.

    At most one checkpoint is on its way: the next one waits for it, which bounds memory to one copy. Once a write has
    failed nothing more is written; the loop asks `failed` before every step, and `wait` raises.
    """

    def __init__(self, directory: Path, history: Path, keep: int | None) -> None:
        """Prepare; the thread starts with the first checkpoint.

        Args:
            directory: where checkpoints are.
            history: `metrics.jsonl`, which a checkpoint counts on.
            keep: newest checkpoints to keep besides the best; None keeps all.
        """
        self._directory, self._history, self._keep = directory, history, keep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-writer")
        self._pending: Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether a write has failed."""
        return self._pending is not None and self._pending.done() and self._pending.exception() is not None

    def write(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> None:
        """Copy everything now and write it later; where training ends, write it now, which takes no more memory."""
        if self._pending is not None and self._pending.exception() is not None:  # waits for the one before
            return
        ends = state.finished or state.stopped_by is not None
        self._pending = self._thread.submit(self._write, take_snapshot(model, optimizer, state, copy=not ends))
        if ends:
            self._pending.exception()  # waits; `wait` raises

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            RunError: when a checkpoint could not be written, with the last good one named.
        """
        if self._pending is not None:
            self._pending.result()

    def close(self) -> None:
        """Finish what is on its way and end the thread, whatever comes of it."""
        self._thread.shutdown(wait=True)

    def _write(self, snapshot: Snapshot) -> None:
        name = f"checkpoint_{snapshot.step}"
        try:
            write_snapshot(self._directory, snapshot, self._history)
            logger.info("wrote %s", name)
            if self._keep:
                prune_checkpoints(self._directory, self._keep)
        except (OSError, SafetensorError) as error:
            raise write_error(f"{name} could not be written", error, self._directory) from None


def write_error(what: str, error: Exception, checkpoints: Path) -> RunError:
    """The error of a run whose files could not be written, with the last good checkpoint named."""
    full = getattr(error, "errno", None) in FULL or any(f"os error {number}" in str(error) for number in FULL)
    return RunError(
        f"{what}: {'the disk is full' if full else error}",
        where=str(checkpoints.parent),
        hint=f"The last good checkpoint is {name_of_newest(checkpoints)}. "
        f"{'Free some space' if full else 'Mend that'}, then use `secauditai train resume`.",
    )


def name_of_newest(checkpoints: Path, until: int | None = None) -> str:
    """The name of the newest checkpoint that is whole, for an error message; of those until a step if there is one."""
    try:
        newest = newest_checkpoint(checkpoints, logger.warning, until)
    except RunError:
        newest = None
    return newest.root.name if newest else "none"
