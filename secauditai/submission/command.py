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
    words, outputs = ctx.command_path.split()[1:], {}
    for param in dict.fromkeys(order):
        option = options[str(param.name)]
        flag = max(option.opts, key=len)
        if flag in DROPPED:
            continue
        value = given[str(param.name)]
        for item in value if isinstance(value, list) else [value]:
            if not isinstance(item, str | bool):  # an option that was given without its optional value
                words.append(flag)
            elif option.is_flag:
                words.append(flag if item else max(option.secondary_opts, key=len))
            elif flag in OUTPUT and not is_remote(item):
                target = _check_output(Path(item), overwrite=bool(given.get("overwrite")))
                key = f"{job_key}/output/{target.name}"
                outputs[key] = target
                words += [flag, stager.storage.at(key)]
            elif flag in DATA and ctx.command.name in CHANGES_ITS_DATA and not is_remote(item):
                key = f"{job_key}/output/{Path(item).name}"
                stager.storage.upload_tree(Path(item), key)
                outputs[key] = Path(item).absolute()
                words += [flag, stager.storage.at(key)]
            else:
                words += [flag, _staged(flag, str(item), stager)]
    return RemoteCommand(words, outputs)


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


def _check_output(path: Path, *, overwrite: bool) -> Path:
    occupied = path.exists() and not (path.is_dir() and not any(path.iterdir()))
    if occupied and not overwrite:
        raise ConfigError(f"{path} exists already", hint="Choose another output, or use --overwrite.")
    return path.absolute()


def shown(arguments: Sequence[Any]) -> str:
    """A command for people: without the flags that only machines need."""
    return "secauditai " + " ".join(str(word) for word in arguments)
