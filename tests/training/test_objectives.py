from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import new_run, write_dataset

from secauditai.data.plan import MicroBatch
from secauditai.data.tokens import open_token_store
from secauditai.training.objectives import Batch, Classification, balanced_weights, encode_labels, masked_tokens
from secauditai.training.recipe import read_recipe


def test_focal_loss_counts_samples_less_that_are_right(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    store = open_token_store(Path(read_recipe(new_run(data, tmp_path).layout.recipe).train_store))
    heads = {"vulnerability_detection": ["safe", "vulnerability"]}
    targets = encode_labels(store, *next(iter(heads.items())))[:4]
    logits = torch.tensor([[2.0, -1.0], [0.3, 0.1], [-3.0, 3.0], [0.0, 0.0]])
    plan = MicroBatch(0, np.arange(4), np.zeros(4, np.int64), np.zeros((4, 1), np.int64), 8)
    batch = Batch(plan, torch.zeros(4, 1, 8, dtype=torch.long), torch.ones(4, 1, 8, dtype=torch.long))
    found = Classification(heads, store, None, 2.0).loss(lambda *_: {"vulnerability_detection": logits}, batch)  # type: ignore[arg-type]
    right = torch.softmax(logits, dim=1)[range(4), targets]
    assert float(found) == pytest.approx(float((-((1 - right) ** 2) * right.log()).sum()), rel=1e-6)


def test_class_weights_and_mask_counts() -> None:
    assert balanced_weights(np.array([0, 0, 0, 1, -1]), 3) == pytest.approx([2 / 3, 2.0, 0.0])
    assert masked_tokens(np.array([0, 1, 3, 100]), 0.15).tolist() == [0, 1, 1, 15]
