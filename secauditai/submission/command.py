"""A command line as the cluster runs it: what it reads is staged, what it writes comes back afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from secauditai.config.files import NamedConfigs
from secauditai.errors import ConfigError
from secauditai.storage import is_remote
from secauditai.submission.staging import Stager

DATA = frozenset({"--dataset", "--data", "--test-data", "--extend"})
CONFIG = frozenset({"--config"})
FILES = frozenset({"--model", "--original"})
"""Options that name a file or directory, or something that is none and travels as it is."""
OUTPUT = frozenset({"--output", "--report"})
DROPPED = frozenset({"--address", "--workspace", "--json"})
CHANGES_ITS_DATA = frozenset({"split"})
"""Commands that write into the dataset they are given."""


@dataclass(frozen=True)
class RemoteCommand:
    """What the cluster is asked to run."""

    arguments: list[str]
    """The command and its options, as the cluster gets them."""
    outputs: dict[str, Path] = field(default_factory=dict)
    """Key in the storage to the local path it comes back to."""


def rewrite(ctx: click.Context, arguments: Sequence[str], stager: Stager, job_key: str) -> RemoteCommand:
    """Translate a command line for the cluster, staging what it reads.

    Args:
        ctx: the command's context.
        arguments: its options as the user wrote them.
        stager: puts files into the workspace's storage.
        job_key: the job's own directory there.

    Raises:
        ConfigError: when an output is occupied or an input does not exist.
    """
    given, _rest, order = ctx.command.make_parser(ctx).parse_args(list(arguments))
    options = {param.name: param for param in ctx.command.params if isinstance(param, click.Option)}
    words: list[str] = ctx.command_path.split()[1:]
    outputs: dict[str, Path] = {}
    for param in dict.fromkeys(order):
        option, value = options[str(param.name)], given[str(param.name)]
        flag = max(option.opts, key=len)
        for item in value if isinstance(value, list) else [value]:
            if flag in DROPPED:
                continue
            if option.is_flag:
                words.append(flag if item else max(option.secondary_opts, key=len))
            elif not isinstance(item, str):  # an option that was given without its optional value
                words.append(flag)
            elif is_remote(item):
                words += [flag, item]
            elif flag in OUTPUT or (flag in DATA and ctx.command.name in CHANGES_ITS_DATA):
                key = f"{job_key}/output/{Path(item).name}"
                outputs[key] = _output(flag, Path(item).absolute(), key, stager, overwrite=bool(given.get("overwrite")))
                words += [flag, stager.storage.at(key)]
            else:
                words += [flag, _staged(flag, item, stager)]
    return RemoteCommand(words, outputs)


def _output(flag: str, path: Path, key: str, stager: Stager, *, overwrite: bool) -> Path:
    """Make a place for what the command writes; a dataset that it changes goes there first."""
    if flag in DATA:
        stager.storage.upload_tree(path, key)
        return path
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not overwrite:
        raise ConfigError(f"{path} exists already", hint="Choose another output, or use --overwrite.")
    return path


def _staged(flag: str, value: str, stager: Stager) -> str:
    """What an option says on the cluster."""
    if flag in DATA:
        return stager.stage_data(value)
    if flag in CONFIG:
        if Path(value).is_file():
            return stager.stage(Path(value))
        named = NamedConfigs(stager.workspace)
        named.read(value)
        return stager.stage(named.path(value))
    if flag in FILES and Path(value).exists():
        return stager.stage(Path(value))
    return value


def shown(arguments: Sequence[Any]) -> str:
    """A command for people: without the flags that only machines need."""
    return "secauditai " + " ".join(str(word) for word in arguments)
