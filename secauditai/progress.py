"""How long work tells whoever started it how far it is.

The library calls a `Progress`; only the command line knows what a terminal is.
"""

from typing import Protocol


class Progress(Protocol):
    """Called now and then with how much of a piece of work is done."""

    def __call__(self, activity: str, done: int, total: int | None, unit: str = "samples") -> None:
        """Tell that `done` of `total` (None: not known) units of `activity` are finished."""


def silent(activity: str, done: int, total: int | None, unit: str = "samples") -> None:
    """Report nothing."""
