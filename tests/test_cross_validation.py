import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import Cli
from training_runs import write_dataset

import secauditai.cross_validation as cross_validation
from secauditai.data.dataset import SPLITS, open_dataset
from secauditai.data.folds import open_fold, open_pool
from secauditai.data.prepare import copy_dataset
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.data.straddling import find_straddling
from secauditai.errors import DataError
from secauditai.evaluation.spread import differences, pooled, spread
from secauditai.runs import list_runs

pytestmark = pytest.mark.slow

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def test_each_sample_is_held_out_once_and_no_cluster_straddles(data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data)
    pool = open_pool(dataset, 3, seed=5, cache=tmp_path)
    unseen = set(dataset.table("test").column("id").to_pylist())
    assert pool.left_out == len(unseen) > 0
    held_out: list[str] = []
    for number in range(3):
        fold = open_fold(pool, 3, number, cache=tmp_path)
        assert find_straddling(fold.layout, list(SPLITS), fold.similarity) == []
        ids = {split: fold.table(split).column("id").to_pylist() for split in SPLITS}
        assert all(ids.values())
        held_out += ids["test"]
        assert sorted(ids["train"] + ids["val"] + ids["test"]) == pool.dataset.table().column("id").to_pylist()
    assert len(held_out) == len(set(held_out)) == 60 - len(unseen)
    assert not unseen & set(held_out)


def test_folds_that_split_wrote_are_used_as_they_are(data: Path, tmp_path: Path) -> None:
    copied = copy_dataset(open_dataset(data), tmp_path / "copy")
    written = split_dataset(copied, SplitPlan(seed=77, folds=4)).dataset
    pool = open_pool(written, 4, seed=1, cache=tmp_path)
    for number in range(4):
        ours = open_fold(pool, 4, number, cache=tmp_path).table("test").column("id").to_pylist()
        assert ours == written.table(f"fold_{number}").column("id").to_pylist()
    with pytest.raises(DataError, match="4 folds, not 3"):
        open_pool(written, 3, seed=1, cache=tmp_path)


def test_mean_spread_and_interval() -> None:
    found = spread([{"f1": 0.5, "mcc": None}, {"f1": 0.7, "mcc": 0.2}, {"f1": 0.6, "mcc": None}])
    assert found["f1"]["mean"] == pytest.approx(0.6)
    assert found["f1"]["std"] == pytest.approx(0.1)
    half = 4.302653 * 0.1 * np.sqrt(1 / 3 + 1 / 2)  # Student's t with two degrees of freedom
    assert found["f1"]["interval"] == pytest.approx([0.6 - half, 0.6 + half])
    assert found["mcc"] == {"mean": 0.2, "std": None, "interval": None, "folds": 1}
    assert differences([{"f1": 0.5, "mcc": None}], [{"f1": 0.4, "mcc": 0.1}]) == [
        {"f1": pytest.approx(0.1), "mcc": None}
    ]


def test_pooled_metrics_of_detection_and_of_several_classes() -> None:
    table = pa.table(
        {
            "id": list("abcd"),
            "label": ["safe", "vulnerability", "safe", "vulnerability"],
            "decision": ["safe", "vulnerability", "vulnerability", "vulnerability"],
            "score": [0.1, 0.9, 0.6, 0.7],
        }
    )
    found = pooled(table, list("wxyz"), "vulnerability_detection", ("accuracy", "roc_auc"))
    assert found["metrics"] == {"accuracy": 0.75, "roc_auc": 1.0}
    assert found["intervals"]["accuracy"][0] < 0.75 < found["intervals"]["accuracy"][1]
    several = pooled(table, list("wxyz"), "category_classification", ("accuracy", "roc_auc"))
    assert several["metrics"] == {"accuracy": 0.75}


def test_folds_from_plan_to_versions_through_an_interruption(
    cli: Cli, samples_yaml: Write, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples_yaml(40)
    arguments = ("train", "finetune", "--data", "samples.yaml", "--folds", 3, "--max-length", 64, "--vocab-size", 320)
    arguments += ("--batch-size", 8, "--epochs", 2, "--precision", "fp32", "--threads", 1, "--register", "all")
    plan = cli(*arguments, "--dry-run", "--json")
    assert plan.code == 0, plan.err
    assert [fold["done"] for fold in json.loads(plan.out)["folds"]] == [False] * 3
    assert sum(fold["test"] for fold in json.loads(plan.out)["folds"]) == 80
    assert not list_runs(workspace)

    real, trained = cross_validation.train, []

    def train(*plan: object, **options: object) -> object:
        if len(trained) == 1:
            raise KeyboardInterrupt
        trained.append(1)
        return real(*plan, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cross_validation, "train", train)
    assert cli(*arguments).code == 130
    monkeypatch.setattr(cross_validation, "train", real)
    first = list_runs(workspace, "trained_model")
    assert len(first) == 1
    assert first[0].info.model_version is None

    done = cli("train", "resume", "--model", "trained_model", "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    assert [fold["fold"] for fold in document["folds"]] == [0, 1, 2]
    assert document["folds"][0]["run_dir"] == str(first[0].root)
    assert document["pooled"]["n"] == 80
    assert set(document["baselines"]) == {"majority", "tfidf_logistic_regression"}
    assert document["metrics"]["accuracy"]["folds"] == 3
    assert sorted(document["versions"]) == ["0", "1", "2"]
    assert sorted(document["versions"].values()) == [1, 2, 3]

    runs = list_runs(workspace, "trained_model")
    assert len(runs) == 3
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    parents = {client.get_run(run.info.mlflow_run_id).data.tags["mlflow.parentRunId"] for run in runs}
    assert parents == {document["mlflow_run_id"]}
    parent = client.get_run(document["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["mean/accuracy"] == pytest.approx(document["metrics"]["accuracy"]["mean"])

    complete = cli("train", "resume", "--model", "trained_model", "--json")
    assert (complete.code, json.loads(complete.out)) == (0, document)
    assert len(client.search_model_versions("name='trained_model'")) == 3
    assert cli("train", "resume", "--model", "trained_model", "--max-failures", 1).code == 1

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a finished fold was trained again")

    monkeypatch.setattr(cross_validation, "train", never)
    again = cli(*arguments, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out) == document
    shown = cli(*arguments)
    assert "TF-IDF + logistic regression" in shown.out
    assert "95 % interval of the mean" in shown.out
    alone = cli("train", "finetune", "--data", "samples.yaml", "--register", "all")
    assert alone.code == 1
    assert "--folds" in alone.err
