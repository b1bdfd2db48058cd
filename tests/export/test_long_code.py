"""Code of several windows gets the same score in training, validation, evaluation, the exported graph and MLflow."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import new_run, write_dataset

from secauditai.data.dataset import open_dataset
from secauditai.data.tokens import TokenStore, open_token_store
from secauditai.export.onnx import export_onnx
from secauditai.models.bundle import Bundle
from secauditai.models.predict import DETECTION, TorchScorer, build_scorer, predict, score
from secauditai.runs import Run
from secauditai.tracking.connection import load_mlflow
from secauditai.tracking.packaging import CODE_FILE
from secauditai.training.finish import save_best
from secauditai.training.launch import launch
from secauditai.training.loop import build_plan
from secauditai.training.rank import Rank
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.step import load_batch
from secauditai.training.validation import Validator

pytestmark = pytest.mark.slow

HERE = Rank(0, 1, torch.device("cpu"), "fp32")
TOLERANCE = {"rtol": 0, "atol": 2e-5}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Recipe, Bundle]:
    """A run whose samples have several windows, none of which training leaves out, and its exported model."""
    home = tmp_path_factory.mktemp("long")
    long = {"max_length": 16, "stride": 3, "max_windows": 64, "dropout": 0.0, "max_steps": 4}
    run = new_run(write_dataset(home), home / "workspace", **long)
    assert launch(run, in_process=True).finished
    bundle, _metrics = save_best(run)
    export_onnx(bundle, bundle.layout.onnx)
    return run, read_recipe(run.layout.recipe), bundle


def codes_of(run: Run, split: str, store: TokenStore) -> list[str]:
    """The code of a store's samples, in its order."""
    table = open_dataset(Path(run.info.dataset or "")).table(split)
    codes = dict(zip(table.column("id").to_pylist(), table.column("code").to_pylist(), strict=True))
    return [codes[name] for name in store.samples.column("id").to_pylist()]


def test_training_and_validation_score_as_the_saved_model_does(trained: tuple[Run, Recipe, Bundle]) -> None:
    run, recipe, bundle = trained
    model = bundle.load_model()
    scorer, windowing = TorchScorer(bundle), bundle.card.windowing

    store = open_token_store(Path(recipe.train_store))
    expected = score(scorer, bundle.tokenizer, windowing, codes_of(run, "train", store))[DETECTION]
    several = 0
    for micro_batch in build_plan(recipe, store, recipe.micro_batch_tokens).micro_batches(1):
        batch = load_batch(micro_batch, store, recipe, HERE)
        several += int(((micro_batch.windows >= 0).sum(axis=1) > 2).sum())
        logits = model.train()(batch.input_ids, batch.attention_mask)[DETECTION]
        np.testing.assert_allclose(logits.detach().numpy(), expected[micro_batch.samples], **TOLERANCE)
    assert several > 2

    validator = Validator(recipe, HERE, model)
    codes = codes_of(run, "val", validator.store)
    for tokens in (1, 64, 16_384):
        validator.resize(tokens)
        found = score(scorer, bundle.tokenizer, windowing, codes, tokens_per_batch=tokens)[DETECTION]
        np.testing.assert_allclose(validator.outputs(), found, **TOLERANCE)


def test_graph_and_served_model_score_as_the_saved_model_does(trained: tuple[Run, Recipe, Bundle]) -> None:
    run, recipe, bundle = trained
    codes = codes_of(run, "val", open_token_store(Path(recipe.val_store)))
    codes += ["x\n", "\n", "\n".join(codes)]  # one window, none of code, and far more than any sample of training
    windows = [len(bundle.card.windowing.cut(np.array(tokens))) for tokens in bundle.tokenizer.encode(codes)]
    assert min(windows) == 1
    assert max(windows) > 8
    expected = predict(bundle, codes).probabilities[DETECTION][:, 1]
    found = score(build_scorer(bundle, "onnx"), bundle.tokenizer, bundle.card.windowing, codes)[DETECTION]
    np.testing.assert_allclose(found, predict(bundle, codes).logits[DETECTION], **TOLERANCE)
    load_mlflow()
    served = runpy.run_path(str(CODE_FILE))["SecurityModel"]()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(bundle.layout.root)}))
    np.testing.assert_allclose(served.predict(pd.DataFrame({"code": codes}))["score"], expected, **TOLERANCE)
