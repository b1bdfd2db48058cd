"""`evaluate`, `report` and `predict` of a saved model with random weights."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Cli, make_samples
from tiny_bundle import make_bundle

from secauditai.data.schema import parse_sample
from secauditai.evaluation.evaluate import evaluate, newest_evaluation, save_evaluation
from secauditai.metrics import METRICS
from secauditai.models.bundle import refresh_manifest
from secauditai.training.finish import training_keys

Write = Callable[..., Path]


def test_the_help_lists_all_metrics(cli: Cli) -> None:
    told = " ".join(cli("train", "evaluate", "--help").out.split())
    assert f"Comma-separated metrics of {', '.join(METRICS)}." in told


def test_one_metric_per_gate(cli: Cli) -> None:
    result = cli("train", "evaluate", "--model", "x", "--min", "f1,recall=0.6")
    assert result.code == 1
    assert "names more than one metric" in result.err
    assert "--min f1=0.6 --min recall=0.6" in result.err


def test_a_report_over_a_file_of_the_user_is_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("<p>mine")
    result = cli("train", "report", "--model", "nothing", "--output", "mine.html")
    assert result.code == 1
    assert "no page of ours" in result.err
    assert (tmp_path / "mine.html").read_text() == "<p>mine"


def test_an_output_below_a_file_is_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    make_bundle(tmp_path / "m")
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "code.jsonl").write_text('{"code": "x = 1"}\n{"code": ""}\n')
    lines = (
        "export --model m --output taken/m.onnx",
        "predict --model m --data code.jsonl --output taken/below/scores.jsonl",
        "report --model m --output taken/report.html",
        "validate --dataset nothing --report taken/report.html",
        "prepare --dataset nothing --output taken/data",
    )
    for line in lines:
        told = cli("train", *line.split())
        place = f"{line.split()[-1]}: cannot be written: {tmp_path / 'taken'} is a file. Choose another place."
        assert (told.code, told.err) == (1, f"Error: {place}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.jsonl", "m", "taken"]


@pytest.mark.slow
def test_a_model_that_never_saw_comments_is_judged_without_them(cli: Cli, tmp_path: Path) -> None:
    samples = make_samples(3)
    keys = training_keys([str(sample["code"]) for sample in samples])
    for sample in samples:
        sample["code"] = f"# note of {sample['id']}\n{sample['code']}"
    (tmp_path / "raw.json").write_text(json.dumps(samples))
    assert cli("train", "prepare", "--dataset", "raw.json", "--output", "data").code == 0
    overlaps = {}
    for name in ("kept", "stripped"):
        bundle = make_bundle(tmp_path / name, strip_comments=name == "stripped")
        np.save(bundle.layout.training_keys, keys)
        refresh_manifest(bundle.layout)
        for data in ("raw.json", "data"):
            result = cli("train", "evaluate", "--model", name, "--test-data", data, "--metrics", "f1", "--json")
            assert result.code == 0, result.err
            overlaps[name, data] = json.loads(result.out)["overlap"]["samples"]
    assert overlaps == {
        ("kept", "raw.json"): 0,
        ("kept", "data"): 0,
        ("stripped", "raw.json"): 6,
        ("stripped", "data"): 6,
    }


def test_the_newest_evaluation_is_the_last_that_was_made(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "m")
    rows = [{**parse_sample(sample).row(), "cluster": str(n)} for n, sample in enumerate(make_samples(2))]
    made = []
    for _ in range(10):
        found = evaluate(bundle, pa.Table.from_pylist(rows), ["accuracy"], model="m", data="d")
        made.append(save_evaluation(found, tmp_path / "evaluations").stem)
    assert made == sorted(made)
    newest = newest_evaluation(tmp_path / "evaluations")
    assert newest is not None
    assert newest.document["evaluation_id"] == made[-1]


def test_scores_do_not_depend_on_comments_that_the_model_never_saw(cli: Cli, tmp_path: Path) -> None:
    make_bundle(tmp_path / "m", strip_comments=True)
    scores = []
    for note in ("", "# some note\n"):
        raw = [{"id": "a", "code": f"{note}x = 1\n", "metadata": {"language": "python"}}]
        (tmp_path / "raw.json").write_text(json.dumps(raw))
        arguments = ("--model", "m", "--data", "raw.json", "--output", "scores.jsonl", "--overwrite")
        assert cli("train", "predict", *arguments).code == 0
        scores.append((tmp_path / "scores.jsonl").read_text())
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_training_without_comments_is_noted_in_the_model(cli: Cli, tmp_path: Path) -> None:
    samples = make_samples(10)
    for sample in samples:
        sample["code"] = f"# note of {sample['id']}\n{sample['code']}"
    (tmp_path / "raw.json").write_text(json.dumps(samples))
    small = ("--max-length", 64, "--vocab-size", 320, "--batch-size", 8, "--max-steps", 1, "--strip-comments")
    trained = cli("train", "finetune", "--data", "raw.json", *small, "--json")
    assert trained.code == 0, trained.err
    root = Path(json.loads(trained.out)["run_dir"]) / "bundle"
    assert json.loads((root / "secauditai.json").read_text())["strip_comments"] is True
    result = cli("train", "evaluate", "--model", root, "--test-data", "raw.json", "--metrics", "f1", "--json")
    assert json.loads(result.out)["overlap"]["samples"] == 16
    assert "without comments as in training" in result.err


def test_labels_that_the_model_does_not_know_are_one_error(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    from secauditai.models.baseline import fit_baseline

    samples_yaml(3)
    bundle = make_bundle(tmp_path / "m", heads={"category_classification": ["overflow", "race"]})
    baseline = fit_baseline(["a b", "c d", "a e", "c f"], ["overflow", "race"] * 2, ["overflow", "race"])
    assert baseline is not None
    baseline.save(bundle.layout.baseline)
    refresh_manifest(bundle.layout)
    result = cli("train", "evaluate", "--model", "m", "--test-data", "samples.yaml")
    assert result.code == 1
    assert (
        "samples.yaml: no sample has a category that the model knows. It was trained with overflow, race." in result.err
    )


def test_further_heads_may_know_no_label(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml(3)
    heads = {"vulnerability_detection": ["safe", "vulnerability"], "category_classification": ["overflow", "race"]}
    make_bundle(tmp_path / "m", heads=heads)
    result = cli("train", "evaluate", "--model", "m", "--test-data", "samples.yaml", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["tasks"]["category_classification"]["unknown_labels"] == 6


def test_a_model_of_one_task_has_label_and_score_as_well(cli: Cli, samples_yaml: Write, tmp_path: Path) -> None:
    samples_yaml(2)
    make_bundle(tmp_path / "m", heads={"severity_prediction": ["none", "high"]})
    assert cli("train", "predict", "--model", "m", "--data", "samples.yaml", "--output", "s.jsonl").code == 0
    row = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])
    assert list(row) == ["id", "label", "score", "severity", "severity_score"]
    assert (row["label"], row["score"]) == (row["severity"], row["severity_score"])


def test_refused_data_has_a_remedy_that_the_command_knows(cli: Cli, tmp_path: Path) -> None:
    make_bundle(tmp_path / "m")
    (tmp_path / "unlabelled.jsonl").write_text("".join(f'{{"code": "x = {n}"}}\n' for n in range(9)))
    (tmp_path / "no_code.jsonl").write_text('{"label": "safe"}\n')
    evaluate = ("train", "evaluate", "--model", "m", "--test-data")
    told = cli(*evaluate, "unlabelled.jsonl")
    assert told.code == 1
    assert "'label' is missing" in told.err
    assert "Mend them, or score code without labels with `secauditai train predict`." in told.err
    assert cli(*evaluate, "no_code.jsonl").err.endswith(" Mend them.\n")
    prepared = cli("train", "prepare", "--dataset", "unlabelled.jsonl", "--output", "d")
    assert prepared.err.endswith("Mend them.\n")
