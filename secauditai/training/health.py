"""Watches a run for what spoils it: steps that are not finite, exploding gradients, collapse to one class.

Every rank decides from the same all-reduced numbers and from a state that is part of the checkpoint, so that all
ranks agree and a resumed run decides as an undisturbed one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.config.settings import HealthSettings
from secauditai.errors import RunError

WINDOW = 100
"""Steps that the usual gradient norm is taken from, and within which spikes are counted."""
MIN_NORMS = 10
"""Norms that must be known before one can stand out."""
SIGMAS, FACTOR = 6.0, 10.0
"""A spike is both: this many robust standard deviations of the log norm above its median, and this many times it."""
COLLAPSED, BALANCED = 0.99, 0.9
"""A class is collapsed onto when it has this share of the decisions and less than that share of the labels."""
MANY_OTHERS = 20
"""Samples of other labels of which a model that has not collapsed decides one, however rare they are."""
SHOWN_SAMPLES = 8
LOWER = "Start a new run with a lower --learning-rate or --gradient-clip."
NON_FINITE = "non_finite"
"""The event of a loss, a gradient or outputs that are no numbers."""


@dataclass(frozen=True)
class HealthState:
    """What the watch remembers; plain values, saved in every checkpoint."""

    skipped: int = 0
    """Steps in a row that were skipped because they were not finite."""
    log_norms: Sequence[float] = ()
    """Natural logarithms of the newest finite gradient norms."""
    spikes: Sequence[int] = ()
    """Steps of the newest spikes."""
    collapsed: Mapping[str, int] = field(default_factory=dict)
    """Validations in a row in which a task's decisions were all of one class."""


@dataclass(frozen=True)
class Decided:
    """The class that one task's decisions fell on most often."""

    label: str
    decided_share: float
    """Of all decisions."""
    true_share: float
    """Of all labels."""
    others: int
    """Samples with another label."""

    @property
    def is_collapse(self) -> bool:
        """Whether the data alone does not explain it."""
        too_many = self.decided_share >= COLLAPSED and self.true_share < BALANCED
        return too_many or (self.decided_share == 1.0 and self.others >= MANY_OTHERS)


@dataclass(frozen=True)
class Finding:
    """Something that went wrong."""

    event: str
    """non_finite | spike | collapse | undefined_metric"""
    message: str
    values: dict[str, Any]
    stop: str | None = None
    """What is wrong, when the run must not go on."""
    advice: str = ""

    def record(self) -> dict[str, Any]:
        """The values of its record in `metrics.jsonl`."""
        return {"event": self.event, "message": self.message, **self.values}

    def error(self, last_checkpoint: str) -> RunError:
        """The error that ends the run."""
        samples = self.values.get("samples", [])
        more = " …" if len(samples) > SHOWN_SAMPLES else ""
        return RunError(
            self.stop or self.message,
            where=f"samples {', '.join(samples[:SHOWN_SAMPLES])}{more}" if samples else None,
            hint=f"{self.advice} The last good checkpoint is {last_checkpoint}.",
        )


