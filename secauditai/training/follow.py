"""Follow a run from its files while it trains, whichever process does the training."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from secauditai.background import repeating
from secauditai.progress import Progress
from secauditai.runs import MetricsTail, RunLayout
from secauditai.training.attempt import AttemptLayout, read_hangs

INTERVAL = 0.5
"""Seconds between two looks at the files."""


@contextmanager
def following(
    layout: RunLayout, total_steps: int, progress: Progress, notify: Callable[[str], None] = print
) -> Iterator[None]:
    """Report the newest global step, events and hung ranks while a run trains."""
    follower = _Follower(layout, total_steps, progress, notify)
    try:
        with repeating(follower.look, INTERVAL, "follower"):
            yield
    finally:
        follower.look()


class _Follower:
    def __init__(self, layout: RunLayout, total_steps: int, progress: Progress, notify: Callable[[str], None]) -> None:
        self._tail, self._attempt = MetricsTail(layout.metrics), AttemptLayout(layout.attempt)
        self._total, self._progress, self._notify = total_steps, progress, notify
        self._announced: set[object] = {_key(record) for record in self._tail.read()}

    def look(self) -> None:
        """Report what is new."""
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
