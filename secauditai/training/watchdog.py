"""Finds out that a rank makes no progress any more, writes down where it stands, and ends it."""

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

from secauditai.files import write_json
from secauditai.training.attempt import VALIDATING, AttemptLayout, Hang

logger = logging.getLogger("secauditai.training")

PATIENCE_WITH_PEERS = 1.5
"""A rank that waits for others is allowed this much more time, so that the one they wait for is found first."""
START_PATIENCE = 600.0
"""Seconds a rank may take at least before its first step: libraries, model and data are loaded."""
FRAMES = 6
"""Innermost frames that a report shows."""


def collective_timeout(hang_timeout: float) -> int:
    """Seconds after which a collective operation fails: behind the watchdog, which says more."""
    return int(max(2 * hang_timeout, START_PATIENCE)) + 60


class Pulse:
    """Signs of life of one rank: which step it works on, whether it waits for others, and when it last moved on."""

    def __init__(self, file: Path | None = None) -> None:
        self._descriptor = None if file is None else os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
        self.step, self.is_waiting, self.since = 0, False, time.monotonic()

    def begin(self, step: int, *, validating: bool = False) -> None:
        """A step begins, or the validation after it; written to the file: a killed process cannot tell any more."""
        self.step = step
        if self._descriptor is not None:
            os.pwrite(self._descriptor, b"%-12d%-10s\n" % (step, VALIDATING.encode() if validating else b""), 0)
        self.beat()

    def beat(self) -> None:
        """Something was achieved."""
        self.since = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is inside waits for other ranks."""
        self.beat()
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
            self.beat()

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)


class Watchdog:
    """A thread that looks at a pulse. Use as a context manager in the thread that trains."""

    def __init__(
        self,
        pulse: Pulse,
        timeout: float,
        log: Path,
        attempt: AttemptLayout,
        index: int,
        *,
        ends: bool,
        pass_on: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare.

        Args:
            pulse: of the rank.
            timeout: seconds without progress after which it counts as hung.
            log: the rank's log file, which gets the stacks of all threads.
            attempt: where the report goes.
            index: the rank.
            ends: whether to end the process; otherwise it only reports, once per hang.
            pass_on: called with the report written, before the process is ended.
        """
        self._pulse, self._timeout, self._path, self._attempt = pulse, timeout, log, attempt
        self._index, self._ends, self._pass_on = index, ends, pass_on
        self._done = threading.Event()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._watched = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        with self._path.open("a", encoding="utf-8") as log:
            while not self._done.wait(min(max(self._timeout / 20, 0.05), 5.0)):
                if self._ends:  # a thread that never lets go of the interpreter stops this one too, but not this timer
                    faulthandler.dump_traceback_later(2 * self._allowed(), exit=True, file=log)
                idle = time.monotonic() - self._pulse.since
                if idle > self._allowed():
                    self._report(idle, log)
            if self._ends:
                faulthandler.cancel_dump_traceback_later()

    def _allowed(self) -> float:
        """Seconds that the rank may take for what it does now."""
        if self._pulse.step == 0:
            return max(self._timeout, START_PATIENCE)
        return self._timeout * (PATIENCE_WITH_PEERS if self._pulse.is_waiting else 1.0)

    def _report(self, idle: float, log: IO[str]) -> None:
        doing = "waiting for other ranks" if self._pulse.is_waiting else "computing"
        logger.error("hung: no progress for %.1f s in step %d, %s; all stacks:", idle, self._pulse.step, doing)
        faulthandler.dump_traceback(file=log, all_threads=True)
        frame = sys._current_frames().get(self._watched)
        hang = Hang(self._index, self._pulse.step, round(idle, 1), self._pulse.is_waiting, innermost(frame))
        write_json(self._attempt.hang(self._index), asdict(hang))
        if self._ends:
            self._pass_on()
            os._exit(1)
        self._pulse.beat()


def innermost(frame: FrameType | None) -> tuple[str, ...]:
    """The innermost frames of a thread, `file:line in function`."""
    stack = traceback.extract_stack(frame) if frame is not None else []
    return tuple(f"{Path(entry.filename).name}:{entry.lineno} in {entry.name}" for entry in reversed(stack[-FRAMES:]))
