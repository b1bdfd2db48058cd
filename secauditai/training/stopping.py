"""Requests to stop: a signal or a preemption notice ends training after the step, with a checkpoint.

Whoever is asked writes a marker into the run directory; rank 0 looks at it once per step, every rank at its own
process, and the all-reduce of the step makes all ranks agree.
"""

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

from secauditai.errors import SecAuditError
from secauditai.files import write_json
from secauditai.training.attempt import AttemptLayout, write_failure

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_signalled = threading.Event()
"""Set in a Ray worker that was sent SIGTERM; its training runs in another thread."""
_training = threading.Event()
"""Set while this process trains, so that a later SIGTERM means what it always does."""


@dataclass(frozen=True)
class StopRequest:
    """Why training should stop."""

    reason: str
    preempted: bool = False
    """Whether the node goes away, so that training should go on elsewhere."""


class StoppedBeforeTraining(BaseException):
    """Asked to stop while no rank was training yet: there is nothing to wait for."""


def request_stop(layout: AttemptLayout, request: StopRequest) -> None:
    """Ask all ranks to stop after the step."""
    write_json(layout.stop, asdict(request))


def read_stop(layout: AttemptLayout) -> StopRequest | None:
    """The request to stop, if there is one."""
    try:
        return StopRequest(**json.loads(layout.stop.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def end_attempt(layout: AttemptLayout, error: SecAuditError) -> None:
    """End an attempt for a user's error met outside the ranks: they stop after the step, with a checkpoint.

    `launch` then raises the error.
    """
    write_failure(layout, error)
    request_stop(layout, StopRequest(error.message))


class StopCheck:
    """Asked by a rank once per step."""

    def __init__(self, layout: AttemptLayout, index: int, preempted: Callable[[], bool]) -> None:
        self._layout, self._index, self._preempted = layout, index, preempted
        self._told = False

    def wanted(self) -> bool:
        """Whether this rank knows of a reason to stop."""
        if not self._told and _signalled.is_set():
            self._tell(StopRequest(f"SIGTERM to rank {self._index}"))
        if not self._told and self._preempted():
            self._tell(StopRequest("the node is going away", preempted=True))
        return self._told or (self._index == 0 and self._layout.stop.exists())

    def _tell(self, request: StopRequest) -> None:
        self._told = True
        if read_stop(self._layout) is None:
            request_stop(self._layout, request)


@contextmanager
def stop_check(layout: AttemptLayout, index: int, preempted: Callable[[], bool]) -> Iterator[StopCheck]:
    """Listen to requests while this process trains."""
    _training.set()
    try:
        yield StopCheck(layout, index, preempted)
    finally:
        _training.clear()
        _signalled.clear()


def listen_in_worker() -> None:
    """Turn SIGTERM into a request while a Ray worker trains; must run in the worker's main thread."""
    before = signal.getsignal(signal.SIGTERM)

    def request(number: int, frame: FrameType | None) -> None:
        if _training.is_set() and not _signalled.is_set():
            _signalled.set()
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, request)


@contextmanager
def listen_in_driver(layout: AttemptLayout, notify: Callable[[str], None]) -> Iterator[list[StopRequest]]:
    """Turn SIGTERM and SIGINT into a request, where this thread may; the second signal acts at once.

    Yields:
        The requests so far.

    Raises:
        StoppedBeforeTraining: inside, when no rank is training yet.
    """
    asked: list[StopRequest] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

    def request(number: int, _frame: object) -> None:
        for each, action in before.items():
            signal.signal(each, action)
        name = signal.Signals(number).name
        asked.append(StopRequest(name))
        request_stop(layout, asked[0])
        if not layout.ready.exists():
            raise StoppedBeforeTraining
        notify(f"{name}: training stops after this step, with a checkpoint; once more ends it at once")

    for number in before:
        signal.signal(number, request)
    try:
        yield asked
    finally:
        for number, action in before.items():
            signal.signal(number, action)
