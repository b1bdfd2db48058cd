"""Metrics of classification: additive counts, ranking metrics, calibration, and intervals by cluster bootstrap.

A metric that is undefined for the data at hand (one class only, nothing predicted positive and nothing to find) is
None, never 0 and never NaN. Formulas follow scikit-learn's user guide, section 3.4, unless said otherwise.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.errors import ConfigError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Number = float | None
ECE_BINS = 10


@dataclass(frozen=True)
class Scores:
    """What metrics are computed from; samples whose true label is unknown are not in it."""

    targets: Int64
    """(samples,) true label numbers."""
    decisions: Int64
    """(samples,) decided label numbers."""
    probabilities: Float64
    """(samples, labels)"""
    weights: Float64 | None = None
    """(samples,) how often each sample counts; the bootstrap resamples with it."""

    @property
    def n_labels(self) -> int:
        """Labels told apart; with two, label 1 is the positive one."""
        return int(self.probabilities.shape[1])

    def confusion(self) -> Float64:
        """(labels, labels) counts: row true, column decided. Counts of disjoint samples add up."""
        counts = np.zeros((self.n_labels, self.n_labels))
        np.add.at(counts, (self.targets, self.decisions), 1.0 if self.weights is None else self.weights)
        return counts


def accuracy(scores: Scores) -> Number:
    """Share of right decisions."""
    counts = scores.confusion()
    return _ratio(np.trace(counts), counts.sum())


def precision(scores: Scores) -> Number:
    """Share of right ones among those called positive; the mean over present labels with more than two."""
    counts = scores.confusion()
    if scores.n_labels == 2:
        return _ratio(counts[1, 1], counts[:, 1].sum())
    return _macro(counts, lambda label: _ratio(counts[label, label], counts[:, label].sum()))


def recall(scores: Scores) -> Number:
    """Share of the positives that were found; the mean over present labels with more than two."""
    counts = scores.confusion()
    if scores.n_labels == 2:
        return _ratio(counts[1, 1], counts[1].sum())
    return balanced_accuracy(scores)


def f1(scores: Scores) -> Number:
    """Harmonic mean of precision and recall of the positive label; with more than two labels, macro F1."""
    counts = scores.confusion()
    if scores.n_labels == 2:
        return _f1(counts, 1)
    return macro_f1(scores)


def macro_f1(scores: Scores) -> Number:
    """Mean F1 over the labels that occur."""
    counts = scores.confusion()
    return _macro(counts, lambda label: _f1(counts, label))


def specificity(scores: Scores) -> Number:
    """Share of the negatives that were left alone; for two labels."""
    counts = scores.confusion()
    return _ratio(counts[0, 0], counts[0].sum()) if scores.n_labels == 2 else None


def balanced_accuracy(scores: Scores) -> Number:
    """Mean recall over the labels that occur."""
    counts = scores.confusion()
    return _macro(counts, lambda label: _ratio(counts[label, label], counts[label].sum()))


def mcc(scores: Scores) -> Number:
    """Matthews correlation coefficient, for any number of labels (Gorodkin 2004)."""
    counts = scores.confusion()
    total, right = counts.sum(), np.trace(counts)
    true, decided = counts.sum(axis=1), counts.sum(axis=0)
    spread = (total**2 - (decided**2).sum()) * (total**2 - (true**2).sum())
    return float((right * total - (true * decided).sum()) / np.sqrt(spread)) if spread > 0 else None


def roc_auc(scores: Scores) -> Number:
    """Chance that a positive scores above a negative, ties half; the mean over labels against the rest."""
    return _per_label(scores, _binary_auc)


def average_precision(scores: Scores) -> Number:
    """Area under precision over recall, not interpolated; the mean over labels against the rest."""
    return _per_label(scores, _binary_average_precision)


def loss(scores: Scores) -> Number:
    """Mean negative log likelihood of the true label, in nats."""
    chosen = scores.probabilities[np.arange(len(scores.targets)), scores.targets]
    return _mean(-np.log(np.clip(chosen, 1e-12, 1.0)), scores.weights)


def brier(scores: Scores) -> Number:
    """Mean squared error of the probabilities; for two labels that of the positive one."""
    if scores.n_labels == 2:
        return _mean((scores.probabilities[:, 1] - scores.targets) ** 2, scores.weights)
    errors = scores.probabilities - np.eye(scores.n_labels)[scores.targets]
    return _mean((errors**2).sum(axis=1), scores.weights)


def ece(scores: Scores) -> Number:
    """Expected calibration error over ten equal bins of confidence (arXiv 1706.04599)."""
    if len(scores.targets) == 0:
        return None
    confidence = scores.probabilities.max(axis=1)
    right = scores.probabilities.argmax(axis=1) == scores.targets
    weights = np.ones(len(right)) if scores.weights is None else scores.weights
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights * (right - confidence), ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum()) if weights.sum() else None


@dataclass(frozen=True)
class Metric:
    """One metric by name."""

    name: str
    compute: Callable[[Scores], Number]
    higher_is_better: bool = True
    two_labels_only: bool = False
    """Whether it is undefined with more."""

    @property
    def help(self) -> str:
        """What it is, in a sentence."""
        return (self.compute.__doc__ or "").splitlines()[0]


METRICS = {
    metric.name: metric
    for metric in (
        *(Metric(f.__name__, f) for f in (accuracy, precision, recall, f1, macro_f1, mcc, roc_auc, average_precision)),
        *(Metric(f.__name__, f, two_labels_only=f is specificity) for f in (balanced_accuracy, specificity)),
        *(Metric(f.__name__, f, higher_is_better=False) for f in (loss, brier, ece)),
    )
}


def resolve_metrics(wanted: str | None, where: str = "--metrics") -> tuple[str, ...]:
    """The metrics of a comma-separated list, in its order; all of them for None.

    Args:
        wanted: the list.
        where: the flag that an error names.

    Raises:
        ConfigError: for an unknown name, with the nearest ones.
    """
    if wanted is None:
        return tuple(METRICS)
    names = tuple(dict.fromkeys(name.strip().lower().replace("-", "_") for name in wanted.split(",") if name.strip()))
    for name in names:
        if name not in METRICS:
            close = difflib.get_close_matches(name, METRICS, n=3)
            hint = f"Did you mean {' or '.join(close)}?" if close else f"There are {', '.join(METRICS)}."
            raise ConfigError(f"unknown metric {name!r}", where=where, hint=hint)
    if not names:
        raise ConfigError("no metric is named", where=where, hint=f"There are {', '.join(METRICS)}.")
    return names


def compute_metrics(scores: Scores, names: Sequence[str]) -> dict[str, Number]:
    """The named metrics."""
    return {name: METRICS[name].compute(scores) for name in names}


def fit_threshold(targets: Int64, probabilities: Float64) -> float:
    """The threshold on the positive's probability with the highest F1; the middle between two scores, 0.5 if undefined.

    Args:
        targets: (samples,) 0 or 1.
        probabilities: (samples,) probability of label 1.
    """
    if len(set(targets.tolist())) < 2:
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked, hits = probabilities[order], np.cumsum(targets[order])
    called = np.arange(1, len(ranked) + 1)
    score = 2 * hits / (called + targets.sum())
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    best = int(np.argmax(np.where(last_of_tie, score, -1.0)))
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float(np.clip((ranked[best] + below) / 2, 1e-6, 1 - 1e-6))


def fit_temperature(targets: Int64, logits: Float64) -> float:
    """The temperature between 0.05 and 20 with the least negative log likelihood (arXiv 1706.04599), by golden section.

    Args:
        targets: (samples,) label numbers.
        logits: (samples, labels).
    """
    if len(targets) == 0:
        return 1.0

    def cost(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        shifted = scaled - scaled.max(axis=1, keepdims=True)
        norms = np.log(np.exp(shifted).sum(axis=1))
        return float((norms - shifted[np.arange(len(targets)), targets]).mean())

    low, high, ratio = np.log(0.05), np.log(20.0), (np.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if cost(left) <= cost(right) else (left, high)
    return float(np.exp((low + high) / 2))


def cluster_bootstrap(
    scores: Scores, clusters: Sequence[str], names: Sequence[str], *, n: int = 500, seed: int = 0
) -> dict[str, tuple[float, float] | None]:
    """95 % percentile intervals from resampling whole clusters (Field & Welsh 2007), since members are not independent.

    Args:
        scores: all samples.
        clusters: (samples,) cluster of each.
        names: metrics.
        n: resamples.
        seed: of the resampling.
    """
    _, members = np.unique(np.asarray(clusters), return_inverse=True)
    count = int(members.max()) + 1 if len(members) else 0
    random = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(n if count > 1 else 0):
        times = np.bincount(random.integers(0, count, count), minlength=count)
        resampled = Scores(scores.targets, scores.decisions, scores.probabilities, times[members].astype(np.float64))
        for name, value in compute_metrics(resampled, names).items():
            if value is not None:
                draws[name].append(value)
    return {
        name: (float(np.percentile(values, 2.5)), float(np.percentile(values, 97.5))) if values else None
        for name, values in draws.items()
    }


def _ratio(part: float, whole: float) -> Number:
    return float(part / whole) if whole > 0 else None


def _f1(counts: Float64, label: int) -> Number:
    return _ratio(2 * counts[label, label], counts[label].sum() + counts[:, label].sum())


def _macro(counts: Float64, metric: Callable[[int], Number]) -> Number:
    """Mean over labels that occur; a label that occurs but is never decided counts 0."""
    present = [label for label in range(len(counts)) if counts[label].sum() > 0]
    return sum(metric(label) or 0.0 for label in present) / len(present) if present else None


def _mean(values: npt.NDArray[np.floating[Any]], weights: Float64 | None) -> Number:
    if len(values) == 0 or (weights is not None and weights.sum() == 0):
        return None
    return float(np.average(values, weights=weights))


def _per_label(scores: Scores, metric: Callable[[npt.NDArray[np.bool_], Float64, Float64], Number]) -> Number:
    weights = np.ones(len(scores.targets)) if scores.weights is None else scores.weights
    if scores.n_labels == 2:
        return metric(scores.targets == 1, scores.probabilities[:, 1], weights)
    values = [
        metric(scores.targets == label, scores.probabilities[:, label], weights) for label in range(scores.n_labels)
    ]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _binary_auc(positive: npt.NDArray[np.bool_], values: Float64, weights: Float64) -> Number:
    """Weighted Mann-Whitney statistic."""
    _, group = np.unique(values, return_inverse=True)
    if len(values) == 0:
        return None
    positives = np.bincount(group, weights * positive)
    negatives = np.bincount(group, weights * ~positive)
    pairs = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs) if pairs > 0 else None


def _binary_average_precision(positive: npt.NDArray[np.bool_], values: Float64, weights: Float64) -> Number:
    if len(values) == 0:
        return None
    _, group = np.unique(-values, return_inverse=True)
    hits = np.bincount(group, weights * positive)
    found, called = np.cumsum(hits), np.cumsum(np.bincount(group, weights))
    if found[-1] <= 0:
        return None
    return float((hits * found / np.where(called > 0, called, 1.0)).sum() / found[-1])
