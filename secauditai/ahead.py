"""Work done ahead, in the background, while a process has nothing to do but to wait: imports, opening a database."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_begun: dict[Callable[[], object], threading.Thread] = {}


def begin(work: Callable[[], object]) -> None:
    """Start work in a thread, unless it has been started before.

    It gives no result and is safe to do again; what goes wrong is left for whoever needs it first.
    """

    def run() -> None:
        with suppress(Exception):
            work()

    if work not in _begun:
        _begun[work] = threading.Thread(target=run, name="ahead", daemon=True)
        _begun[work].start()


def settle() -> None:
    """Return when all work that was begun has ended."""
    while _begun:
        _begun.popitem()[1].join()


@contextmanager
def settled() -> Iterator[None]:
    """Leave the block only when all work that was begun in it has ended, whatever ends the block."""
    try:
        yield
    finally:
        settle()
