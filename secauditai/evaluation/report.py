"""The report: one self-contained HTML page about an evaluation, nothing loaded from elsewhere, all code escaped."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from secauditai.evaluation import plots
from secauditai.evaluation.evaluate import Evaluation
from secauditai.models.predict import DETECTION

HEADLINE = ("roc_auc", "f1", "precision", "recall", "accuracy")
BASELINE_NAMES = {"majority": "Majority", "tfidf_logistic_regression": "TF-IDF + logistic regression"}


def write_report(evaluation: Evaluation, output: Path, *, history: Sequence[dict[str, Any]] = ()) -> None:
    """Write the page, whole or not at all.

    Args:
        evaluation: what it is about.
        output: the HTML file; replaced when it is there.
        history: records of the run's `metrics.jsonl`, for the training curves.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    partial.write_text(render_report(evaluation, history), encoding="utf-8")
    partial.replace(output)


def render_report(evaluation: Evaluation, history: Sequence[dict[str, Any]] = ()) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, select_autoescape

    environment = Environment(
        loader=PackageLoader("secauditai.evaluation"), autoescape=select_autoescape(default=True), trim_blocks=True
    )
    document = evaluation.document
    names = list(document["metrics"])
    return environment.get_template("report.html.j2").render(
        e=document,
        main=next(iter(document["tasks"])),
        names=names,
        headline=[name for name in HEADLINE if name in names] or names[:5],
        number=_number,
        baseline_names=BASELINE_NAMES,
        plots=_plots(evaluation, history),
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


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
