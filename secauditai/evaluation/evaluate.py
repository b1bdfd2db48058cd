"""Evaluation: a model's metrics with intervals, beside baselines on the same samples, and what speaks against them."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from secauditai.data.schema import TASK_COLUMNS, code_number
from secauditai.errors import DataError, ModelError
from secauditai.files import write_json
from secauditai.metrics import Scores, cluster_bootstrap, compute_metrics
from secauditai.models.bundle import Bundle
from secauditai.models.predict import DETECTION, Predictions, predict
from secauditai.progress import Progress, silent
from secauditai.runs import new_id

SUSPICIOUS_AUC = 0.99
"""Published detectors on de-duplicated real data stay far below this (arXiv 2403.18624)."""
SMALLEST_BREAKDOWN = 10
"""Samples a language or weakness needs to be listed on its own."""
SHOWN_ERRORS = 10
SHOWN_LABELS = 10


@dataclass(frozen=True)
class Evaluation:
    """A stored evaluation."""

    document: dict[str, Any]
    """Everything but the single predictions, as JSON."""
    predictions: pa.Table
    """id, label, decision, score: one row per sample of the main task."""

    @property
    def metrics(self) -> dict[str, float | None]:
        """The main task's metrics."""
        return dict(self.document["metrics"])


def evaluate(
    bundle: Bundle,
    table: pa.Table,
    metrics: Sequence[str],
    *,
    model: str,
    data: str,
    backend: str = "torch",
    progress: Progress = silent,
) -> Evaluation:
    """Score samples and compare with what is known of them.

    Args:
        bundle: the model, a classifier.
        table: samples as rows of `SAMPLE_SCHEMA`.
        metrics: names from `metrics.METRICS`.
        model: what the user called the model, for the record.
        data: what the user called the data.
        backend: torch or onnx.
        progress: told how many samples are scored.

    Raises:
        ModelError: when the model is an encoder without heads.
        DataError: when there are no samples, or none has a label that the model knows.
    """
    if bundle.card.kind != "classifier":
        raise ModelError(f"{model} is an encoder without heads", hint="`secauditai train finetune` puts heads on it.")
    if table.num_rows == 0:
        raise DataError("there are no samples to evaluate on", where=data)
    _check_labels(bundle, table, data)
    codes = table.column("code").to_pylist()
    predictions = predict(bundle, codes, backend=backend, progress=progress)
    clusters = table.column("cluster").to_pylist()
    tasks = {task: _task(bundle, table, predictions, task, metrics, clusters) for task in bundle.card.heads}
    main = bundle.card.main_task
    document = {
        "evaluation_id": new_id(),
        "model": model,
        "data": data,
        "backend": backend,
        "n": table.num_rows,
        "clusters": len(set(clusters)),
        "threshold": bundle.card.threshold,
        "metrics": tasks[main]["metrics"],
        "intervals": tasks[main]["intervals"],
        "tasks": tasks,
        "baselines": _baselines(bundle, table, metrics),
        "overlap": _overlap(bundle, codes),
        "breakdown": _breakdown(bundle, table, predictions),
        "errors": _worst_errors(bundle, table, predictions),
        "provenance": bundle.card.provenance,
    }
    document["notes"] = _notes(document)
    return Evaluation(document, _prediction_table(bundle, table, predictions))


def save_evaluation(evaluation: Evaluation, directory: Path) -> Path:
    """Store an evaluation and its single predictions; return the JSON file."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{evaluation.document['evaluation_id']}.json"
    pq.write_table(evaluation.predictions, path.with_suffix(".parquet"))
    write_json(path, evaluation.document)
    return path


def newest_evaluation(directory: Path) -> Evaluation | None:
    """The newest stored evaluation, if there is one."""
    paths = sorted(directory.glob("*.json"))
    if not paths:
        return None
    document = json.loads(paths[-1].read_text(encoding="utf-8"))
    return Evaluation(document, pq.read_table(paths[-1].with_suffix(".parquet")))


def true_labels(bundle: Bundle, table: pa.Table, task: str) -> npt.NDArray[np.int64]:
    """(samples,) label numbers; -1 where the model has no such label."""
    numbers = {label: number for number, label in enumerate(bundle.card.heads[task])}
    return np.array([numbers.get(value, -1) for value in table.column(TASK_COLUMNS[task]).to_pylist()], dtype=np.int64)


def _check_labels(bundle: Bundle, table: pa.Table, data: str) -> None:
    task = bundle.card.main_task
    if (true_labels(bundle, table, task) < 0).all():
        labels = bundle.card.heads[task]
        known = ", ".join(labels[:SHOWN_LABELS]) + (", …" if len(labels) > SHOWN_LABELS else "")
        hint = f"It was trained with {known}."
        raise DataError(f"no sample has a {TASK_COLUMNS[task]} that the model knows", where=data, hint=hint)


def _task(
    bundle: Bundle, table: pa.Table, predictions: Predictions, task: str, metrics: Sequence[str], clusters: list[str]
) -> dict[str, Any]:
    targets = true_labels(bundle, table, task)
    known = targets >= 0
    scores = Scores(targets[known], predictions.decisions[task][known], predictions.probabilities[task][known])
    kept = [cluster for cluster, keep in zip(clusters, known, strict=True) if keep]
    intervals = cluster_bootstrap(scores, kept, metrics)
    return {
        "labels": bundle.card.heads[task],
        "n": int(known.sum()),
        "unknown_labels": int((~known).sum()),
        "metrics": compute_metrics(scores, metrics),
        "intervals": {name: list(interval) if interval else None for name, interval in intervals.items()},
        "confusion": scores.confusion().astype(int).tolist(),
    }


def _baselines(bundle: Bundle, table: pa.Table, metrics: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Majority and TF-IDF with logistic regression, both as the training data taught them, on the same samples."""
    task = bundle.card.main_task
    labels = bundle.card.heads[task]
    targets = true_labels(bundle, table, task)
    known = targets >= 0
    counts = np.array([float(str(bundle.card.provenance.get(f"train_{label}") or 0)) for label in labels])
    shares = counts / counts.sum() if counts.sum() else np.full(len(labels), 1 / len(labels))
    constant = np.tile(shares, (int(known.sum()), 1))
    majority = Scores(targets[known], np.full(int(known.sum()), int(shares.argmax())), constant)
    found = {"majority": compute_metrics(majority, metrics)}
    if bundle.baseline is not None:
        codes = table.filter(pa.array(known)).column("code").to_pylist()
        probabilities = bundle.baseline.probabilities(codes)
        scores = Scores(targets[known], probabilities.argmax(axis=1), probabilities)
        found["tfidf_logistic_regression"] = compute_metrics(scores, metrics)
    return found


