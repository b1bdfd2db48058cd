"""Light layers stay light: what every command imports first loads none of the heavy libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from secauditai.runs import create_run

HEAVY = ("torch", "transformers", "ray", "mlflow", "onnxruntime", "sklearn", "pandas")
LIGHT = ("secauditai.config.files", "secauditai.errors", "secauditai.metrics", "secauditai.cli.app", "secauditai.runs")


def heavy_imports(arguments: list[str], home: Path) -> set[str]:
    """The heavy libraries that a command has loaded at its end; it has to succeed."""
    code = (
        "import json, sys; sys.argv = ['secauditai', *sys.argv[1:]]\n"
        "from secauditai.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.strip().splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "finetune", "--help"], ["train", "tune", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    assert heavy_imports(arguments, tmp_path) == set()


@pytest.mark.slow
def test_settings_and_watching_import_nothing_heavy(tmp_path: Path) -> None:
    assert heavy_imports(["train", "config", "create", "--name", "c", "--type", "transformer"], tmp_path) == set()
    assert heavy_imports(["train", "config", "set", "c", "epochs", "3"], tmp_path) == set()
    create_run(tmp_path / ".secauditai", "watched", kind="start", task="vulnerability_detection", total_steps=3)
    assert heavy_imports(["train", "monitor", "--model", "watched", "--once"], tmp_path) == set()


@pytest.mark.slow
def test_small_data_needs_nothing_heavy(tmp_path: Path) -> None:
    # pyarrow imports pandas by itself where it is there.
    samples = [
        {"id": f"s{n}", "code": f"def f{n}(x):\n    return {n} * x", "label": ("safe", "vulnerability")[n % 2]}
        for n in range(40)
    ]
    (tmp_path / "raw.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    assert heavy_imports(["train", "prepare", "--dataset", "raw.json", "--output", "data"], tmp_path) <= {"pandas"}
    assert heavy_imports(["train", "validate", "--dataset", "data"], tmp_path) <= {"pandas"}
    assert heavy_imports(["train", "split", "--dataset", "data"], tmp_path) <= {"pandas"}


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
