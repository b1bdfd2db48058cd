from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from secauditai.errors import DataError
from secauditai.evaluation.evaluate import Evaluation, newest_evaluation, save_evaluation
from secauditai.evaluation.report import render_report, write_report

SECRET = "AKIAIOSFODNN7EXAMPLE"
EVIL = f"</pre><script>alert('x')</script>\nkey = '{SECRET}'\n"


@pytest.fixture
def evaluation() -> Evaluation:
    random = np.random.default_rng(0)
    scores = random.random(60)
    labels = np.where(random.random(60) < scores, "vulnerability", "safe")
    metrics = {"roc_auc": 0.7, "f1": None}
    task = {"labels": ["safe", "vulnerability"], "confusion": [[20, 10], [10, 20]], "metrics": metrics}
    document = {
        "evaluation_id": "20260101-000000-ab",
        "model": "<b>m</b>",
        "data": "d",
        "n": 60,
        "clusters": 30,
        "threshold": 0.5,
        "metrics": metrics,
        "intervals": {"roc_auc": [0.6, 0.8], "f1": None},
        "tasks": {"vulnerability_detection": task},
        "baselines": {"majority": metrics},
        "breakdown": {"language": [{"value": "c", "n": 60, "accuracy": 0.5, "recall": None}], "cwe": []},
        "errors": [
            {"id": "s1", "language": "c", "code": EVIL, "true": "safe", "decided": "vulnerability", "score": 0.9}
        ],
        "notes": ["mind <this>"],
        "provenance": {"run_id": "r"},
    }
    table = pa.table({"id": [str(i) for i in range(60)], "label": labels, "decision": labels, "score": scores})
    return Evaluation(document, table)


def test_the_page_is_whole_and_escapes_everything(evaluation: Evaluation, tmp_path: Path) -> None:
    write_report(evaluation, tmp_path / "r.html", history=[{"kind": "train", "step": 1, "loss": 0.5}])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;m&lt;/b&gt;" in page
    assert "mind &lt;this&gt;" in page
    assert page.count("<svg") == 5
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )


def test_undefined_metrics_are_shown_as_such(evaluation: Evaluation) -> None:
    assert "<td>–</td>" in render_report(evaluation)


def test_evaluations_are_stored_and_the_newest_found(evaluation: Evaluation, tmp_path: Path) -> None:
    assert newest_evaluation(tmp_path) is None
    save_evaluation(evaluation, tmp_path)
    found = newest_evaluation(tmp_path)
    assert found is not None
    assert found.document == evaluation.document
    assert found.predictions.equals(evaluation.predictions)


def test_secrets_in_shown_code_are_masked(evaluation: Evaluation) -> None:
    page = render_report(evaluation, history=[])
    assert "alert(" in page
    assert SECRET not in page


@pytest.mark.slow
def test_a_page_replaces_a_page_and_nothing_else(evaluation: Evaluation, tmp_path: Path) -> None:
    page, data = tmp_path / "report.html", tmp_path / "samples.yaml"
    write_report(evaluation, page, history=[])
    write_report(evaluation, page, history=[])
    data.write_text("samples: []\n", encoding="utf-8")
    with pytest.raises(DataError, match="no page of ours"):
        write_report(evaluation, data, history=[])
    assert data.read_text(encoding="utf-8") == "samples: []\n"
