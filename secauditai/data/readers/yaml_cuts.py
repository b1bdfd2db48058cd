"""Cuts a large YAML file at sample boundaries, so that several processes can parse it.

A cut is a guess that parsing confirms: a line that starts an item at the column of the first one. Whatever could make
the guess wrong (a quoted text or flow collection over the cut, an anchor, a key after the samples, a second document)
makes a piece fail to parse as a list of samples by itself; then the whole file is read as one stream.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEAD = 1 << 16
"""Bytes in which the first sample must start."""
BLOCK = 1 << 18
"""Bytes looked at together; they stay in a processor's cache."""
NEWLINE = 10
FIRST_ITEM = re.compile(rb"^(?:samples:[ \t]*(?:#[^\n]*)?\r?\n(?:[ \t]*(?:#[^\n]*)?\r?\n)*)?( *)- ", re.MULTILINE)
ODD_BREAKS = (b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""What YAML also counts as line breaks; a file with one is not cut, so that line numbers stay right."""


@dataclass(frozen=True)
class Piece:
    """A part of a file that holds whole samples."""

    start: int
    end: int
    """Byte offsets."""
    line: int
    """Lines before it."""
    column: int
    """Where its items start."""


def cut_yaml(path: Path, size: int) -> list[Piece]:
    """Cut a file into pieces of about `size` bytes; [] when it must be read as one."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    match = FIRST_ITEM.search(head)
    if match is None or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return []
    total, column = path.stat().st_size, len(match[1])
    starts = [0, *_boundaries(path, b"\n" + match[1] + b"- ", size, max(match.end(), size), total)]
    lines = _lines_before(path, starts)
    if lines is None:
        return []
    ends = [*starts[1:], total]
    return [Piece(start, end, line, column) for start, end, line in zip(starts, ends, lines, strict=True)]


def _boundaries(path: Path, item: bytes, size: int, first: int, total: int) -> Iterator[int]:
    """Offsets of lines that start an item, about `size` bytes apart."""
    with path.open("rb") as file:
        wanted = first
        while wanted < total:
            file.seek(wanted)
            window = b""
            while block := file.read(HEAD):
                window += block
                if (found := window.find(item)) >= 0:
                    break
            else:
                return
            yield wanted + found + 1
            wanted += found + 1 + size


def _lines_before(path: Path, starts: list[int]) -> list[int] | None:
    """The line breaks before each offset; None when some are of an odd kind."""
    lines, count = [], 0
    with path.open("rb") as file:
        for start, end in zip(starts, [*starts[1:], path.stat().st_size], strict=True):
            lines.append(count)
            left = end - start
            while left:
                block = file.read(min(BLOCK, left))
                left -= len(block)
                if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
                    return None
                if not block.isascii() and any(odd in block for odd in ODD_BREAKS):
                    return None
                count += int(np.count_nonzero(np.frombuffer(block, np.uint8) == NEWLINE))
    return lines
