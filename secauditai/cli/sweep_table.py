"""How a sweep shows its trials while it runs: a live table on a terminal, a line per ended trial elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secauditai.cli.output import Output, duration, number
from secauditai.runs import RunLayout, read_metrics

if TYPE_CHECKING:
    from rich.table import Table

    from secauditai.tuning.ledger import Ledger, Trial
    from secauditai.tuning.queue import Watch

MOST_ROWS = 30


@contextmanager
def watch_sweep(out: Output) -> Iterator["Watch"]:
    """What tells a user how a sweep goes."""
    if not sys.stderr.isatty():
        yield PlainLines(out).watch
        return
    from rich.console import Console
    from rich.live import Live

    table = LiveTable()
    live = Live(
        get_renderable=table.render, console=Console(stderr=True), refresh_per_second=1, transient=True, screen=False
    )

    def watch(ledger: "Ledger", _trial: "Trial | None") -> None:
        """Show the table while trials run; before and after, the line belongs to the progress of other work."""
        table.ledger = ledger
        if any(trial.status == "running" for trial in ledger.trials):
            live.start()
        elif live.is_started:
            live.stop()

    try:
        yield watch
    finally:
        live.stop()


class PlainLines:
    """A line when a trial ends or its process dies."""

    def __init__(self, out: Output) -> None:
        self._out, self._started = out, time.monotonic()
        self._ended_before: int | None = None

    def watch(self, ledger: "Ledger", trial: "Trial | None") -> None:
        """Print the line."""
        if self._ended_before is None:
            self._ended_before = ledger.ended
        if trial is None:
            return
        best = ledger.best
        how = trial.status if trial.rung is None else f"{trial.status} at rung {trial.rung}"
        text = f"Trial {trial.trial_id} {how}: {trial.error or f'{ledger.metric} {number(trial.value)}'}"
        text += f"; {ledger.ended} of {ledger.num_samples}"
        text += f", best {number(best.value)}" if best else ""
        self._out.say(text + self._left(ledger))

    def _left(self, ledger: "Ledger") -> str:
        done = ledger.ended - (self._ended_before or 0)
        left = ledger.num_samples - ledger.ended
        return f", {duration((time.monotonic() - self._started) / done * left)} left" if done > 0 < left else ""


class LiveTable:
    """All trials, the running ones with their newest validation."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self._started = time.monotonic()

    def render(self) -> "Table":
        """The table as it is now."""
        from rich.table import Table
        from rich.text import Text

        ledger = self.ledger
        if ledger is None:
            return Table.grid()
        trials, best = ledger.trials[-MOST_ROWS:], ledger.best
        title = f"{ledger.ended} of {ledger.num_samples} trials, {duration(time.monotonic() - self._started)}"
        table = Table(title=Text(title), title_justify="left")
        keys = list(trials[0].settings) if trials else []
        for column in ("trial", *keys, ledger.metric, "step", "status"):
            table.add_column(Text(column), justify="left" if column in ("trial", "status") else "right")
        for trial in trials:
            cells = _cells(ledger, trial, keys)
            bold = best is not None and trial.trial_id == best.trial_id
            table.add_row(*map(Text, cells), style="bold" if bold else None)
        return table


def _cells(ledger: "Ledger", trial: "Trial", keys: list[str]) -> list[str]:
    value, step = trial.value, trial.step
    if trial.status == "running":
        value, step = _newest(ledger, trial)
    settings = [number(v) if isinstance(v, float) else str(v) for v in (trial.settings[key] for key in keys)]
    return [trial.trial_id, *settings, number(value), str(step), trial.status]


def _newest(ledger: "Ledger", trial: "Trial") -> tuple[float | None, int]:
    """Goal metric and global step of a running trial's newest records."""
    from secauditai.tuning.trial import read_trial_runs

    known = list(read_trial_runs(ledger.layout, trial.trial_id).values())
    if not known:
        return None, 0
    records: list[dict[str, Any]] = read_metrics(RunLayout(Path(known[-1])).metrics)
    values = [record[ledger.metric] for record in records if record["kind"] == "val" and ledger.metric in record]
    return (values[-1] if values else None), (records[-1]["step"] if records else 0)
