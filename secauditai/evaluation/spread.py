"""What the folds of a cross-validation say together: mean, spread, and metrics of all out-of-fold decisions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from secauditai.metrics import Scores, cluster_bootstrap, compute_metrics
from secauditai.models.predict import DETECTION

DECISION_METRICS = ("accuracy", "precision", "recall", "f1", "macro_f1", "mcc", "balanced_accuracy")
"""Metrics that need decisions only; of several classes, folds may know different ones, so that is all they share."""


def spread(folds: Sequence[Mapping[str, float | None]]) -> dict[str, dict[str, Any]]:
    """Mean, standard deviation and 95 % interval of every metric over folds.

    The interval is Student's with the variance of Nadeau & Bengio (2003), since the training sets of folds overlap:
    s² (1/k + 1/(k - 1)). Folds in which a metric is undefined are left out of it.
    """
    from scipy.stats import t

    found: dict[str, dict[str, Any]] = {}
    for name in folds[0] if folds else ():
        values = np.array([value for fold in folds if (value := fold.get(name)) is not None])
        n = len(values)
        mean = float(values.mean()) if n else None
        deviation = float(values.std(ddof=1)) if n > 1 else None
        interval = None
        if mean is not None and deviation is not None:
            half = float(t.ppf(0.975, n - 1)) * deviation * math.sqrt(1 / n + 1 / (n - 1))
            interval = [mean - half, mean + half]
        found[name] = {"mean": mean, "std": deviation, "interval": interval, "folds": n}
    return found


def differences(
    folds: Sequence[Mapping[str, float | None]], rival: Sequence[Mapping[str, float | None]]
) -> list[dict[str, float | None]]:
    """Fold by fold, how much more than a rival's each metric is."""
    return [
        {
            name: value - other if value is not None and (other := theirs.get(name)) is not None else None
            for name, value in ours.items()
        }
        for ours, theirs in zip(folds, rival, strict=True)
    ]


def pooled(predictions: pa.Table, clusters: Sequence[str], task: str, metrics: Sequence[str]) -> dict[str, Any]:
    """Metrics of the out-of-fold decisions of all samples together, with intervals that resample whole clusters.

    Args:
        predictions: id, label, decision, score of every sample, each from the fold that held it out.
        clusters: (samples,) cluster of each.
        task: the main task.
        metrics: names from `metrics.METRICS`; those that need more than decisions are for detection only.
    """
    true, decided = predictions.column("label").to_pylist(), predictions.column("decision").to_pylist()
    if task == DETECTION:
        labels = ["safe", "vulnerability"]
        positive = predictions.column("score").to_numpy().astype(np.float64)
        probabilities = np.stack([1.0 - positive, positive], axis=1)
        names = tuple(metrics)
    else:
        labels = sorted(set(true) | set(decided))
        probabilities = np.eye(len(labels))[[labels.index(label) for label in decided]]
        names = tuple(name for name in metrics if name in DECISION_METRICS)
    numbers = {label: number for number, label in enumerate(labels)}
    scores = Scores(
        np.array([numbers[label] for label in true]), np.array([numbers[label] for label in decided]), probabilities
    )
    intervals = cluster_bootstrap(scores, clusters, names)
    return {
        "n": len(true),
        "metrics": compute_metrics(scores, names),
        "intervals": {name: list(interval) if interval else None for name, interval in intervals.items()},
    }
