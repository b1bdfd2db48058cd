import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import make_samples
from training_runs import history, new_run, weights, write_dataset

from secauditai.data.dataset import open_dataset
from secauditai.data.plan import BatchPlan
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.data.tokens import open_token_store
from secauditai.errors import RunError
from secauditai.runs import Run, read_metrics
from secauditai.training.checkpoint import list_checkpoints, read_state
from secauditai.training.launch import launch, training_finished
from secauditai.training.objectives import Classification
from secauditai.training.recipe import read_recipe
from secauditai.training.step import Stepper, StepResult

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(data, tmp_path_factory.mktemp("w"))
    assert launch(run).finished
    return run


def test_a_run_trains_validates_and_checkpoints(undisturbed: Run) -> None:
    recipe = read_recipe(undisturbed.layout.recipe)
    records = read_metrics(undisturbed.layout.metrics)
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, recipe.total_steps + 1))
    assert [r["step"] for r in records if r["kind"] == "val"] == [recipe.steps_per_epoch, recipe.total_steps]
    steps = [checkpoint.step for checkpoint in list_checkpoints(undisturbed.layout.checkpoints)]
    assert steps[0] == 0
    assert {3, 6, 9, recipe.total_steps} <= set(steps)
    assert training_finished(undisturbed)
    assert not [path for path in undisturbed.layout.checkpoints.rglob("*") if path.suffix in (".pt", ".pkl", ".bin")]


@pytest.mark.parametrize("last", [1, 3, 5])
def test_the_loop_goes_on_after_any_step_is_asked_to_stop(
    undisturbed: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    run, real = new_run(data, tmp_path, epochs=2), Stepper.run

    def interrupted(self: Stepper, plan: BatchPlan, step: int, *, stop: bool) -> StepResult:
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, plan, step, stop=stop)

    monkeypatch.setattr(Stepper, "run", interrupted)
    assert not launch(run).finished
    assert (run.info.status, read_metrics(run.layout.metrics)[-1]["step"]) == ("stopped", last + 1)
    assert launch(run).finished
    assert weights(run) == weights(undisturbed)


def test_a_sweep_may_stop_after_a_validation_and_go_on_later(undisturbed: Run, data: Path, tmp_path: Path) -> None:
    run, told = new_run(data, tmp_path), []

    def after_validation(step: int, metrics: Mapping[str, float]) -> bool:
        told.append((step, metrics["roc_auc"]))
        return len(told) == 1

    first = launch(run, in_process=True, after_validation=after_validation)
    assert (first.finished, first.stopped_by) == (False, "sweep")
    assert (run.info.status, run.info.message) == ("stopped", "stopped by request of the sweep")
    assert list_checkpoints(run.layout.checkpoints)[-1].step == told[0][0] == run.info.steps_per_epoch
    second = launch(run, in_process=True, after_validation=after_validation)
    assert (second.finished, second.stopped_by) == (True, None)
    assert told == [(r["step"], r["roc_auc"]) for r in read_metrics(run.layout.metrics) if r["kind"] == "val"]
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)


def test_gradient_accumulation_does_not_change_the_step(data: Path, tmp_path: Path) -> None:
    losses = {}
    for tokens in (16, 100_000):
        run = new_run(data, tmp_path / str(tokens), micro_batch_tokens=tokens, max_steps=1, dropout=0.0)
        launch(run)
        record = next(r for r in read_metrics(run.layout.metrics) if r["kind"] == "train")
        losses[tokens] = (record["loss"], record["gradient_norm"])
    assert losses[16] == pytest.approx(losses[100_000], rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "scheduler": "cosine"},
        {"optimizer": "adafactor", "scheduler": "constant", "gradient_clip": 0.0},
        {"optimizer": "adam", "gradient_checkpointing": True},
        {"task": "multi_task", "class_weights": "balanced"},
        {"task": "severity_prediction", "sampling": "balanced"},
        {"loss_function": "focal", "focal_gamma": 0.5},
        {"task": "category_classification", "augment": True, "augment_variants": 2},
        {"precision": "bf16", "long_code": "head-tail", "max_length": 24},
        {"long_code": "truncate", "max_length": 24},
    ],
)
def test_every_setting_trains(data: Path, tmp_path: Path, settings: dict[str, object]) -> None:
    run = new_run(data, tmp_path, max_steps=3, **settings)
    assert launch(run).finished
    assert all(np.isfinite(r["loss"]) for r in read_metrics(run.layout.metrics) if r["kind"] == "train")


