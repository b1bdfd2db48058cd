"""Configuration files and how they combine: defaults < configuration file < flags.

A layer is a flat mapping from leaf name to value or `Space`. Files may group settings by section or not.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from secauditai.config.leaves import did_you_mean, find_leaf, leaves, sections
from secauditai.config.reading import place_of, read_yaml
from secauditai.config.settings import TrainConfig
from secauditai.config.spaces import Space, looks_like_space, parse_space
from secauditai.errors import ConfigError
from secauditai.files import whole_file
from secauditai.mirror import send, withdraw

LONGEST_NAME = 64
NAME_PATTERN = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
ENDINGS = (".yaml", ".yml")
Layer = dict[str, Any]


def check_name(name: str, what: str, *, remedy: str = "") -> str:
    """Return a configuration, run or model name that is safe as a directory name.

    Args:
        name: the name.
        what: what it is the name of.
        remedy: how to give another one, in a sentence.

    Raises:
        ConfigError: when it is not.
    """
    if not NAME_PATTERN.fullmatch(name):
        rule = f"A name has up to {LONGEST_NAME} letters, digits, dots, dashes and underscores"
        rule += " and starts with a letter or digit."
        raise ConfigError(f"{what} {name!r} is not a name", hint=f"{rule} {remedy}".strip())
    return name


def read_layer(path: Path) -> Layer:
    """Read the settings of a YAML file, grouped by section or flat.

    Raises:
        ConfigError: with file and line for anything that is not a known setting with an acceptable value.
    """
    raw = read_yaml(path)
    if raw is None:
        raise ConfigError("the file holds no settings", where=str(path), hint="For the defaults, leave --config out.")
    if not isinstance(raw, Mapping):
        raise ConfigError("a configuration is a mapping of settings", where=str(path))
    return parse_layer(raw, where=str(path))


def parse_layer(raw: Mapping[Any, Any], *, where: str | None = None) -> Layer:
    """Check raw settings, flat or by section, into a layer."""
    layer: Layer = {}
    for key, value in raw.items():
        if key in sections():
            if not isinstance(value, Mapping):
                place = place_of(raw, key, where)
                raise ConfigError(f"{key} is a section and needs settings below it", where=place)
            for name, item in value.items():
                _put(layer, f"{key}.{name}", item, place_of(value, name, where))
        else:
            _put(layer, str(key), value, place_of(raw, key, where))
    return layer


def _put(layer: Layer, key: str, value: Any, where: str | None) -> None:
    leaf = find_leaf(key, where=where)
    if leaf.name in layer:
        raise ConfigError(f"{leaf.name} is set twice", where=where)
    layer[leaf.name] = (
        parse_space(leaf, value, where=where) if looks_like_space(value) else leaf.parse(value, where=where)
    )


def resolve_config(*layers: Mapping[str, Any], allow_spaces: bool = False) -> TrainConfig:
    """Combine layers, later ones winning, over the defaults.

    A search space is refused unless `allow_spaces`; then its setting keeps the default here, see `spaces_of`.

    Raises:
        ConfigError: when settings contradict each other or a space cannot be run.
    """
    merged: dict[str, dict[str, Any]] = {}
    for name, value in merge_layers(*layers).items():
        leaf = leaves()[name]
        if isinstance(value, Space):
            if allow_spaces:
                continue
            raise ConfigError(
                f"{name} is a search space ({value.kind})", hint="Only `secauditai train tune` runs it; set one value."
            )
        merged.setdefault(leaf.section, {})[name] = value
    try:
        return TrainConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from None


def merge_layers(*layers: Mapping[str, Any]) -> Layer:
    """One layer in which later layers win."""
    return {name: value for layer in layers for name, value in layer.items()}


def spaces_of(layer: Mapping[str, Any]) -> dict[str, Space]:
    """The search spaces of a layer."""
    return {name: value for name, value in layer.items() if isinstance(value, Space)}


def is_layer_file(name: str) -> bool:
    """Whether a configuration is named by the path of a YAML file."""
    return name.endswith(ENDINGS) and Path(name).is_file()


def name_of_config(given: str) -> str:
    """The name of a configuration that is given by its name or as a YAML file."""
    return Path(given).stem if is_layer_file(given) else given


def write_layer(path: Path, layer: Mapping[str, Any]) -> None:
    """Write a layer grouped by section, whole or not at all."""
    grouped: dict[str, dict[str, Any]] = {}
    for name, leaf in leaves().items():
        if name in layer:
            value = layer[name]
            grouped.setdefault(leaf.section, {})[name] = value.plain() if isinstance(value, Space) else value
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(yaml.safe_dump(grouped, sort_keys=False, allow_unicode=True), encoding="utf-8")


class NamedConfigs:
    """The configurations of a workspace: `configs/<name>.yaml`."""

    def __init__(self, workspace: Path) -> None:
        self.directory = workspace / "configs"

    def path(self, name: str) -> Path:
        """Where the configuration of this name is or would be."""
        return self.directory / f"{check_name(name, 'configuration')}.yaml"

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(path.stem for path in self.directory.glob("*.yaml"))

    def create(self, name: str, layer: Mapping[str, Any], *, overwrite: bool = False) -> Path:
        """Write a new configuration.

        Raises:
            ConfigError: when there is one of that name already.
        """
        path = self.path(name)
        if path.exists() and not overwrite:
            raise ConfigError(
                f"the configuration {name} exists already", where=str(path), hint="Use --overwrite, or `config set`."
            )
        write_layer(path, layer)
        send(path)
        return path

    def read(self, name: str) -> Layer:
        """The settings of a configuration by its name, or of a YAML file by its path.

        Raises:
            ConfigError: when there is none, with the nearest names.
        """
        if is_layer_file(name):
            return read_layer(Path(name))
        if name.endswith(ENDINGS) and not (self.directory / f"{name}.yaml").is_file():
            hint = "`secauditai train config list` shows the configurations that have names."
            raise ConfigError("there is no such file", where=name, hint=hint)
        path = self.path(name)
        if not path.is_file():
            see = f"`secauditai train config create --name {name}` makes one."
            raise ConfigError(
                f"there is no configuration {name!r}", where=str(path), hint=did_you_mean(name, self.names(), see=see)
            )
        return read_layer(path)

    def change(self, name: str, changes: Mapping[str, Any]) -> Layer:
        """Set some settings of a configuration after checking that the whole still agrees; return all of it."""
        layer = merge_layers(self.read(name), changes)
        resolve_config(layer, allow_spaces=True)
        if is_layer_file(name):
            write_layer(Path(name), layer)
            return layer
        write_layer(self.path(name), layer)
        send(self.path(name))
        return layer

    def rename(self, name: str, new: str) -> Path:
        """Give a configuration another name, and leave its file as it is."""
        path = self.path(name).rename(self.path(new))
        send(path)
        withdraw(self.path(name))
        return path

    def delete(self, name: str) -> Path:
        """Remove a configuration; its runs keep their own copy.

        Raises:
            ConfigError: when there is none, or the name is that of a file.
        """
        if is_layer_file(name):
            raise ConfigError("that is a file of yours, no named configuration", where=name, hint="Remove it yourself.")
        self.read(name)
        path = self.path(name)
        path.unlink()
        withdraw(path)
        return path
