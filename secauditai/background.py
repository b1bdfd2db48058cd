"""What a thread does again and again beside the thread that asked for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(act: Callable[[], object], seconds: float, name: str) -> Iterator[None]:
    """Call a function from a thread of its own for as long as the context lasts; the last call has then ended.

    Args:
        act: the function; it raises nothing.
        seconds: before the first call, and between two of them.
        name: of the thread.
    """
    done = threading.Event()

    def go_on() -> None:
        while not done.wait(seconds):
            act()

    thread = threading.Thread(target=go_on, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
