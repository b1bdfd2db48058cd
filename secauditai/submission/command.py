"""A command line as the cluster runs it: what it reads is staged, what it writes comes back afterwards."""

import tempfile
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from secauditai.config.files import NamedConfigs, read_layer, write_layer
from secauditai.config.leaves import leaves
from secauditai.config.spaces import Space
from secauditai.data.replacing import check_place
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

    @property
    def changes_its_data(self) -> bool:
        """Whether the output is the user's own dataset, which a command that fails must leave alone."""
        return not CHANGES_ITS_DATA.isdisjoint(self.arguments[:2])


def rewrite(ctx: click.Context, arguments: Sequence[str], stager: Stager, job_key: str) -> RemoteCommand:
    """Translate a command line for the cluster, staging what it reads.

    Args:
        ctx: the command's context.
        arguments: its options as the user wrote them.
        stager: puts files into the workspace's storage.
        job_key: the job's own directory there.

    Raises:
        ConfigError: when an output is occupied or an input does not exist.
        DataError: when the directory to replace is the current one.
    """
    given, _rest, order = ctx.command.make_parser(ctx).parse_args(list(arguments))
    options = {param.name: param for param in ctx.command.params if isinstance(param, click.Option)}
    named = {str(param.name) for param in order}
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
                check_place(Path(item))
                key = f"{job_key}/output/{Path(item).name}"
                outputs[key] = _output(flag, Path(item).absolute(), key, stager, overwrite=bool(given.get("overwrite")))
                words += [flag, stager.storage.at(key)]
            else:
                words += [flag, _staged(flag, item, stager, named)]
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


def _staged(flag: str, value: str, stager: Stager, given: Container[str]) -> str:
    """What an option says on the cluster.

    Args:
        flag: the option.
        value: what it says here.
        stager: puts files into the workspace's storage.
        given: settings that the command line itself has; a configuration's own do not count then.
    """
    if flag in DATA:
        return stager.stage_data(value)
    if flag in CONFIG:
        if Path(value).is_file():
            return _staged_config(Path(value), stager, given)
        configs = NamedConfigs(stager.workspace)
        configs.read(value)
        return _staged_config(configs.path(value), stager, given)
    if flag in FILES and Path(value).exists():
        return stager.stage(Path(value))
    return value


def _staged_config(path: Path, stager: Stager, given: Container[str]) -> str:
    """Stage a configuration; one that names files here is sent with what they are called on the cluster."""
    layer = read_layer(path)
    there = dict(layer)
    for name, value in layer.items():
        flag = leaves()[name].flag
        if flag not in DATA | FILES or name in given:
            continue
        if isinstance(value, Space):
            choices = tuple(_staged(flag, str(choice), stager, given) for choice in value.values)
            there[name] = replace(value, values=choices)
        elif value is not None:
            there[name] = _staged(flag, str(value), stager, given)
    if there == layer:
        return stager.stage(path)
    with tempfile.TemporaryDirectory() as directory:
        rewritten = Path(directory) / path.name
        write_layer(rewritten, there)
        return stager.stage(rewritten)


def shown(arguments: Sequence[Any]) -> str:
    """A command for people: without the flags that only machines need."""
    return "secauditai " + " ".join(str(word) for word in arguments)
