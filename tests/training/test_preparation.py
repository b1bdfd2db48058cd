from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from tiny_hub import LINES, write_tiny_hub
from training_runs import SMALL, new_run, write_dataset

from secauditai.config.files import resolve_config
from secauditai.errors import ModelError
from secauditai.models.bundle import BundleCard, save_bundle
from secauditai.models.classifier import Embedder
from secauditai.models.encoders import build_encoder
from secauditai.models.tokenizer import train_tokenizer
from secauditai.runs import Run, RunLayout
from secauditai.training.estimate import estimate
from secauditai.training.preparation import plan_training
from secauditai.training.request import TrainRequest


def only_run(workspace: Path) -> Run:
    (root,) = (workspace / "runs" / "m").iterdir()
    return Run(RunLayout(root))


def test_a_run_that_cannot_be_prepared_says_why(tmp_path: Path) -> None:
    data, encoder = write_dataset(tmp_path), write_tiny_hub(tmp_path / "hub")
    with pytest.raises(ModelError, match="more than the encoder's"):
        new_run(data, tmp_path / "w", model=str(encoder), max_length=2000)
    info = only_run(tmp_path / "w").info
    assert info.status == "failed"
    assert "more than the encoder's" in str(info.message)


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
