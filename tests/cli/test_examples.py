"""The examples in the help of the commands, as written."""

import re
import shlex
from pathlib import Path

import click
import pytest
from conftest import Cli

from secauditai.cli.app import cli as root

IN_ORDER = (
    "train prepare",
    "train validate",
    "train split",
    "train config create",
    "train config set",
    "train config show",
    "train config list",
    "train config delete",
    "train config",
    "train base",
    "train finetune",
    "train start",
    "train tune",
    "train",
    "runs list",
    "runs prune",
    "runs",
)
"""Commands whose examples run, each after what it needs; those of others need a model, a finished run or a cluster."""


def commands(group: click.Group, *path: str) -> dict[str, click.Command]:
    """A group and all commands below it, by their words after `secauditai`."""
    context, found = click.Context(group), {" ".join(path): group}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        below = commands(command, *path, name) if isinstance(command, click.Group) else {}
        found |= {" ".join([*path, name]): command, **below}
    return found


COMMANDS = commands(root)


def example_lines(command: click.Command) -> list[list[str]]:
    """The words of each example, without `secauditai`."""
    _, _, examples = re.split(r"^\s*(Examples?):\n", str(command.help), flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in examples.splitlines() if line.strip()]


def called(words: list[str]) -> tuple[str, list[str]]:
    """The command that a line calls, and its arguments."""
    name = max((name for name in COMMANDS if words[: len(name.split())] == name.split()), key=len)
    return name, words[len(name.split()) :]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in example_lines(COMMANDS[name]):
        command, arguments = called(words)
        COMMANDS[command].make_context(command, arguments)


@pytest.mark.slow
def test_examples_run_one_after_the_other(cli: Cli) -> None:
    for name in IN_ORDER:
        for words in example_lines(COMMANDS[name]):
            options = {option for param in COMMANDS[called(words)[0]].params for option in param.opts}
            result = cli(*words, *(["--dry-run"] if {"--dry-run", "--data"} <= options else []))
            assert result.code == 0, f"{shlex.join(words)}\n{result.out}\n{result.err}"
