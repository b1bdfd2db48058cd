import json
from pathlib import Path

import pytest
import torch
from torch import nn

from secauditai.errors import RunError
from secauditai.training.checkpoint import (
    CheckpointLayout,
    TrainState,
    clear_directory,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
    read_state,
    resolve_checkpoint,
    take_snapshot,
    write_snapshot,
)
from secauditai.training.writer import CheckpointWriter


class Tied(nn.Module):
    """Two names of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


def trained() -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.second(model.first(torch.ones(2, 3))).sum().backward()
    optimizer.step()
    return model, optimizer


def write(directory: Path, step: int, best: int | None = None) -> CheckpointLayout:
    model, optimizer = trained()
    return write_snapshot(directory, take_snapshot(model, optimizer, TrainState(global_step=step, best_step=best)))


def damage(checkpoint: CheckpointLayout, how: str = "flipped") -> None:
    if how == "truncated":
        checkpoint.weights.write_bytes(checkpoint.weights.read_bytes()[:50])
    elif how == "no manifest":
        checkpoint.manifest.unlink()
    elif how == "renamed":
        checkpoint.root.rename(checkpoint.root.with_name("checkpoint_99"))
    else:
        raw = bytearray(checkpoint.optimizer.read_bytes())
        raw[-1] ^= 1
        checkpoint.optimizer.write_bytes(raw)


def test_what_is_written_comes_back_to_the_bit(tmp_path: Path) -> None:
    model, optimizer = trained()
    state = TrainState(global_step=7, best_value=0.5, best_step=7, stale_validations=2, micro_batch_tokens=64)
    checkpoint = write_snapshot(tmp_path, take_snapshot(model, optimizer, state))
    torch.manual_seed(2)
    other = Tied()
    again = torch.optim.AdamW(other.parameters(), fused=True)
    assert load_checkpoint(checkpoint, other, again) == state == read_state(checkpoint)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    ours, theirs = optimizer.state_dict()["state"], again.state_dict()["state"]
    assert all(torch.equal(ours[n][key], theirs[n][key]) for n in ours for key in ours[n])


def test_a_snapshot_does_not_follow_the_training(tmp_path: Path) -> None:
    model, optimizer = trained()
    before = model.first.weight.detach().clone()
    snapshot = take_snapshot(model, optimizer, TrainState(global_step=1))
    with torch.no_grad():
        model.first.weight.zero_()
    load_checkpoint(write_snapshot(tmp_path, snapshot), model, None)
    assert torch.equal(model.first.weight, before)


@pytest.mark.parametrize("how", ["truncated", "no manifest", "flipped", "renamed"])
def test_a_damaged_checkpoint_is_reported_and_passed_over(tmp_path: Path, how: str) -> None:
    write(tmp_path, 3)
    damage(write(tmp_path, 6), how)
    said: list[str] = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None
    assert found.step == 3
    assert len(said) == 1
    assert "damaged checkpoint" in said[0]
    assert resolve_checkpoint(tmp_path, "latest").step == 3


def test_one_whose_best_is_damaged_is_passed_over_until_the_best_is_made_again(tmp_path: Path) -> None:
    write(tmp_path, 3)
    best = write(tmp_path, 6, best=6)
    write(tmp_path, 9, best=6)
    assert newest_checkpoint(tmp_path, print).step == 9  # type: ignore[union-attr]
    assert resolve_checkpoint(tmp_path, "best").step == 6
    damage(best)
    assert newest_checkpoint(tmp_path, print).step == 3  # type: ignore[union-attr]
    assert len(clear_directory(tmp_path, 3)) == 2
    assert [c.step for c in list_checkpoints(tmp_path)] == [3]


@pytest.mark.parametrize("wanted", ["4", "²", "checkpoint_³.pt", "nowhere", "\0"])
def test_a_checkpoint_that_is_not_there(tmp_path: Path, wanted: str) -> None:
    write(tmp_path, 3)
    with pytest.raises(RunError, match=r"there is no checkpoint .* Steps with a checkpoint: 3"):
        resolve_checkpoint(tmp_path, wanted)


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, print) is None
    for step in (0, 3):
        damage(write(tmp_path, step))
    with pytest.raises(
        RunError, match=r"all 2 checkpoints are damaged.*optimizer\.safetensors differs.*start a new run"
    ):
        newest_checkpoint(tmp_path, print)


def test_pruning_keeps_the_newest_and_what_they_call_best(tmp_path: Path) -> None:
    for step, best in ((0, None), (2, 2), (4, 2), (6, 6), (8, 6)):
        write(tmp_path, step, best)
    prune_checkpoints(tmp_path, 3)
    assert [c.step for c in list_checkpoints(tmp_path)] == [2, 4, 6, 8]
    prune_checkpoints(tmp_path, 1)
    assert [c.step for c in list_checkpoints(tmp_path)] == [6, 8]


def test_pruning_neither_counts_nor_stumbles_over_what_is_damaged(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8):
        write(tmp_path, step, step)
    (CheckpointLayout(tmp_path / "checkpoint_4").state).write_text("{")
    (CheckpointLayout(tmp_path / "checkpoint_6").state).unlink()
    prune_checkpoints(tmp_path, 2)
    assert [c.step for c in list_checkpoints(tmp_path)] == [2, 4, 6, 8]
    prune_checkpoints(tmp_path, 1)
    assert [c.step for c in list_checkpoints(tmp_path)] == [4, 6, 8]


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / ".checkpoint_6.77.partial").mkdir()
    assert clear_directory(tmp_path, 3) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_3"]


def test_where_training_ends_the_checkpoint_is_there_at_once(tmp_path: Path) -> None:
    model, optimizer = trained()
    before = model.first.weight.detach().clone()
    (tmp_path / "metrics.jsonl").touch()
    writer = CheckpointWriter(tmp_path / "c", tmp_path / "metrics.jsonl", keep=None)
    writer.write(model, optimizer, TrainState(global_step=3, finished=True))
    with torch.no_grad():
        model.first.weight.zero_()
    load_checkpoint(list_checkpoints(tmp_path / "c")[-1], model, None)
    assert torch.equal(model.first.weight, before)
    writer.close()


def test_a_writer_writes_in_order_and_after_a_failure_nothing_more(tmp_path: Path) -> None:
    model, optimizer = trained()
    (tmp_path / "metrics.jsonl").touch()
    writer = CheckpointWriter(tmp_path / "c", tmp_path / "metrics.jsonl", keep=2)
    for step in range(5):
        writer.write(model, optimizer, TrainState(global_step=step))
    writer.wait()
    assert [c.step for c in list_checkpoints(tmp_path / "c")] == [3, 4]
    (tmp_path / "metrics.jsonl").unlink()
    for step in (5, 6):
        writer.write(model, optimizer, TrainState(global_step=step))
    with pytest.raises(
        RunError, match=r"checkpoint_5 could not be written: .*The last good checkpoint is checkpoint_4"
    ):
        writer.wait()
    assert writer.failed
    writer.close()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["checkpoint_3", "checkpoint_4"]
    manifest = json.loads(list_checkpoints(tmp_path / "c")[-1].manifest.read_text())
    assert manifest["global_step"] == 4
