"""Validation during training."""

from pathlib import Path

import pytest
import torch
from training_runs import new_run, write_dataset

from secauditai.data.tokens import open_token_store
from secauditai.errors import RunError
from secauditai.training import objectives
from secauditai.training.attempt import AttemptLayout
from secauditai.training.launch import Attempts
from secauditai.training.losses import Kind, Loss
from secauditai.training.model import build_model
from secauditai.training.objectives import Batch
from secauditai.training.rank import Rank
from secauditai.training.recipe import read_recipe
from secauditai.training.validation import Validator
from secauditai.training.watchdog import Pulse

HERE = Rank(0, 1, torch.device("cpu"), "fp32")


def test_a_validation_sample_that_does_not_fit_into_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(new_run(write_dataset(tmp_path), tmp_path / "workspace").layout.recipe)
    validator = Validator(recipe, HERE, build_model(recipe))

    def exhausted(_model: object, _batch: Batch) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(validator.objective, "outputs", exhausted)
    with pytest.raises(RuntimeError, match="can't allocate"):  # of several samples, fewer at a time may fit
        validator.outputs()
    validator.resize(1)
    with pytest.raises(RunError, match=r"sample sample_\d+_[sv] alone does not fit") as refused:
        validator.outputs()
    named = str(refused.value).split()[1]
    assert named in validator.store.samples.column("id").to_pylist()


def test_a_validation_sample_that_a_worker_was_killed_for_is_named(tmp_path: Path) -> None:
    run = new_run(write_dataset(tmp_path), tmp_path / "workspace", micro_batch_tokens=16)
    recipe, attempt = read_recipe(run.layout.recipe), AttemptLayout(run.layout.attempt)
    killed = Loss(Kind.OUT_OF_MEMORY, "the kernel killed it", 0)
    attempt.renew()
    named = {}
    for validating in (False, True):
        pulse = Pulse(attempt.step(0))
        pulse.begin(3, validating=validating)
        pulse.close()
        with pytest.raises(RunError, match=r"sample sample_\d+_[sv] alone does not fit") as refused:
            Attempts(run, recipe, None, 3, print).restart_after(killed)
        named[validating] = str(refused.value).split()[1]
    stores = (
        open_token_store(Path(path)).samples.column("id").to_pylist() for path in (recipe.train_store, recipe.val_store)
    )
    training, validation = stores
    assert named[False] in training
    assert named[True] in validation


def test_the_masks_of_a_validation_sample_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_dataset(tmp_path)
    settings = {"max_length": 16, "stride": 2, "dropout": 0.0}
    recipe = read_recipe(new_run(data, tmp_path / "workspace", kind="base", **settings).layout.recipe)
    validator, found, largest = Validator(recipe, HERE, build_model(recipe)), [], []
    forward = validator.model.forward

    def watched(input_ids: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        largest.append(input_ids.numel())
        return forward(input_ids, *others)

    monkeypatch.setattr(validator.model, "forward", watched)
    for budget, at_once in ((16, 16), (64, 4096), (4096, 4096), (4096, 32)):
        monkeypatch.setattr(objectives, "MASKED_AT_ONCE", at_once)
        largest.clear()
        validator.resize(budget)
        found.append(validator.outputs())
        assert max(largest) <= max(16, at_once)
    assert max(len(batch.samples) for batch in validator.plan) > 1
    assert max(batch.windows.shape[1] for batch in validator.plan) > 1
    hidden = found[0][:, 1]
    assert (hidden >= 1).all()
    for outputs in found[1:]:
        assert (outputs[:, 1] == hidden).all()
        assert outputs[:, 0] == pytest.approx(found[0][:, 0], rel=1e-4)
