"""`verify` as a gate: what it prints, and the exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Cli
from tiny_bundle import make_bundle

from secauditai.export.onnx import export_onnx
from secauditai.models.bundle import Bundle, open_bundle, refresh_manifest
from secauditai.models.classifier import VulnerabilityClassifier

pytestmark = pytest.mark.slow


def test_verify_ends_with_3_when_the_file_is_of_another_model(cli: Cli, tmp_path: Path) -> None:
    export_onnx(make_bundle(tmp_path / "mine"), tmp_path / "m.onnx")
    make_bundle(tmp_path / "other", seed=9)
    make_bundle(tmp_path / "task", heads={"severity_prediction": ["none", "low", "high"]})

    same = cli("train", "verify", "--model", "m.onnx", "--original", "mine")
    assert same.code == 0, same.err
    assert "m.onnx: verified, 1 check skipped" in same.out

    other = cli("train", "verify", "--model", "m.onnx", "--original", "other")
    assert other.code == 3
    assert "m.onnx: NOT verified" in other.out
    assert "Error" not in other.err

    task = cli("train", "verify", "--model", "m.onnx", "--original", "task", "--json")
    assert task.code == 3
    assert json.loads(task.out)["ok"] is False


def with_strong_heads(directory: Path, long_code: str) -> Bundle:
    """A model whose logits depend on what each window says and on how windows are weighed."""
    from safetensors.torch import load_file, save_file

    bundle = make_bundle(directory)
    layout, card = bundle.layout, bundle.card.model_copy(update={"long_code": long_code})
    save_file({name: 20 * value for name, value in load_file(layout.heads).items()}, layout.heads)
    layout.card.write_text(card.model_dump_json())
    refresh_manifest(layout)
    return open_bundle(directory)


def first_window(_model: VulnerabilityClassifier, vectors: torch.Tensor, _mask: torch.Tensor) -> torch.Tensor:
    return vectors[:, 0]


def mean_of_all_windows(_model: VulnerabilityClassifier, vectors: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = (mask / mask.sum(dim=1, keepdim=True)).to(vectors.dtype)
    return (weights.unsqueeze(-1) * vectors).sum(dim=1)


def attention_to_padding_too(
    model: VulnerabilityClassifier, vectors: torch.Tensor, _mask: torch.Tensor
) -> torch.Tensor:
    return (torch.softmax(model.window_attention(vectors), dim=1) * vectors).sum(dim=1)


@pytest.mark.parametrize(
    ("pooling", "long_code"),
    [(first_window, "truncate"), (mean_of_all_windows, "windows"), (attention_to_padding_too, "windows")],
)
def test_verify_finds_another_pooling_of_windows_by_samples_of_one_window(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pooling: Callable[..., torch.Tensor],
    long_code: str,
) -> None:
    bundle = with_strong_heads(tmp_path / "mine", long_code)
    short = [{"id": f"s{n}", "code": f"value_{n} = {n}\n", "label": "safe"} for n in range(20)]
    (tmp_path / "short.json").write_text(json.dumps(short))
    verify = ("train", "verify", "--original", "mine", "--data", "short.json", "--model")

    export_onnx(bundle, tmp_path / "right.onnx")
    right = json.loads(cli(*verify, "right.onnx", "--json").out)
    assert right["ok"], right
    assert right["samples_by_windows"] == {"1": 20, "2": 1, "4": 1}

    def classify(model: VulnerabilityClassifier, vectors: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        return {task: head(pooling(model, vectors, mask)) for task, head in model.heads.items()}

    with monkeypatch.context() as patch:
        patch.setattr(VulnerabilityClassifier, "classify", classify)
        export_onnx(bundle, tmp_path / "wrong.onnx")
    wrong = cli(*verify, "wrong.onnx")
    assert wrong.code == 3, wrong.out
    assert "failed   agreement with torch" in wrong.out
    assert "on 20 samples of 1 to 1 windows in batches, 8 of them alone, and joined to 2 and 4 windows" in wrong.out
