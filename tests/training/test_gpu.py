"""Training on CUDA devices. Written for hardware that the project's own machines do not have: skipped without it."""

from pathlib import Path

import pytest
import torch
from training_runs import history, new_run, weights, write_dataset

from secauditai.runs import read_metrics
from secauditai.training.launch import launch
from secauditai.training.recipe import read_recipe

DEVICES = torch.cuda.device_count() if torch.cuda.is_available() else 0
one_device = pytest.mark.skipif(DEVICES < 1, reason="needs a CUDA device")
two_devices = pytest.mark.skipif(DEVICES < 2, reason="needs two CUDA devices")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.gpu
@one_device
def test_a_step_on_a_device_agrees_with_the_cpu(data: Path, tmp_path: Path) -> None:
    settings = {"model_size": "tiny", "dropout": 0.0, "max_steps": 3}
    on_device = new_run(data, tmp_path, gpu="0", **settings)
    on_cpu = new_run(data, tmp_path, **settings)
    recipe = read_recipe(on_cpu.layout.recipe).model_copy(update={"device": "cpu"})
    on_cpu.layout.recipe.write_text(recipe.model_dump_json())
    assert read_recipe(on_device.layout.recipe).device == "cuda"
    for run in (on_device, on_cpu):
        assert launch(run).finished
    losses = [
        [record["loss"] for record in read_metrics(run.layout.metrics) if record["kind"] == "train"]
        for run in (on_device, on_cpu)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.gpu
@one_device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stop_and_resume_on_a_device_is_bit_identical(data: Path, tmp_path: Path, precision: str) -> None:
    runs = [new_run(data, tmp_path, gpu="0", precision=precision) for _ in range(2)]
    assert launch(runs[0]).finished
    assert launch(runs[1]).finished
    newest = sorted(runs[1].layout.checkpoints.iterdir())[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert launch(runs[1]).finished
    assert weights(runs[1]) == weights(runs[0])
    assert history(runs[1]) == history(runs[0])


@pytest.mark.gpu
@one_device
def test_micro_batches_shrink_when_the_device_is_full(data: Path, tmp_path: Path) -> None:
    run = new_run(data, tmp_path, gpu="0", micro_batch_tokens=65_536, max_steps=2, batch_size=64)
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        assert launch(run).finished
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    records = read_metrics(run.layout.metrics)
    assert all("loss" in record for record in records if record["kind"] == "train")
    assert [record["event"] for record in records if record["kind"] == "event"][:1] == ["out_of_memory"]


@pytest.mark.gpu
@pytest.mark.ray
@two_devices
def test_two_devices_train_together_over_nccl(data: Path, tmp_path: Path, ray_cluster: str) -> None:
    run = new_run(data, tmp_path, gpu="0,1", num_workers=2, max_steps=4)
    assert read_recipe(run.layout.recipe).device == "cuda"
    assert launch(run).finished
    assert (run.layout.logs / "rank_1.log").exists()
