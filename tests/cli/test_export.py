"""`verify` as a gate: what it prints, and the exit codes."""

import json
from pathlib import Path

import pytest
from conftest import Cli
from tiny_bundle import make_bundle

from secauditai.export.onnx import export_onnx

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