class Health:
    """Judges each step and each validation of a run by its policies."""

    def __init__(self, policies: HealthSettings, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint; an empty one is a fresh start."""
        self.policies = policies
        self._state = HealthState(**state)

    @property
    def skipped(self) -> int:
        """The newest steps in a row that were skipped because they were not finite."""
        return self._state.skipped

    def state(self) -> dict[str, Any]:
        """A copy of what it remembers, for the checkpoint."""
        return asdict(self._state)

    def accepts(self, loss: float, norm: float) -> bool:
        """Whether a step with this loss and gradient norm (before clipping) may change the weights."""
        if not _finite(loss, norm):
            return False
        return self.policies.on_spike == "warn" or not self._spikes(norm)

    def after_step(self, step: int, loss: float, norm: float, samples: Callable[[], list[str]]) -> Finding | None:
        """Take note of a step.

        Args:
            step: the global step.
            loss: of the step.
            norm: of its gradient, before clipping.
            samples: tells the ids of its batch; only asked when something is found.
        """
        if not _finite(loss, norm):
            self._change(skipped=self._state.skipped + 1)
            return self._non_finite(step, loss, norm, samples())
        finding = None
        if self._spikes(norm):
            recent = [number for number in self._state.spikes if number > step - WINDOW]
            self._change(spikes=[*recent, step])
            finding = self._spike(step, norm, samples())
        log_norms = [*self._state.log_norms, math.log(max(norm, 1e-30))][-WINDOW:]
        self._change(skipped=0, log_norms=log_norms)
        return finding

    def after_validation(self, step: int, decided: Mapping[str, Decided]) -> list[Finding]:
        """Take note of the decisions that a validation made, by task."""
        counts = {task: self._state.collapsed.get(task, 0) + 1 for task, most in decided.items() if most.is_collapse}
        self._change(collapsed=counts)
        due = [task for task, count in counts.items() if count == self.policies.collapse_validations]
        return [self._collapse(step, task, decided[task]) for task in due]

    def _change(self, **values: Any) -> None:
        self._state = HealthState(**{**vars(self._state), **values})

    def _spikes(self, norm: float) -> bool:
        known = np.asarray(self._state.log_norms)
        if len(known) < MIN_NORMS:
            return False
        middle = float(np.median(known))
        sigma = 1.4826 * float(np.median(np.abs(known - middle)))  # of a normal distribution, by its median deviation
        return math.log(max(norm, 1e-30)) - middle > max(SIGMAS * sigma, math.log(FACTOR))

    def _non_finite(self, step: int, loss: float, norm: float, samples: list[str]) -> Finding:
        skipped = self._state.skipped
        values = {"loss": str(loss), "gradient_norm": str(norm), "skipped": skipped, "samples": samples}
        stop = f"the loss was not finite in {skipped} steps in a row, the last one step {step}"
        return Finding(
            NON_FINITE,
            f"skipped, because the loss ({loss:g}) or the gradient norm ({norm:g}) is not finite",
            values,
            stop if skipped > self.policies.max_skipped else None,
            LOWER,
        )

    def _spike(self, step: int, norm: float, samples: list[str]) -> Finding:
        usual = math.exp(float(np.median(np.asarray(self._state.log_norms))))
        policy, count = self.policies.on_spike, len(self._state.spikes)
        told = f"the gradient norm, {norm:.3g}, is {norm / usual:.0f} times its usual {usual:.3g}"
        stop = None
        if policy == "stop":
            stop = f"{told}, in step {step}"
        elif count > self.policies.max_spikes:
            stop = f"gradients explode: {count} spikes of their norm within {WINDOW} steps, the last one in step {step}"
        values = {"gradient_norm": norm, "usual_gradient_norm": usual, "spikes": count, "samples": samples}
        message = told if policy == "warn" else f"skipped, because {told}"
        advice = f"{LOWER.rstrip('.')}, or a higher --warmup-ratio."
        return Finding("spike", message, values, stop, advice)

    def _collapse(self, step: int, task: str, most: Decided) -> Finding:
        count = self.policies.collapse_validations
        told = (
            f"the model has collapsed to one class: in {count} validations in a row {most.decided_share:.0%} of the "
            f"decisions were {most.label}, which {most.true_share:.0%} of the samples are ({task})"
        )
        stop = f"{told}, at step {step}" if self.policies.on_collapse == "stop" else None
        values = {"task": task, "label": most.label, "share": most.decided_share, "true_share": most.true_share}
        advice = (
            "In a new run, lower --learning-rate, raise --warmup-ratio, or use --sampling balanced or "
            "--class-weights balanced."
        )
        return Finding("collapse", f"{told}. {advice}" if stop is None else told, values, stop, advice)


def most_decided(targets: npt.NDArray[np.int64], decisions: npt.NDArray[np.int64], labels: Sequence[str]) -> Decided:
    """The label that most decisions fell on.

    Args:
        targets: (samples,) true label numbers.
        decisions: (samples,) decided label numbers.
        labels: names by number.
    """
    counts = np.bincount(decisions, minlength=len(labels))
    most, total = int(counts.argmax()), max(1, len(decisions))
    matching = int((targets == most).sum())
    return Decided(labels[most], float(counts[most] / total), matching / total, len(targets) - matching)


def non_finite_validation(step: int, samples: list[str]) -> Finding:
    """What is found when a validation's numbers are not finite: the weights are of no use from here on."""
    told = f"the model's outputs on the validation split are not finite after step {step}"
    values = {"samples": samples}
    return Finding(NON_FINITE, told, values, told, LOWER)


def _finite(loss: float, norm: float) -> bool:
    return math.isfinite(loss) and math.isfinite(norm)
