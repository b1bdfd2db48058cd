"""When a checkpoint is due."""

import time

FIVE_MINUTES = 300.0


class CheckpointClock:
    """Every `interval` steps; without one, at each epoch's end or after five minutes, whichever is first.

    It only decides when files are written, never what is computed, so the leading rank alone asks it.
    """

    def __init__(self, interval: int | None, steps_per_epoch: int) -> None:
        self._interval = interval
        self._steps_per_epoch = steps_per_epoch
        self._last = time.monotonic()
        self._last_step = -1

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after this step."""
        if step == self._last_step:
            return False
        if self._interval is not None:
            return step % self._interval == 0
        return step % self._steps_per_epoch == 0 or time.monotonic() - self._last >= FIVE_MINUTES

    def saved(self, step: int) -> None:
        """Note that a checkpoint was written, for whatever reason."""
        self._last, self._last_step = time.monotonic(), step
