from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from conftest import make_samples
from tiny_hub import LINES, write_tiny_hub
from training_runs import SMALL, new_run, write_dataset

from secauditai.config.files import resolve_config
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.errors import DataError, ModelError
from secauditai.models.bundle import BundleCard, save_bundle
from secauditai.models.classifier import Embedder
from secauditai.models.encoders import build_encoder
from secauditai.models.tokenizer import train_tokenizer
from secauditai.runs import Run, RunLayout
from secauditai.training.estimate import estimate
from secauditai.training.preparation import TrainingPlan, encoder_directory, plan_training
from secauditai.training.recipe import read_recipe
from secauditai.training.request import TrainRequest


def only_run(workspace: Path) -> Run:
    (root,) = (workspace / "runs" / "m").iterdir()
    return Run(RunLayout(root))


def test_a_run_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    data, encoder = write_dataset(tmp_path), write_tiny_hub(tmp_path / "hub")
    (encoder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError) as refused:
        new_run(data, tmp_path / "w", model=str(encoder), max_length=32)
    info = only_run(tmp_path / "w").info
    assert (info.status, info.message) == ("failed", str(refused.value))


def plan(workspace: Path, **settings: object) -> TrainingPlan:
    return plan_training(TrainRequest("finetune", "m", resolve_config({**SMALL, **settings}), workspace))


def test_what_cannot_begin_leaves_no_run(tmp_path: Path, tiny_hub: Path) -> None:
    data, encoder = write_dataset(tmp_path), write_tiny_hub(tmp_path / "other")
    for settings, told in (
        ({"model": str(encoder), "max_length": 2000}, "more than the encoder's"),
        ({"model": "codebert", "max_length": 2000}, "more than the encoder's"),
        ({"model": "unixcoder"}, "not in the Hugging Face cache"),
        ({"data": f"{data}/test"}, f"is one split of a dataset. Training needs all of it: {data}"),
        ({"strip_comments": True}, r"clean already, so this cannot change: strip_comments True \(it was False\)"),
    ):
        with pytest.raises((DataError, ModelError), match=told):
            plan(tmp_path / "w", **{"data": str(data), **settings})
    for content in ("{", "[]"):
        (encoder / "config.json").write_text(content)
        with pytest.raises(ModelError, match="the encoder's configuration"):
            plan(tmp_path / "w", data=str(data), model=str(encoder))
    assert not (tmp_path / "w" / "runs").exists()


def test_a_hub_id_is_not_a_directory_of_that_name(
    tmp_path: Path, tiny_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "microsoft" / "codebert-base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert encoder_directory(
        plan(tmp_path / "w", data=str(write_dataset(tmp_path)), model="codebert").model
    ).is_relative_to(tiny_hub)


def test_validation_samples_of_one_label_choose_by_loss(tmp_path: Path) -> None:
    samples = make_samples(12)
    for sample in samples[-4:]:
        sample.update(label="safe", category="none", severity="none")
    for number, sample in enumerate(samples):
        sample["metadata"] = {"split": "val" if number >= 20 else "train", "language": "python"}
    (tmp_path / "samples.yaml").write_text(yaml.safe_dump({"samples": samples}))
    prepare(str(tmp_path / "samples.yaml"), tmp_path / "data")
    split_dataset(open_dataset(tmp_path / "data"), SplitPlan(predefined=True))
    run = new_run(tmp_path / "data", tmp_path / "w")
    recipe = read_recipe(run.layout.recipe)
    assert recipe.selection_metric == "loss"
    assert "All validation samples are labelled 'safe'" in recipe.notices[-1]
    with pytest.raises(DataError, match="roc_auc is undefined: all validation samples are labelled 'safe'"):
        plan(tmp_path / "w", data=str(tmp_path / "data"), selection_metric="roc_auc")
    with pytest.raises(DataError, match="recall is undefined: all validation samples are labelled 'safe'"):
        plan(tmp_path / "w", data=str(tmp_path / "data"), selection_metric="recall")
    assert plan(tmp_path / "w", data=str(tmp_path / "data"), selection_metric="specificity").heads


def test_a_metric_of_two_labels_cannot_choose_among_more(tmp_path: Path) -> None:
    data = str(write_dataset(tmp_path))
    told = r"specificity is for two labels only, and severity_prediction has \d here"
    with pytest.raises(DataError, match=told):
        plan(tmp_path / "w", data=data, task="severity_prediction", selection_metric="specificity")
    assert plan(tmp_path / "w", data=data, task="multi_task", selection_metric="specificity").heads


def test_windows_too_long_for_a_bundle_are_refused_in_the_plan(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    tokenizer = train_tokenizer(LINES, 350)
    encoder = build_encoder("tiny", tokenizer=tokenizer, max_length=64, dropout=0.1, seed=0)
    card = BundleCard(
        kind="encoder",
        task="",
        heads={},
        max_length=64,
        stride=8,
        long_code="windows",
        max_windows=4,
        pooling="mean_max",
        special_ids=tokenizer.special_ids,
    )
    bundle = save_bundle(tmp_path / "bundle", model=Embedder(encoder.module), tokenizer=tokenizer, card=card)
    config = resolve_config({**SMALL, "data": str(data), "model": str(bundle.layout.root), "max_length": 512})
    with pytest.raises(ModelError, match="max_length 512 is more than the encoder's 64"):
        plan_training(TrainRequest("finetune", "m", config, tmp_path / "w"))
    assert not (tmp_path / "w" / "runs").exists()


def test_the_memory_estimate_grows_with_a_sample_of_many_windows(tmp_path: Path) -> None:
    config = resolve_config({**SMALL, "data": str(write_dataset(tmp_path)), "max_length": 64, "micro_batch_tokens": 64})
    plan = plan_training(TrainRequest("finetune", "m", config, tmp_path / "w"))
    codes = pa.array(["x = 1\n" * 4000, *plan.train.column("code").to_pylist()[1:]])
    long = replace(plan, train=plan.train.set_column(plan.train.column_names.index("code"), "code", codes))
    few, many = (estimate(one)["estimated_memory_mib_per_worker"] for one in (plan, long))
    assert many > few


def test_an_encoder_that_comes_with_a_vocabulary_says_so(tmp_path: Path) -> None:
    data, encoder = write_dataset(tmp_path), write_tiny_hub(tmp_path / "hub")
    run = new_run(data, tmp_path / "w", model=str(encoder), max_length=32)
    (told,) = read_recipe(run.layout.recipe).notices
    assert told.startswith("vocab_size 320 says nothing here: the encoder comes with a vocabulary of ")
