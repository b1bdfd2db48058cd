"""Predictions of a classifier as a table or a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from secauditai.data.clean import Rejection
from secauditai.data.dataset import REFUSED_ENDING
from secauditai.data.replacing import check_above
from secauditai.errors import DataError, ModelError
from secauditai.files import whole_file
from secauditai.models.bundle import Bundle
from secauditai.models.predict import DETECTION, predict
from secauditai.progress import Progress, silent

OUTPUT_ENDINGS = (".parquet", ".jsonl")
SHORT_NAMES = {"category_classification": "category", "severity_prediction": "severity"}


def predict_table(bundle: Bundle, table: pa.Table, *, backend: str = "torch", progress: Progress = silent) -> pa.Table:
    """Score samples: id, label and score by the main head, then by name what heads of categories and severities say.

    The score is the probability of a vulnerability, else that of the label.

    Raises:
        ModelError: when the model is an encoder without heads.
    """
    if bundle.card.kind != "classifier":
        raise ModelError(
            "an encoder without heads cannot predict", hint="`secauditai train finetune` puts heads on it."
        )
    predictions = predict(bundle, table.column("code").to_pylist(), backend=backend, progress=progress)
    columns: dict[str, object] = {"id": table.column("id")}
    for task, labels in bundle.card.heads.items():
        decided, probabilities = predictions.decisions[task], predictions.probabilities[task]
        score = probabilities[:, 1] if task == DETECTION else probabilities.max(axis=1)
        words = [labels[number] for number in decided]
        if task == bundle.card.main_task:
            columns |= {"label": words, "score": score}
        if task in SHORT_NAMES:
            columns |= {SHORT_NAMES[task]: words, f"{SHORT_NAMES[task]}_score": score}
    return pa.table(columns)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuse an output that is taken, below a file or of an unknown kind, before any work is done.

    Raises:
        DataError: naming the path.
    """
    if path.suffix not in OUTPUT_ENDINGS:
        raise DataError("the output must end in .parquet or .jsonl", where=str(path))
    check_above(path)
    for written in (path, refused_path(path)):
        if written.exists() and not overwrite:
            raise DataError(
                "the output exists", where=str(written), hint="Use --overwrite, or choose another --output."
            )


def write_predictions(table: pa.Table, path: Path) -> None:
    """Write predictions as Parquet or JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        if path.suffix == ".parquet":
            pq.write_table(table, partial)
        else:
            _write_lines(table.to_pylist(), partial)


def refused_path(output: Path) -> Path:
    """Where the samples stand that could not be scored."""
    return output.with_name(output.stem + REFUSED_ENDING)


def write_refused(refused: Sequence[Rejection], output: Path) -> Path:
    """Write the samples that could not be scored, with the reason, beside the predictions: `NAME.rejected.jsonl`.

    Without any, what an earlier prediction left there is removed.
    """
    path = refused_path(output)
    path.unlink(missing_ok=True)
    if refused:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            _write_lines([asdict(sample) for sample in refused], partial)
    return path


def _write_lines(rows: Sequence[dict[str, object]], path: Path) -> None:
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