def _overlap(bundle: Bundle, codes: list[str]) -> dict[str, Any]:
    """How many samples are, white space aside, part of the model's own training data."""
    if bundle.training_keys is None:
        return {"samples": None, "share": None}
    keys = np.array([code_number(code) for code in codes], dtype=np.uint64)
    seen = int(np.isin(keys, bundle.training_keys).sum())
    return {"samples": seen, "share": seen / len(codes)}


def _breakdown(bundle: Bundle, table: pa.Table, predictions: Predictions) -> dict[str, list[dict[str, Any]]]:
    """Accuracy and recall by language and by weakness."""
    task = bundle.card.main_task
    targets, decisions = true_labels(bundle, table, task), predictions.decisions[task]
    weaknesses = [json.loads(text).get("cwe") or "" for text in table.column("metadata").to_pylist()]
    keys = {"language": table.column("language").to_pylist(), "cwe": [str(cwe) for cwe in weaknesses]}
    found: dict[str, list[dict[str, Any]]] = {}
    for name, values in keys.items():
        members: dict[str, list[int]] = defaultdict(list)
        for index, value in enumerate(values):
            if value and targets[index] >= 0:
                members[value].append(index)
        rows = []
        for value, indices in sorted(members.items(), key=lambda item: (-len(item[1]), item[0])):
            if len(indices) < SMALLEST_BREAKDOWN:
                continue
            right = decisions[indices] == targets[indices]
            positive = targets[indices] == 1 if task == DETECTION else np.zeros(len(indices), dtype=bool)
            recall = float(right[positive].mean()) if positive.any() else None
            rows.append({"value": value, "n": len(indices), "accuracy": float(right.mean()), "recall": recall})
        found[name] = rows
    return found


def _worst_errors(bundle: Bundle, table: pa.Table, predictions: Predictions) -> list[dict[str, Any]]:
    """The wrong decisions the model was surest of."""
    task = bundle.card.main_task
    labels, targets = bundle.card.heads[task], true_labels(bundle, table, task)
    decisions, probabilities = predictions.decisions[task], predictions.probabilities[task]
    wrong = [index for index in range(len(targets)) if targets[index] >= 0 and decisions[index] != targets[index]]
    wrong.sort(key=lambda index: probabilities[index, targets[index]])
    rows = []
    for index in wrong[:SHOWN_ERRORS]:
        row = table.slice(index, 1).to_pylist()[0]
        shown = {key: row[key] for key in ("id", "language", "code")}
        decided, true = labels[decisions[index]], labels[targets[index]]
        rows.append({**shown, "true": true, "decided": decided, "score": float(probabilities[index, decisions[index]])})
    return rows


def _notes(document: dict[str, Any]) -> list[str]:
    """What a careful reader would want pointed out."""
    notes = []
    overlap = document["overlap"]
    if overlap["samples"]:
        notes.append(
            f"{overlap['samples']} of {document['n']} samples ({overlap['share']:.0%}) are in the model's own training "
            "data: these numbers say little about new code."
        )
    auc = document["metrics"].get("roc_auc")
    if auc is not None and auc > SUSPICIOUS_AUC:
        notes.append(f"ROC AUC {auc:.3f} is far above published results: look for a leak or tell-tale names first.")
    rival = document["baselines"].get("tfidf_logistic_regression", {})
    for name in ("roc_auc", "f1", "accuracy"):
        ours, theirs = document["metrics"].get(name), rival.get(name)
        if ours is not None and theirs is not None:
            if ours <= theirs:
                notes.append(
                    f"The model does not beat TF-IDF + logistic regression in {name} ({ours:.3f} ≤ {theirs:.3f})."
                )
            break
    for task, values in document["tasks"].items():
        if values["unknown_labels"]:
            notes.append(
                f"{values['unknown_labels']} samples have a label unknown to the head {task} and are left out."
            )
    return notes


def _prediction_table(bundle: Bundle, table: pa.Table, predictions: Predictions) -> pa.Table:
    task = bundle.card.main_task
    labels, decisions = bundle.card.heads[task], predictions.decisions[task]
    probabilities = predictions.probabilities[task]
    score = probabilities[:, 1] if task == DETECTION else probabilities.max(axis=1)
    return pa.table(
        {
            "id": table.column("id"),
            "label": table.column(TASK_COLUMNS[task]),
            "decision": [labels[number] for number in decisions],
            "score": score,
        }
    )