def test_gradient_checkpointing_changes_nothing_but_memory(data: Path, tmp_path: Path) -> None:
    runs = [new_run(data, tmp_path / str(on), max_steps=3, gradient_checkpointing=on) for on in (False, True)]
    for run in runs:
        launch(run)
    first, second = (history(run) for run in runs)
    for ours, theirs in zip(first, second, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_base_lowers_the_masked_language_loss(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, kind="base", epochs=6, learning_rate=1e-3)
    launch(run)
    val = [record["loss"] for record in read_metrics(run.layout.metrics) if record["kind"] == "val"]
    assert val[-1] < val[0]


def test_early_stopping_ends_the_run(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, epochs=50, early_stopping=1, learning_rate=1e-9, selection_metric="accuracy")
    launch(run)
    assert training_finished(run)
    assert list_checkpoints(run.layout.checkpoints)[-1].step < read_recipe(run.layout.recipe).total_steps


def test_a_metric_that_stays_undefined_leaves_the_choice_to_the_loss(data: Path, tmp_path: Path) -> None:
    settings = {"selection_metric": "precision", "learning_rate": 1e-4, "max_steps": 12, "eval_interval": 3}
    run = new_run(data, tmp_path, **settings)
    launch(run)
    records = read_metrics(run.layout.metrics)
    losses = {record["step"]: record["loss"] for record in records if record["kind"] == "val"}
    assert not [record for record in records if "precision" in record]  # nothing is called a vulnerability
    state = read_state(list_checkpoints(run.layout.checkpoints)[-1])
    assert min(losses, key=losses.__getitem__) == state.best_step != 3
    assert state.best_value is None
    told = [record["step"] for record in records if record.get("event") == "undefined_metric"]
    assert told == [3]


def test_a_loss_that_is_not_finite_stops_with_step_samples_and_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    run = new_run(data, tmp_path, max_skipped=1)
    real = Classification.loss

    def poisoned(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        return real(self, model, batch) * float("nan")  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "loss", poisoned)
    with pytest.raises(RunError, match=r"2 steps in a row, the last one step 2.*checkpoint_0") as stopped:
        launch(run)
    assert "sample_" in str(stopped.value)
    assert run.info.status == "failed"


def test_out_of_memory_halves_the_micro_batch_and_redoes_the_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm, run = (new_run(data, tmp_path / name, micro_batch_tokens=1024, dropout=0.0) for name in "ab")
    assert launch(calm).finished
    real = Classification.loss

    def crowded(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        if batch.input_ids.numel() > 200:  # type: ignore[attr-defined]
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "loss", crowded)
    assert launch(run).finished
    events = [record for record in read_metrics(run.layout.metrics) if record.get("event") == "out_of_memory"]
    assert events[0]["micro_batch_tokens"] == 512
    undivided, divided = (next(r for r in history(known) if r["kind"] == "train") for known in (calm, run))
    for value in ("loss", "gradient_norm"):  # of the same samples
        assert divided[value] == pytest.approx(undivided[value], rel=1e-4)


def test_a_sample_of_114000_characters_trains(tmp_path: Path) -> None:
    samples = make_samples(15)
    lines = "".join(f"    total_{n % 97} = total_{n % 89} + {n}\n" for n in range(4400))
    samples[0]["code"] = f"{samples[0]['code']}{lines}"
    assert len(str(samples[0]["code"])) > 114_000
    (tmp_path / "samples.yaml").write_text(yaml.safe_dump({"samples": samples}))
    prepare(str(tmp_path / "samples.yaml"), tmp_path / "data")
    split_dataset(open_dataset(tmp_path / "data"), SplitPlan(seed=1))
    run = new_run(tmp_path / "data", tmp_path, epochs=1, max_length=256)
    stores = [
        open_token_store(Path(path))
        for path in (read_recipe(run.layout.recipe).train_store, read_recipe(run.layout.recipe).val_store)
    ]
    assert max(int(store.lengths.max()) for store in stores) > 50_000
    assert launch(run).finished
    assert all(np.isfinite(r["loss"]) for r in read_metrics(run.layout.metrics) if r["kind"] == "train")
