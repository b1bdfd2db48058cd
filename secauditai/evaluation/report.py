"""The report: one self-contained HTML page about an evaluation, nothing loaded from elsewhere, all code escaped."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secauditai.evaluation import plots
from secauditai.evaluation.evaluate import Evaluation
from secauditai.evaluation.page import render_page, write_page
from secauditai.models.predict import DETECTION

HEADLINE = ("roc_auc", "f1", "precision", "recall", "accuracy")
BASELINE_NAMES = {"majority": "Majority", "tfidf_logistic_regression": "TF-IDF + logistic regression"}


def write_report(evaluation: Evaluation, output: Path, *, history: Sequence[dict[str, Any]] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        evaluation: what it is about.
        output: the HTML file; replaced when it is there.
        history: records of the run's `metrics.jsonl`, for the training curves.

    Raises:
        DataError: when the place cannot be written to.
    """
    write_page(render_report(evaluation, history), output)


def render_report(evaluation: Evaluation, history: Sequence[dict[str, Any]] = ()) -> str:
    """The page as text."""
    document = evaluation.document
    names = list(document["metrics"])
    return render_page(
        "report.html.j2",
        e=document,
        main=next(iter(document["tasks"])),
        names=names,
        headline=[name for name in HEADLINE if name in names] or names[:5],
        baseline_names=BASELINE_NAMES,
        plots=_plots(evaluation, history),
        events=[record for record in history if record["kind"] == "event"],
    )


def _plots(evaluation: Evaluation, history: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    found = []
    if next(iter(evaluation.document["tasks"])) == DETECTION:
        table = evaluation.predictions
        positive = np.array(table.column("label").to_pylist()) == "vulnerability"
        scores = table.column("score").to_numpy()
        threshold = evaluation.document["threshold"]
        found = [
            ("ROC: the further above the dotted line, the better", plots.roc_curve(positive, scores)),
            ("Precision and recall at every threshold", plots.precision_recall_curve(positive, scores)),
            ("Calibration: on the dotted line, scores are probabilities", plots.calibration_curve(positive, scores)),
            ("Scores of both labels", plots.score_histogram(positive, scores, threshold)),
        ]
    if history:
        found.append(("Loss during training", plots.training_curves(history)))
    return found
