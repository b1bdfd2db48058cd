"""Edits of source text: replacements that may move or wrap other parts of it, applied in one go."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

Span = tuple[int, int]
"""First byte and the byte after the last."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces a stretch of the source; with `start == end` it inserts.

    Parts are new text, or spans of the source, which keep the edits inside of them.
    """

    start: int
    end: int
    parts: tuple[str | Span, ...]


def insert(at: int, text: str) -> Edit:
    """New text in front of a byte."""
    return Edit(at, at, (text,))


def replace(span: Span, text: str) -> Edit:
    """New text in place of old."""
    return Edit(*span, (text,))


def wrap(span: Span, before: str, after: str) -> Edit:
    """Text around a stretch that keeps its own edits."""
    return Edit(*span, (before, span, after))


def apply_edits(source: bytes, edits: Iterable[Edit]) -> bytes:
    """The source after all edits; of two that overlap, only the one that starts first, or is longer, is done."""
    ordered = sorted(edits, key=lambda edit: (edit.start, edit.start < edit.end, -edit.end))
    starts = [edit.start for edit in ordered]
    output: list[bytes] = []
    stack: list[bytes | tuple[int, int, int]] = [(0, len(source), 0)]
    while stack:
        piece = stack.pop()
        if isinstance(piece, bytes):
            output.append(piece)
            continue
        low, high, first = piece
        index = max(first, bisect_left(starts, low))
        while index < len(ordered) and starts[index] < high and ordered[index].end > high:
            index += 1
        if index == len(ordered) or starts[index] >= high:
            output.append(source[low:high])
            continue
        edit = ordered[index]
        output.append(source[low : edit.start])
        stack.append((edit.end, high, index + 1))
        for part in reversed(edit.parts):
            stack.append(part.encode("utf-8") if isinstance(part, str) else (*part, index + 1))
    return b"".join(output)
