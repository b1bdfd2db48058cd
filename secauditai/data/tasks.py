"""One function over many items: here, one after another, or as Ray Data tasks; results come in order either way."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from secauditai.errors import DataError

WARM_UP_SECONDS = 1.0

Task = Callable[[dict[str, Any]], bytes]
"""Takes plain data and returns bytes; a module's function, so that it can be sent to another process."""


@dataclass(frozen=True)
class Runner:
    """Where tasks run."""

    through_ray: bool = False
    address: str | None = None
    """The Ray cluster, when it is not this machine's."""

    def start(self) -> float:
        """Start or join Ray and its worker processes, where tasks run there; the seconds that took."""
        if not self.through_ray:
            return 0.0
        started = time.monotonic()
        self._connect()
        import ray

        processes = max(1, int(ray.cluster_resources().get("CPU", 1)))
        for _ in self._rows(_warm_up, [{}] * processes):
            pass
        return time.monotonic() - started

    def _connect(self) -> None:
        import ray.data

        from secauditai.cluster import ensure_ray, work_labels

        ensure_ray(self.address)
        context = ray.data.DataContext.get_current()
        context.execution_options.label_selector = work_labels() or None
        context.execution_options.preserve_order = True
        context.op_resource_reservation_enabled = False  # with it, Ray keeps CPUs back for other operators; we have one
        context.enable_progress_bars = False
        for handler in logging.getLogger("ray.data").handlers:
            if isinstance(handler, logging.StreamHandler):  # its words are in Ray's log files as well
                handler.setLevel(logging.ERROR)

    def map(self, task: Task, items: Sequence[dict[str, Any]]) -> Iterator[bytes]:
        """The results of all items, in order.

        Raises:
            DataError: the first one that a task raised.
        """
        if not self.through_ray or not items:
            yield from map(task, items)
            return
        for row in self._rows(task, items):
            if row["error"]:
                raise DataError(**json.loads(row["error"]))
            yield row["result"]

    def _rows(self, task: Task, items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        import ray.data

        self._connect()
        rows = [{"item": json.dumps(item)} for item in items]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        yield from dataset.map(_Guarded(task)).iter_rows()


HERE = Runner()


def _warm_up(_item: dict[str, Any]) -> bytes:
    """What a worker process is started with: it imports what any task here needs.

    It then stays for as long as another process may need to start, lest one process warms up twice and another never.
    """
    import secauditai.data.parse

    time.sleep(WARM_UP_SECONDS)
    return secauditai.data.parse.__name__.encode()


class _Guarded:
    """A task whose user errors travel as data: raised inside Ray, they would arrive as Ray's."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.__name__ = task.__name__

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"result": self._task(json.loads(row["item"])), "error": ""}
        except DataError as error:
            told = {"message": error.message, "where": error.where, "hint": error.hint}
            return {"result": b"", "error": json.dumps(told)}
