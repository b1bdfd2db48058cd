"""Flags that are derived from the settings."""

import json
from pathlib import Path

import pytest
from conftest import Cli


def test_a_flag_unsets_what_a_configuration_says(cli: Cli) -> None:
    assert cli("train", "config", "create", "--name", "c", "--type", "transformer").code == 0
    assert cli("train", "config", "set", "c", "max_steps", 5, "gpu", 0, "augment", "yes").code == 0

    def shown(*flags: object) -> list[object]:
        settings = json.loads(cli("train", "config", "show", "c", *flags, "--json").out)["settings"]
        return [settings[name] for name in ("max_steps", "gpu", "augment", "model")]

    assert shown() == [5, "0", True, "transformer"]
    assert shown("--max-steps", "null", "--gpu", "none", "--no-augment") == [None, None, False, "transformer"]
    assert "max_steps: null  (flag)" in cli("train", "config", "show", "c", "--max-steps", "null").out


@pytest.mark.parametrize("line", ["runs list", "train config list", "train start", "train monitor --model m"])
@pytest.mark.parametrize("name", ["taken", "taken/below/it"])
def test_a_file_is_no_workspace(cli: Cli, tmp_path: Path, line: str, name: str) -> None:
    (tmp_path / "taken").write_text("mine")
    told = cli(*line.split(), "--workspace", name)
    assert told.code == 1
    where = f"{name} is no workspace: {tmp_path / 'taken'} is a file"
    assert told.err == f"Error: {where}. Give a local directory or s3://bucket/prefix.\n"


def test_the_next_step_is_in_the_workspace_that_was_named(cli: Cli, tmp_path: Path) -> None:
    words = ("train", "config", "create", "--type", "transformer", "--name")
    next_step = "Next: secauditai train config set {} epochs 20 batch_size 32{}\n"
    assert next_step.format("a", "") in cli(*words, "a").out
    elsewhere = tmp_path / "elsewhere"
    assert next_step.format("b", f" --workspace {elsewhere}") in cli(*words, "b", "--workspace", "elsewhere").out
