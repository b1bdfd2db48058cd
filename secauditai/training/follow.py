"""Follow a run from its files while it trains, whichever process does the training."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from secauditai.progress import Progress
from secauditai.runs import MetricsTail, RunLayout
from secauditai.training.attempt import AttemptLayout, read_hangs

INTERVAL = 0.5
"""Seconds between two looks at the files."""


class Follower:
    """Reports the newest global step, events and hung ranks from a background thread. Use as a context manager."""

    def __init__(
        self, layout: RunLayout, total_steps: int, progress: Progress, notify: Callable[[str], None] = print
    ) -> None:
        self._tail, self._attempt = MetricsTail(layout.metrics), AttemptLayout(layout.attempt)
        self._total, self._progress, self._notify = total_steps, progress, notify
        self._announced: set[object] = set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follower", daemon=True)

    def __enter__(self) -> "Follower":
        self._announced |= {_key(record) for record in self._tail.read()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._done.wait(INTERVAL):
            self._look()

    def _look(self) -> None:
        records: list[dict[str, Any]] = self._tail.read()
        for record in records:
            if "message" in record and _key(record) not in self._announced:
                self._announced.add(_key(record))
                self._notify(f"step {record['step']}: {record['message']}")
        if records:
            self._progress("Training", int(records[-1]["step"]), self._total, "steps")
        for hang in read_hangs(self._attempt):
            if hang not in self._announced:
                self._announced.add(hang)
                self._notify(
                    f"rank {hang.index} has made no progress for {hang.seconds:.0f} s in step {hang.step}, "
                    f"at {hang.frames[0] if hang.frames else 'an unknown place'}; its log has all stacks"
                )


def _key(record: dict[str, Any]) -> object:
    """What makes an event the same one after a restart has written it again."""
    return (record["kind"], record["step"], record.get("event"), record.get("message"))
