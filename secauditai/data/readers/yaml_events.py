"""Samples from YAML, assembled one at a time from libyaml's events, each with its line.

Never a whole tree: `yaml.load` spends most of its time in its constructor, and a sample at a time is all we need.
Values are those of `yaml.safe_load`, except that dates stay text. Aliases work up to a limit; foreign tags do not.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from secauditai.data.readers.streams import open_bytes
from secauditai.data.readers.yaml_cuts import Piece
from secauditai.data.schema import Broken
from secauditai.errors import DataError

MAX_EXPANDED = 100_000
"""Values that the aliases of one document may stand for."""

MAX_REMEMBERED = 10_000
"""Plain values whose type is remembered."""

_TAG = "tag:yaml.org,2002:"
_STANDARD = {_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")} | {"!"}
_CONSTRUCT = {
    _TAG + "null": yaml.SafeLoader.construct_yaml_null,
    _TAG + "bool": yaml.SafeLoader.construct_yaml_bool,
    _TAG + "int": yaml.SafeLoader.construct_yaml_int,
    _TAG + "float": yaml.SafeLoader.construct_yaml_float,
}

_NOT_TEXT = frozenset(yaml.SafeLoader.yaml_implicit_resolvers)
"""First characters of what may be a number, a date and the like; "" is the empty scalar, which is null."""


def read_yaml_samples(path: Path) -> Iterator[tuple[int, object]]:
    """Yield (line, raw sample) from `samples:` or a top-level list, over all documents of a file.

    Raises:
        DataError: with file and line when the structure cannot be read.
    """
    with open_bytes(path) as stream:
        reader = _Reader(stream, path)
        try:
            yield from reader.samples()
        except yaml.reader.ReaderError as error:
            raise _not_text(error, f"{path}:{_line_of(path, error.position)}") from None
        except yaml.MarkedYAMLError as error:
            raise reader.refuse(_problem(error), getattr(error, "problem_mark", None)) from None
        except RecursionError:
            raise DataError("nested too deeply", where=str(path)) from None


class NotCut(Exception):
    """A piece is no list of samples by itself, so its file must be read as one."""


def read_yaml_piece(path: Path, piece: Piece) -> Iterator[tuple[int, object]]:
    """Yield the (line, raw sample) of one piece of a file.

    Raises:
        NotCut: when the piece might mean something else than it would in its place in the file; what it has yielded
            until then is void.
    """
    with path.open("rb") as file:
        file.seek(piece.start)
        content = file.read(piece.end - piece.start)
    try:
        for line, value in _Reader(io.BytesIO(content), path).piece_samples(piece.column, opens=piece.start == 0):
            yield piece.line + line, value
    except (yaml.YAMLError, DataError, RecursionError):
        raise NotCut from None


class _Reader:
    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._parser = CParser(stream)
        self._next: Callable[[], Any] = self._parser.get_event
        self._path = path
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._expanded = 0
        self._repeated = ""
        self._plain: dict[str, Any] = {}
        self._resolver = yaml.SafeLoader("")

    def refuse(self, message: str, mark: Any = None, hint: str | None = None) -> DataError:
        """The error for this place in the file."""
        where = f"{self._path}:{mark.line + 1}" if mark is not None else str(self._path)
        return DataError(message, where=where, hint=hint)

    def samples(self) -> Iterator[tuple[int, object]]:
        """All samples of all documents."""
        documents = 0
        if (encoding := self._next().encoding) not in (None, "utf-8"):  # the start of the stream
            raise self.refuse(f"not UTF-8 text but {encoding.upper()}", hint="Save it as UTF-8.")
        while not isinstance(event := self._next(), StreamEndEvent):
            if isinstance(event, DocumentStartEvent):
                documents += 1
                self._anchors, self._expanded = {}, 0
                yield from self._document(self._next())
            elif not isinstance(event, DocumentEndEvent):
                raise self.refuse("unexpected content", event.start_mark)
        if documents == 0:
            raise self.refuse("the file is empty", hint="It needs `samples:` with a list of samples.")

    def piece_samples(self, column: int, *, opens: bool) -> Iterator[tuple[int, object]]:
        """All samples of a piece: the start of a document up to some sample, or samples only."""
        self._next()  # stream start
        self._next()  # document start
        event = self._next()
        nested = opens and isinstance(event, MappingStartEvent)
        if nested:
            while not isinstance(event := self._next(), MappingEndEvent) and self._value(event) != "samples":
                self._value(self._next())
            event = self._next()
        mark: Any = event.start_mark
        if not isinstance(event, SequenceStartEvent) or event.flow_style or mark.column != column:
            raise NotCut
        yield from self._items()
        ends = [self._next() for _ in range(3 if nested else 2)]
        expected = [*([MappingEndEvent] if nested else []), DocumentEndEvent, StreamEndEvent]
        if [type(end) for end in ends] != expected or ends[-2].explicit or self._anchors:
            raise NotCut

    def _document(self, event: Any) -> Iterator[tuple[int, object]]:
        if isinstance(event, SequenceStartEvent):
            yield from self._items()
            return
        if not isinstance(event, MappingStartEvent):
            raise self.refuse("there is no `samples:` list", event.start_mark)
        found = False
        while not isinstance(key_event := self._next(), MappingEndEvent):
            key = self._value(key_event)
            event = self._next()
            if key != "samples":
                self._value(event)
                continue
            found = True
            if not isinstance(event, SequenceStartEvent):
                kind = "a mapping" if isinstance(event, MappingStartEvent) else "a single value"
                raise self.refuse(
                    f"`samples:` must be a list, not {kind}", event.start_mark, "Start each sample with `- id: …`."
                )
            yield from self._items()
        if not found:
            raise self.refuse("`samples:` is missing", key_event.start_mark, "It holds the list of samples.")

    def _items(self) -> Iterator[tuple[int, object]]:
        while not isinstance(event := self._next(), SequenceEndEvent):
            line = event.start_mark.line + 1
            self._repeated = ""
            value = self._value(event)
            yield line, Broken("repeated_key", f"the key {self._repeated} stands twice") if self._repeated else value

    def _value(self, event: Any) -> Any:
        """The value that begins with an event."""
        kind = type(event)
        if kind is ScalarEvent:
            value = self._scalar(event)
        elif kind is AliasEvent:
            return self._alias(event)
        else:
            self._check_tag(event)
            before = self._expanded
            value = self._mapping() if kind is MappingStartEvent else self._sequence()
            if event.anchor is not None:
                self._anchors[event.anchor] = (value, _size(value) + self._expanded - before)
            return value
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        return value

    def _mapping(self) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        merged: list[dict[Any, Any]] = []
        following = self._next
        while type(event := following()) is not MappingEndEvent:
            key = self._text(event) if type(event) is ScalarEvent else self._value(event)
            event_of_value = following()
            is_text = type(event_of_value) is ScalarEvent
            value = self._text(event_of_value) if is_text else self._value(event_of_value)
            if key == "<<" and type(event) is ScalarEvent and event.implicit[0]:
                merged += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)]
                continue
            try:
                if key in result:
                    self._repeated = repr(key)[:40]
                result[key] = value
            except TypeError:
                raise self.refuse("a key must be a single value", event.start_mark) from None
        for mapping in merged:
            result = {**mapping, **result}
        return result

    def _text(self, event: ScalarEvent) -> Any:
        """The value of a scalar; the way of nearly all of them, which have neither tag nor anchor."""
        if event.tag is not None or event.anchor is not None:
            return self._value(event)
        text = event.value
        if event.implicit[0] and text[:1] in _NOT_TEXT:
            return self._scalar(event)
        return text

    def _sequence(self) -> list[Any]:
        result = []
        while type(event := self._next()) is not SequenceEndEvent:
            result.append(self._value(event))
        return result

    def _scalar(self, event: Any) -> Any:
        text = event.value
        if event.tag is not None:
            self._check_tag(event)
            return self._construct(event.tag, text, event) if event.tag in _CONSTRUCT else text
        if not event.implicit[0]:
            return text
        if text not in self._plain:
            if len(self._plain) > MAX_REMEMBERED:
                self._plain.clear()
            tag = self._resolver.resolve(yaml.ScalarNode, text, (True, False))
            self._plain[text] = self._construct(tag, text, event) if tag in _CONSTRUCT else text
        return self._plain[text]

    def _construct(self, tag: str, text: str, event: Any) -> Any:
        try:
            value = _CONSTRUCT[tag](self._resolver, yaml.ScalarNode(tag, text))
            str(value)  # Python writes no integer of thousands of digits, though it reads a hexadecimal one
            return value
        except (ValueError, KeyError, IndexError):
            raise self.refuse(f"{text[:40]!r} is no {tag.removeprefix(_TAG)}", event.start_mark) from None

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self.refuse(f"alias *{event.anchor} has no anchor before it", event.start_mark)
        value, size = self._anchors[event.anchor]
        self._expanded += size
        if self._expanded > MAX_EXPANDED:
            raise self.refuse(f"the aliases stand for more than {MAX_EXPANDED:,} values", event.start_mark)
        return value

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag not in _STANDARD:
            shown = event.tag.replace(_TAG, "!!")
            raise self.refuse(f"the tag {shown} is not allowed", event.start_mark, "Samples are plain data.")


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + _size(item) for item in value.values())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1


def _not_text(error: yaml.reader.ReaderError, where: str) -> DataError:
    """The error for bytes that are no text, or none that YAML takes."""
    if "control characters" not in error.reason:
        return DataError("not UTF-8 text", where=where)
    told = f"the character 0x{error.character:02x} cannot stand in YAML as it is"
    return DataError(told, where=where, hint='Escape it within double quotes, as in "\\x1b", or write JSON.')


def _problem(error: yaml.MarkedYAMLError) -> str:
    text = error.problem or "not valid YAML"
    if "cannot start any token" in text:
        return "not valid YAML: " + text + " (tabs cannot indent YAML)"
    return f"not valid YAML: {text}"


def _line_of(path: Path, position: int) -> int:
    with open_bytes(path) as stream:
        return stream.read(max(position, 0)).count(b"\n") + 1
