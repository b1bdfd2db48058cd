"""Which trial is next: new ones from the sampler, those to go on with, those whose process died; all in the ledger."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from secauditai.errors import ClusterError
from secauditai.mirror import located, try_send
from secauditai.tuning.ledger import FAILED, INTERRUPTED, RUNNING, Ledger, Trial, TrialRun
from secauditai.tuning.samplers import choose_settings
from secauditai.tuning.trial import TrialOutcome, fetch_trial_runs, read_trial_runs

PAUSE = 3.0
"""Seconds between two tries to reach a store that is away."""
Watch = Callable[[Ledger, Trial | None], None]
"""Told after each change; with the trial when one has ended or died."""


class TrialQueue:
    """Hands out trials and writes down what became of them. One thread uses it."""

    def __init__(
        self, ledger: Ledger, *, max_concurrent: int, max_failures: int, deadline: float | None, watch: Watch
    ) -> None:
        """Take up a sweep where its ledger stands.

        Args:
            ledger: the sweep.
            max_concurrent: trials at a time.
            max_failures: deaths and interruptions of one trial that are survived.
            deadline: `time.monotonic()` after which no trial goes on.
            watch: told after each change.
        """
        self.ledger, self.deadline, self._watch = ledger, deadline, watch
        self.max_concurrent, self._max_failures = max_concurrent, max_failures
        self._waiting = [trial.trial_id for trial in ledger.trials if trial.status in (RUNNING, INTERRUPTED)]
        self._running: set[str] = set()
        self._losses = Counter[str]()
        self._asked = len(ledger.trials)
        self._stop_sent, self._try_again = False, 0.0
        self.stopped_for: str | None = None
        """Why the sweep ends before its last trial."""

    @property
    def exhausted(self) -> bool:
        """Whether no trial runs, and none will."""
        return not self._running and (self._none_left or self.stopped_for is not None)

    @property
    def has_spare_slot(self) -> bool:
        """Whether fewer trials run than could, and no other will be handed out."""
        return self._none_left and self.stopped_for is None and len(self._running) < self.max_concurrent

    @property
    def _none_left(self) -> bool:
        return not self._waiting and self._asked >= self.ledger.num_samples

    def next(self) -> Trial | None:
        """The next trial to run; None when none may start now, as while the ledger that names it cannot be sent."""
        if self.stopped_for is not None or len(self._running) >= self.max_concurrent or self._pausing():
            return None
        if self._waiting:
            trial = replace(self.ledger.trial(self._waiting.pop(0)), status=RUNNING)
        elif self._asked < self.ledger.num_samples:
            trial = self._ask()
        else:
            return None
        self.ledger.put(trial)
        if self.ledger.unsent:
            self._waiting.insert(0, trial.trial_id)
            self._try_again = time.monotonic() + PAUSE
            return None
        self._running.add(trial.trial_id)
        self._watch(self.ledger, None)
        return trial

    def _ask(self) -> Trial:
        ledger, number = self.ledger, self._asked
        self._asked += 1
        settings = choose_settings(ledger.sampler, ledger.spaces, ledger.seed, number, ledger)
        return Trial(f"{number:04d}", settings)

    def stop(self, reason: str) -> None:
        """Start nothing more, and ask the running trials to stop after their next validation.

        Signals call this: in a remote workspace, `look` is what asks trials on other machines.
        """
        if self.stopped_for is None:
            self.stopped_for = reason
            self.ledger.layout.stop.write_text(reason, encoding="utf-8")

    def look(self) -> None:
        """Stop when the time budget is used up, and let other machines know of a stop; called again and again."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.stop("the time budget is used up")
        if self.stopped_for is not None and not self._stop_sent and not self._pausing():
            self._stop_sent = try_send(self.ledger.layout.stop)
            self._try_again = time.monotonic() + PAUSE

    def _pausing(self) -> bool:
        return time.monotonic() < self._try_again

    def note_outcome(self, trial_id: str, outcome: TrialOutcome) -> None:
        """Write down what a trial reported."""
        trial = self.ledger.trial(trial_id)
        home = self.ledger.path
        trained = [TrialRun(**{**run, "run_dir": located(run["run_dir"], home)}) for run in outcome.seeds]
        seeds = tuple({run.seed: run for run in (*trial.seeds, *trained)}.values())  # cut off, it trains fewer again
        trial = replace(
            trial,
            status=outcome.status,
            value=mean_value(seeds),
            run_dir=_best_run(seeds, higher_is_better=self.ledger.higher_is_better),
            error=outcome.error,
            error_kind=outcome.error_kind,
            seconds=trial.seconds + outcome.seconds,
            step=seeds[0].step if seeds else 0,
            rung=outcome.rung,
            seeds=seeds,
        )
        if trial.status == INTERRUPTED and self.stopped_for is None:
            trial = self._after_interruption(trial)
        self._end(trial)

    def _after_interruption(self, trial: Trial) -> Trial:
        """Try a trial again that ended though the sweep goes on; after too many times only `--resume` does."""
        trial = replace(
            self._lost(trial),
            error=trial.error or "its process was asked to stop",
            error_kind=trial.error_kind or "TrialStopped",
        )
        if self._losses[trial.trial_id] <= self._max_failures:
            self._waiting.append(trial.trial_id)
        return trial

    def _lost(self, trial: Trial) -> Trial:
        """Count a loss: the ledger has them all, the budget is for those since the sweep was started or resumed."""
        self._losses[trial.trial_id] += 1
        return replace(trial, deaths=trial.deaths + 1)

    def note_death(self, trial_id: str, reason: str) -> None:
        """Try a trial again whose process died, from its newest checkpoint, unless it has died too often."""
        trial = self._lost(self.ledger.trial(trial_id))
        if self.stopped_for is not None or self._losses[trial_id] <= self._max_failures:
            self._waiting.append(trial_id)
            self._end(replace(trial, status=INTERRUPTED, error=reason, error_kind="TrialDied"))
            return
        often = f"it was cut off {trial.deaths} times, the last time its process died: {reason}"
        self._end(replace(trial, status=FAILED, error=often, error_kind="TrialDied"))

    def note_failure(self, trial_id: str, kind: str, reason: str) -> None:
        """Write down a failure that trying again would not mend."""
        self._end(replace(self.ledger.trial(trial_id), status=FAILED, error=reason, error_kind=kind))

    def _end(self, trial: Trial) -> None:
        self._running.discard(trial.trial_id)
        if trial.run_dir is None:
            with suppress(ClusterError):  # what this machine knows may do
                fetch_trial_runs(self.ledger.layout, trial.trial_id, patience=0.0)
            known = read_trial_runs(self.ledger.layout, trial.trial_id)
            trial = replace(trial, run_dir=next(iter(known.values()), None))
        self.ledger.put(trial)
        self._watch(self.ledger, trial)


def mean_value(seeds: tuple[TrialRun, ...]) -> float | None:
    """The mean over seeds; None when one of them has none."""
    values = [run.value for run in seeds]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _best_run(seeds: tuple[TrialRun, ...], *, higher_is_better: bool) -> str | None:
    known = [run for run in seeds if run.value is not None]
    sign = 1.0 if higher_is_better else -1.0
    best = max(known, key=lambda run: sign * (run.value or 0.0), default=None)
    return best.run_dir if best else None
