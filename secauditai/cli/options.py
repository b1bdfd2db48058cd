"""Options that commands share, and the flags derived from the settings."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from secauditai.config.leaves import Leaf, leaves
from secauditai.errors import ConfigError
from secauditai.mirror import open_mirror
from secauditai.storage import is_remote

Command = TypeVar("Command", bound=Callable[..., Any])

WORKSPACE_VARIABLE = "SECAUDITAI_WORKSPACE"
DEFAULT_WORKSPACE = ".secauditai"
WORKSPACE_HINT = "Give a local directory or s3://bucket/prefix."


def open_workspace(value: str) -> Path:
    """The directory of a workspace: itself, or this machine's mirror of a remote one.

    Raises:
        ConfigError, ClusterError: when it is neither, or cannot be reached.
    """
    if is_remote(value):
        return open_mirror(value)
    if "://" in value:
        raise ConfigError(f"{value} is no workspace", hint=WORKSPACE_HINT)
    workspace = Path(value).expanduser().absolute()
    nearest = next(path for path in (workspace, *workspace.parents) if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{value} is no workspace: {nearest} is a file", hint=WORKSPACE_HINT)
    return workspace


workspace_option = click.option(
    "--workspace",
    envvar=WORKSPACE_VARIABLE,
    default=DEFAULT_WORKSPACE,
    show_default=True,
    callback=lambda _ctx, _param, value: open_workspace(value),
    help="Directory or s3://bucket/prefix of runs, configurations, cache and MLflow database; also "
    f"{WORKSPACE_VARIABLE}.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout, all else on stderr."
)
address_option = click.option(
    "--address",
    default=None,
    help="Ray cluster to compute on: its Jobs API `http://head:8265`, a name in clusters.yaml, or `auto` and "
    "`head:6379` to attach to it; default this machine.",
)


def workspace_of(ctx: click.Context) -> Path:
    """The workspace of a command, whether it has the option or not."""
    given: Path | None = ctx.params.get("workspace")
    return given or open_workspace(os.environ.get(WORKSPACE_VARIABLE, DEFAULT_WORKSPACE))


class SettingType(click.ParamType[Any]):
    """A flag's value, checked by the setting it belongs to."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        self.name = "|".join(leaf.choices) if leaf.choices else leaf.types[0].__name__

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse the text; a wrong one is a usage error that names the flag."""
        try:
            return self.leaf.parse(value, where=None)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def setting_options(*names: str, aliases: Mapping[str, str] | None = None) -> Callable[[Command], Command]:
    """Add one flag per named setting; `given_settings` has those that the command line names.

    Args:
        names: settings; none means all.
        aliases: a second flag for some of them.
    """

    def decorate(function: Command) -> Command:
        for name in reversed(names or tuple(leaves())):
            more = [aliases[name]] if aliases and name in aliases else []
            function = _setting_option(leaves()[name], *more)(function)
        return function

    return decorate


def _setting_option(leaf: Leaf, *aliases: str) -> Callable[[Command], Command]:
    shown = leaf.help if leaf.default is None else f"{leaf.help}  [default: {leaf.default}]"
    if leaf.types == (bool,):
        declaration = f"{leaf.flag}/--no-{leaf.flag[2:]}"
        return click.option(declaration, leaf.name, default=None, expose_value=False, callback=_collect, help=shown)
    return click.option(
        leaf.flag,
        *aliases,
        leaf.name,
        type=SettingType(leaf),
        default=None,
        expose_value=False,
        callback=_collect,
        help=shown,
    )


def _collect(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if param.name and ctx.get_parameter_source(param.name) is not ParameterSource.DEFAULT:
        given_settings(ctx)[param.name] = value  # None too: `--max-steps null` unsets what a configuration says


def given_settings(ctx: click.Context) -> dict[str, Any]:
    """The settings that this command line names: the topmost layer."""
    settings: dict[str, Any] = ctx.meta.setdefault("secauditai.settings", {})
    return settings
