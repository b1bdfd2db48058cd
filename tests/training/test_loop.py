import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import history, new_run, weights, write_dataset

from secauditai.data.plan import MicroBatch
from secauditai.data.tokens import open_token_store
from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.runs import Run, read_metrics
from secauditai.training.checkpoint import list_checkpoints, newest_checkpoint, resolve_checkpoint
from secauditai.training.launch import launch, training_finished
from secauditai.training.loop import train_rank
from secauditai.training.objectives import Batch, Classification, balanced_weights, encode_labels, masked_tokens
from secauditai.training.optimizer import learning_rate_at
from secauditai.training.recipe import read_recipe
from secauditai.training.resume import resolve_resume
from secauditai.training.step import Stepper


class Killed(BaseException):
    """Stands for a process that dies on the spot."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = new_run(data, tmp_path_factory.mktemp("w"))
    assert launch(run).finished
    return run


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Steps at which the process dies, once each."""
    steps: set[int] = set()
    real_run = Stepper.run

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        if step in steps:
            steps.remove(step)
            raise Killed
        return real_run(self, plan, step, stop=stop)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "run", run)
    return steps


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


@pytest.mark.parametrize("deaths", [{1}, {2}, {5, 8}, {3, 4, 12}])
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(
    undisturbed: Run, data: Path, tmp_path: Path, dying: set[int], deaths: set[int]
) -> None:
    run = new_run(data, tmp_path)
    dying |= deaths
    for _ in deaths:
        with pytest.raises(Killed):
            train_rank(run.root, 0, 1)
    state = train_rank(run.root, 0, 1)
    assert state is not None
    assert state.finished
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)


@pytest.mark.parametrize("how", ["truncated", "no manifest", "flipped"])
def test_a_damaged_checkpoint_is_reported_and_passed_over(
    undisturbed: Run, data: Path, tmp_path: Path, dying: set[int], how: str
) -> None:
    run = new_run(data, tmp_path)
    dying |= {8}
    with pytest.raises(Killed):
        train_rank(run.root, 0, 1)
    newest = list_checkpoints(run.layout.checkpoints)[-1]
    if how == "truncated":
        newest.weights.write_bytes(newest.weights.read_bytes()[:1000])
    elif how == "no manifest":
        newest.manifest.unlink()
    else:
        raw = bytearray(newest.optimizer.read_bytes())
        raw[-1] ^= 1
        newest.optimizer.write_bytes(raw)
    said: list[str] = []
    found = newest_checkpoint(run.layout.checkpoints, said.append)
    assert found is not None
    assert found.step < newest.step
    assert newest.root.name in said[0]
    train_rank(run.root, 0, 1)
    assert weights(run) == weights(undisturbed)


def test_the_loop_goes_on_after_any_step_is_asked_to_stop(undisturbed: Run, data: Path, tmp_path: Path) -> None:
    import os
    import signal
    import threading
    import time

    run = new_run(data, tmp_path, epochs=2)

    def interrupt() -> None:
        while not read_metrics(run.layout.metrics):
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    first = launch(run)
    if not first.finished:
        assert run.info.status == "stopped"
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


def test_keep_checkpoints_keeps_the_newest_and_the_best(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, epochs=3, keep_checkpoints=1, checkpoint_interval=2)
    launch(run)
    assert len(list_checkpoints(run.layout.checkpoints)) <= 2
    assert resolve_checkpoint(run.layout.checkpoints, "best").manifest.exists()


def test_a_loss_that_is_not_finite_stops_with_step_samples_and_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secauditai.training.objectives import Classification

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
    undisturbed: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from secauditai.training.objectives import Classification

    run = new_run(data, tmp_path, micro_batch_tokens=1024)
    real = Classification.loss

    def crowded(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        if batch.input_ids.numel() > 200:  # type: ignore[attr-defined]
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(self, model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Classification, "loss", crowded)
    assert launch(run).finished
    events = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "event"]
    assert [event["micro_batch_tokens"] for event in events][:1] == [512]
    assert history(run)[len(events)]["loss"] == pytest.approx(history(undisturbed)[0]["loss"], rel=0.2)


def test_resume_continues_branches_or_says_complete(undisturbed: Run, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    shutil.copytree(undisturbed.root, workspace / "runs" / "m" / undisturbed.root.name)
    latest = resolve_resume(workspace, "m", "latest")
    assert not latest.branches
    assert not latest.complete
    latest.run.update(status="finished", model_version=1)
    assert resolve_resume(workspace, "m", "latest").complete
    older = resolve_resume(workspace, "m", "checkpoint_6.pt")
    assert older.branches
    branch = older.begin(workspace)
    assert branch.info.parent_run_id == undisturbed.root.name
    assert list_checkpoints(branch.layout.checkpoints)[-1].step == 6
    assert launch(branch).finished
    assert weights(branch) == weights(undisturbed)
    assert history(branch) == history(undisturbed)
    with pytest.raises(RunError, match=r"no checkpoint 'checkpoint_7\.pt'.*Steps with a checkpoint: "):
        resolve_resume(workspace, "m", "checkpoint_7.pt")


def test_other_library_versions_are_refused_with_the_difference(undisturbed: Run, tmp_path: Path) -> None:
    root = tmp_path / "runs" / "m" / undisturbed.root.name
    shutil.copytree(undisturbed.root, root)
    recipe = json.loads((root / "recipe.json").read_text())
    recipe["versions"]["torch"] = "1.0"
    write_json(root / "recipe.json", recipe)
    with pytest.raises(RunError, match=r"torch 1\.0 →"):
        resolve_resume(tmp_path, "m", "latest")


def test_schedules() -> None:
    from secauditai.config.settings import OptimizationSettings

    settings = OptimizationSettings(warmup_ratio=0.1, scheduler="linear")
    rates = [learning_rate_at(step, settings, 1.0, 100) for step in range(1, 101)]
    assert rates[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(1 / 90)
    cosine = OptimizationSettings(warmup_ratio=0.0, scheduler="cosine")
    assert learning_rate_at(51, cosine, 1.0, 100) == pytest.approx(0.5)
    constant = OptimizationSettings(warmup_ratio=0.0, scheduler="constant")
    assert learning_rate_at(77, constant, 1.0, 100) == 1.0


def test_focal_loss_counts_samples_less_that_are_right(data: Path, tmp_path: Path) -> None:
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
