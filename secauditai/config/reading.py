"""Small YAML that a user wrote, read safely: any mistake is one line with its place, whatever PyYAML makes of it."""

from collections.abc import Generator, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from secauditai.errors import ConfigError

DEEPEST = 32
"""Levels that may be nested; a search space in a section is at the fourth."""
TIMESTAMP = "tag:yaml.org,2002:timestamp"


class Placed(dict[Hashable, Any]):
    """A mapping that knows on which line of its file each key stands."""

    def __init__(self, lines: Mapping[str, int]) -> None:
        super().__init__()
        self.lines = lines


def place_of(mapping: Mapping[Any, Any], key: object, source: str | None) -> str | None:
    """Where a key stands, `file:line`; the file alone when the line is not known."""
    lines = mapping.lines if isinstance(mapping, Placed) else {}
    return f"{source}:{lines[str(key)]}" if source and str(key) in lines else source


class _Loader(yaml.SafeLoader):
    """Safe YAML in which dates stay text, and without aliases: settings need none, and a bomb needs them."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by PyYAML
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise self._refused("aliases are not allowed here", self.peek_event())  # type: ignore[no-untyped-call]
        if self.depth == DEEPEST:
            raise self._refused("nested too deeply", self.peek_event())  # type: ignore[no-untyped-call]
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (AttributeError, LookupError, ValueError):  # `0b_`, `!!int x`, `!!bool x`, `!!timestamp x`
            what = node.tag.rpartition(":")[2]
            raise self._refused(f"{node.value!r} is read as {what} and is none; quote it", node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _value in node.value if isinstance(node, yaml.MappingNode) else ():
            if (key.tag, str(key.value)) in seen:
                raise self._refused(f"{key.value} is there twice", key)
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)

    def construct_yaml_map(self, node: yaml.MappingNode) -> Generator[dict[Any, Any]]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        mapping = Placed({str(key.value): key.start_mark.line + 1 for key, _value in pairs})
        yield mapping
        mapping.update(self.construct_mapping(node))

    def _refused(self, problem: str, place: Any) -> yaml.MarkedYAMLError:
        return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_yaml_map)


def read_yaml(path: Path) -> Any:
    """Read a small YAML file.

    Raises:
        ConfigError: with file and line when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path)) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str | None = None) -> Any:
    """The value of YAML text.

    Args:
        text: the YAML.
        source: the file it is from; errors name it and the line.

    Raises:
        ConfigError: for what is no YAML, aliases, keys that are there twice, and deep nesting.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.reader.ReaderError as error:
        problem, line = error.reason, text.count("\n", 0, error.position) + 1
    except yaml.MarkedYAMLError as error:
        problem, line = str(error.problem), error.problem_mark.line + 1 if error.problem_mark else 1
    raise ConfigError(f"not valid YAML: {problem}", where=f"{source}:{line}" if source else None)
