"""Python's search for cycles of garbage, held back where so many objects are made that stay that it takes an eighth."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (50_000, 20, 20)
"""As of `gc.set_threshold`; Python's own are 700, 10, 10."""


def collect_seldom() -> None:
    """Look for cycles less often in this process, which is about to import the large libraries."""
    gc.set_threshold(*SELDOM)


@contextmanager
def collecting_no_cycles() -> Iterator[None]:
    """Leave memory to reference counting, for work that makes no cycles."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()
