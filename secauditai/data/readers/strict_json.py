"""JSON as strict about repeated keys as our YAML is, in files and in the cells of tables alike."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from secauditai.data.schema import Broken


class StrictJson:
    """Parses JSON in which no mapping may hold a key twice: which of the two counts is anyone's guess."""

    def __init__(self) -> None:
        """Start."""
        self._decode = json.JSONDecoder(object_pairs_hook=self._mapping).decode
        self._any = False

    def parse(self, text: str) -> Any:
        """The value; a `Broken` stands in the place of each mapping with a key twice.

        Raises:
            ValueError: when it is not JSON.
            RecursionError: when it is nested too deeply.
        """
        return self._decode(text)

    def whole(self, record: object) -> object:
        """A parsed record, or the `Broken` that stands somewhere in it."""
        return next(_broken_in(record), record) if self._any else record

    def _mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any] | Broken:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self._any = True
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key in counts if counts[key] > 1)
        return Broken("repeated_key", f"the key {repr(repeated)[:40]} stands twice")


def _broken_in(record: object) -> Iterator[Broken]:
    left = [record]
    while left:
        value = left.pop()
        if isinstance(value, Broken):
            yield value
        elif isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value
