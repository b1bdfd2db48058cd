"""The end of a run: its best weights become a bundle."""

from pathlib import Path

import pytest
import torch
from training_runs import new_run, write_dataset

from secauditai.training.finish import save_best
from secauditai.training.launch import launch
from secauditai.training.objectives import Batch, Classification

pytestmark = pytest.mark.slow


def test_memory_that_does_not_suffice_for_the_last_validation_makes_it_go_on_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(write_dataset(tmp_path), tmp_path / "workspace", max_steps=2, micro_batch_tokens=2048)
    assert launch(run, in_process=True).finished
    _, expected = save_best(run)
    real, sizes = Classification.outputs, list[int]()

    def crowded(self: Classification, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        if batch.input_ids.numel() > 100:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        sizes.append(batch.input_ids.numel())
        return real(self, model, batch)

    monkeypatch.setattr(Classification, "outputs", crowded)
    _, metrics = save_best(run)
    assert len(sizes) > 1
    assert metrics == pytest.approx(expected, abs=1e-4)
