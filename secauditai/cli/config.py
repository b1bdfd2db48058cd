"""`train config`: named configurations of the workspace."""

from pathlib import Path

import click

from secauditai.cli.options import given_settings, json_option, setting_options, workspace_option
from secauditai.cli.output import Output
from secauditai.config.files import NamedConfigs, merge_layers, resolve_config
from secauditai.config.leaves import Leaf, find_leaf, leaves
from secauditai.config.reading import parse_yaml
from secauditai.config.spaces import Space, parse_space
from secauditai.errors import ConfigError


@click.group()
def config() -> None:
    """Create, change and show named configurations.

    \b
    Example:
      secauditai train config create --name custom_model --type transformer
      secauditai train config set custom_model epochs 20 learning_rate 0.0001
    """


@config.command()
@click.option("--name", required=True, help="Name of the new configuration.")
@click.option(
    "--type", "model", default="transformer", show_default=True, help="Catalogue name, path or hub:ID to start from."
)
@click.option("--overwrite", is_flag=True, help="Replace a configuration of that name.")
@workspace_option
@json_option
def create(name: str, model: str, overwrite: bool, workspace: Path, as_json: bool) -> None:
    """Create a configuration.

    \b
    Example:
      secauditai train config create --name custom_model --type transformer
    """
    from secauditai.models.catalogue import check_model_type

    out = Output(as_json=as_json)
    check_model_type(model, workspace)
    path = NamedConfigs(workspace).create(name, {"model": model}, overwrite=overwrite)
    out.say(f"Created {path}: training starts from {model}; every other setting has its default.")
    out.next_step("train", "config", "set", name, "epochs", 20, "batch_size", 32)
    out.document({"name": name, "path": str(path), "model": model})


@config.command(name="set", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY VALUE [KEY VALUE]...")
@workspace_option
@json_option
@click.pass_context
def set_(ctx: click.Context, /, name: str, pairs: tuple[str, ...], workspace: Path, as_json: bool) -> None:
    """Change settings of a configuration: KEY VALUE KEY VALUE ….

    A value may be a search space for `train tune`, such as '{loguniform: [1.0e-6, 1.0e-3]}'.

    \b
    Example:
      secauditai train config set custom_model epochs 20 scheduler cosine
    """
    out = Output(as_json=as_json)
    for word in (name, *pairs):
        if word.startswith("--"):  # click has let them pass, as it does -1
            raise click.NoSuchOption(word, ctx=ctx)
    if len(pairs) % 2:
        raise ConfigError(f"{pairs[-1]} has no value", hint="Settings come in pairs: KEY VALUE KEY VALUE …")
    changes = _changes(pairs, workspace)
    layer = NamedConfigs(workspace).change(name, changes)
    for key, value in changes.items():
        out.say(f"{key} = {_shown(value)}")
    spaces = [key for key, value in layer.items() if isinstance(value, Space)]
    out.next_step("train", "tune" if spaces else "start", "--config", name, "--data", "security_dataset")
    out.document({"name": name, "settings": {key: _shown(value) for key, value in layer.items()}})


def _changes(pairs: tuple[str, ...], workspace: Path) -> dict[str, object]:
    from secauditai.models.catalogue import check_model_type

    changes: dict[str, object] = {}
    for key, text in zip(pairs[::2], pairs[1::2], strict=True):
        leaf = find_leaf(key)
        if leaf.name in changes:
            raise ConfigError(f"{leaf.name} is set twice", hint="Give one value.")
        changes[leaf.name] = value = _value(leaf, text)
        if leaf.name == "model":
            for model in value.values if isinstance(value, Space) else (value,):
                check_model_type(str(model), workspace, registered=True)
    return changes


def _value(leaf: Leaf, text: str) -> object:
    if text.lstrip().startswith("{"):
        try:
            raw = parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(
                f"{leaf.name}: {text!r} is no search space: {error.message}",
                hint="For example '{uniform: [0.0, 0.3]}'.",
            ) from None
        return parse_space(leaf, raw)
    return leaf.parse(text)


def _shown(value: object) -> object:
    return value.plain() if isinstance(value, Space) else value


@config.command()
@click.argument("name")
@workspace_option
@json_option
@setting_options()
@click.pass_context
def show(ctx: click.Context, name: str, workspace: Path, as_json: bool) -> None:
    """Show every setting of a configuration and where its value comes from; flags show what they would change.

    \b
    Example:
      secauditai train config show custom_model
    """
    out = Output(as_json=as_json)
    layer, flags = NamedConfigs(workspace).read(name), given_settings(ctx)
    resolved = resolve_config(layer, flags, allow_spaces=True).flat()
    merged = merge_layers(layer, flags)
    section = ""
    for leaf in leaves().values():
        if leaf.section != section:
            section = leaf.section
            out.say(f"{section}:")
        source = "flag" if leaf.name in flags else "file" if leaf.name in layer else "default"
        value = _shown(merged.get(leaf.name, resolved[leaf.name]))
        out.say(f"  {leaf.name}: {'null' if value is None else value}  ({source})")
    out.document({"name": name, "settings": {**resolved, **{k: _shown(v) for k, v in merged.items()}}})


@config.command(name="list")
@workspace_option
@json_option
def list_(workspace: Path, as_json: bool) -> None:
    """List the configurations of the workspace.

    \b
    Example:
      secauditai train config list
    """
    out = Output(as_json=as_json)
    names = NamedConfigs(workspace).names()
    for name in names:
        out.say(name)
    if not names:
        out.say("There is no configuration yet.")
        out.next_step("train", "config", "create", "--name", "custom_model", "--type", "transformer")
    out.document({"configs": names})


@config.command()
@click.argument("name")
@workspace_option
@json_option
def delete(name: str, workspace: Path, as_json: bool) -> None:
    """Delete a configuration; runs made with it keep their own copy.

    \b
    Example:
      secauditai train config delete custom_model
    """
    out = Output(as_json=as_json)
    path = NamedConfigs(workspace).delete(name)
    out.say(f"Deleted {path}.")
    out.document({"name": name, "deleted": str(path)})
