"""Work done ahead, in the background, while a process has nothing to do but to wait: imports, opening a database."""

import threading
from collections.abc import Callable

_begun: dict[Callable[[], object], threading.Thread] = {}


def begin(work: Callable[[], object]) -> None:
    """Start work in a thread, unless it has been started before. It must need no result and be safe to do again."""
    if work not in _begun:
        _begun[work] = threading.Thread(target=work, name="ahead", daemon=True)
        _begun[work].start()


def settle() -> None:
    """Return when all work that was begun has ended."""
    while _begun:
        _begun.popitem()[1].join()
