"""Light layers stay light: what every command imports first loads none of the heavy libraries."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "ray", "mlflow", "onnxruntime", "sklearn", "pandas")
LIGHT = ("secauditai.config.files", "secauditai.errors", "secauditai.metrics", "secauditai.cli.app", "secauditai.runs")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "config", "set", "c", "epochs", "3"]])
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: object) -> None:
    code = (
        "import sys; sys.argv = ['secauditai', *sys.argv[1:]]\n"
        "from secauditai.cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=str(tmp_path), check=True
    )
    assert done.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
