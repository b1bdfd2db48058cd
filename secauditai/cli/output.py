"""What commands print: text for people, one JSON document for machines, one progress line for long work."""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import click
from click.core import ParameterSource

from secauditai.mirror import address_of
from secauditai.progress import Progress

PLAIN_INTERVAL = 10.0
"""Seconds between progress lines when the output is not a terminal."""


class Output:
    """Where a command's words go: with `--json` stdout holds the document and nothing else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def say(self, text: str = "") -> None:
        """Print a line for people."""
        click.echo(text, err=self.as_json)

    def warn(self, text: str) -> None:
        """Print a warning on stderr."""
        click.secho(f"Warning: {text}", err=True, fg="yellow")

    def table(self, rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
        """Print aligned columns; the first is text, the others are numbers."""
        widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
        for row in [header, *rows]:
            cells = [
                str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ]
            self.say("  " + "  ".join(cells).rstrip())

    def next_step(self, *words: object) -> None:
        """Say what a user would do now: the words of a command after `secauditai`, in the workspace of this one."""
        self.say(f"Next: {shlex.join(['secauditai', *map(str, words), *_named_workspace()])}")

    def document(self, document: dict[str, Any]) -> None:
        """Print the JSON document when it was asked for."""
        if self.as_json:
            click.echo(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False))

    def progress(self) -> "ProgressLine":
        """A progress line on stderr."""
        return ProgressLine()


def _named_workspace() -> list[str]:
    """The workspace as the next command is to be given it, when it was named by its flag."""
    ctx = click.get_current_context(silent=True)
    if ctx is None or ctx.get_parameter_source("workspace") is not ParameterSource.COMMANDLINE:
        return []
    return ["--workspace", address_of(ctx.params["workspace"])]


class ProgressLine:
    """One line with rate and ETA on a terminal; a plain line now and then elsewhere. Use as a context manager."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._activity = ""
        self._started = 0.0
        self._printed = 0.0
        self._first = 0
        self._complete = False

    def __enter__(self) -> Progress:
        return self._show

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finish_line()

    def _show(self, activity: str, done: int, total: int | None, unit: str = "samples") -> None:
        now = time.monotonic()
        if activity != self._activity:
            self._finish_line()
            self._activity, self._started, self._first, self._printed = activity, now, done, now
            self._complete = False
        interval = 0.1 if self._live else PLAIN_INTERVAL
        if self._complete or (now - self._printed < interval and done != total):
            return
        if not self._live and now - self._started < PLAIN_INTERVAL:
            return
        self._printed, self._complete = now, done == total
        text = self._line(activity, done, total, unit, now - self._started)
        click.echo(f"\r\033[K{text}" if self._live else text, err=True, nl=not self._live)

    def _line(self, activity: str, done: int, total: int | None, unit: str, elapsed: float) -> str:
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        share = f"{done}/{total} {unit} ({done / total:.0%})" if total else f"{done} {unit}"
        left = f", {duration((total - done) / rate)} left" if total and rate > 0 and done < total else ""
        return f"{activity}: {share}, {rate:.1f} {unit}/s{left}"

    def _finish_line(self) -> None:
        if self._live and self._activity:
            click.echo("\r\033[K", err=True, nl=False)
        self._activity = ""


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def number(value: float | int | None) -> str:
    """A number for a table; - when undefined."""
    if value is None:
        return "-"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:.4g}"
        if abs(value) < 1e-3 or abs(value) >= 1e4
        else f"{value:.3f}"
    )
