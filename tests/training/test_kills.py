"""Real processes, really killed: what is resumed equals what was never disturbed, bit for bit."""

from pathlib import Path

import pytest
from killed import die_at
from training_runs import copy_run, history, new_run, weights, write_dataset

from secauditai.runs import Run
from secauditai.training.checkpoint import list_checkpoints
from secauditai.training.loop import train_rank

pytestmark = pytest.mark.slow

SETTINGS = {"micro_batch_tokens": 96, "eval_interval": 2, "keep_checkpoints": 2}
"""Several micro-batches in a step, several validations in a run, checkpoints that go."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = write_dataset(tmp_path_factory.mktemp("data"), pairs=15)
    return new_run(data, tmp_path_factory.mktemp("w"), checkpoint_interval=1, **SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(prepared: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = copy_run(prepared, tmp_path_factory.mktemp("u"))
    assert train_rank(run.root, 0, 1) is not None
    return run


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("mid-accumulation", 2),
        ("mid-accumulation", 11),
        ("evaluation", 1),
        ("evaluation", 4),
        ("checkpoint half-written", 1),
        ("checkpoint half-written", 6),
        ("checkpoint not renamed", 1),
        ("checkpoint not renamed", 3),
        ("checkpoint renamed", 2),
        ("checkpoint deleted by half", 1),
    ],
)
def test_a_killed_run_goes_on_bit_for_bit(
    prepared: Run, undisturbed: Run, tmp_path: Path, place: str, count: int
) -> None:
    run = copy_run(prepared, tmp_path)
    die_at(run, place, count)
    state = train_rank(run.root, 0, 1)
    assert state is not None
    assert state.finished
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)
    assert [c.step for c in list_checkpoints(run.layout.checkpoints)] == [
        c.step for c in list_checkpoints(undisturbed.layout.checkpoints)
    ]
    assert not [path for path in run.layout.checkpoints.iterdir() if path.name.startswith(".")]


def test_a_run_may_die_again_and_again(prepared: Run, undisturbed: Run, tmp_path: Path) -> None:
    run = copy_run(prepared, tmp_path)
    for place, count in [("mid-accumulation", 3), ("checkpoint not renamed", 1), ("evaluation", 1), ("evaluation", 3)]:
        die_at(run, place, count)
    train_rank(run.root, 0, 1)
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)


@pytest.mark.parametrize(
    ("count", "settings"),
    [
        (13, {"early_stopping": 2, "learning_rate": 1e-9, "optimizer": "sgd", "augment": True, "augment_variants": 2}),
        (9, {"max_length": 16, "stride": 3, "max_windows": 2, "sampling": "balanced", "optimizer": "adafactor"}),
        (9, {"precision": "bf16", "gradient_checkpointing": True, "optimizer": "adam", "loss_function": "focal"}),
    ],
    ids=["early stopping", "drawn windows", "bf16"],
)
def test_what_influences_a_step_survives_whatever_the_settings(
    tmp_path: Path, count: int, settings: dict[str, object]
) -> None:
    data = write_dataset(tmp_path, pairs=15)
    prepared = new_run(data, tmp_path / "w", **{**SETTINGS, "checkpoint_interval": 1, "epochs": 4, **settings})
    undisturbed, run = copy_run(prepared, tmp_path / "u"), copy_run(prepared, tmp_path / "k")
    state = train_rank(undisturbed.root, 0, 1)
    assert state is not None
    assert (state.global_step < 12) == ("early_stopping" in settings)
    die_at(run, "mid-accumulation", count)
    begun = list_checkpoints(run.layout.checkpoints)[-1].step
    assert 0 < begun < state.global_step
    train_rank(run.root, 0, 1)
    assert weights(run) == weights(undisturbed)
    assert history(run) == history(undisturbed)
