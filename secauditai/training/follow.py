"""Follow a run from its metrics file while it trains, whichever process does the training."""

import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from secauditai.progress import Progress
from secauditai.runs import MetricsTail

INTERVAL = 0.5
"""Seconds between two looks at the file."""


class Follower:
    """Reports the newest global step to a `Progress` from a background thread. Use as a context manager."""

    def __init__(self, metrics: Path, total_steps: int, progress: Progress) -> None:
        self._tail, self._total, self._progress = MetricsTail(metrics), total_steps, progress
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._done.wait(INTERVAL):
            records: list[dict[str, Any]] = self._tail.read()
            if records:
                self._progress("Training", int(records[-1]["step"]), self._total, "steps")
