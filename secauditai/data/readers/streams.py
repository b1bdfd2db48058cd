"""Opening data files, compressed or not."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import IO

import pyarrow as pa

from secauditai.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAX_EXPANSION = 200
"""How many times its own size a compressed file may unpack to; source code stays below 20."""
FREE_EXPANSION = 1 << 26
"""Bytes that any file may unpack to."""
READ_AHEAD = 1 << 18
"""Bytes that a file is asked for at a time; libyaml itself asks for 16 KiB."""


def inner_suffix(path: PurePath) -> str:
    """The ending that tells the format, below that of a compression: `.yaml` of `a.yaml.gz`."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_compressed(path: Path) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.suffix.lower() in COMPRESSIONS


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, unpacked.

    Raises:
        DataError: while reading, when it is damaged or unpacks to far more than its size.
    """
    if not is_compressed(path):
        with path.open("rb", READ_AHEAD) as file:
            yield file
        return
    with pa.input_stream(str(path), compression=COMPRESSIONS[path.suffix.lower()]) as packed:
        yield io.BufferedReader(_Unpacked(packed, path), 1 << 20)


@contextlib.contextmanager
def open_seekable(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading from any place; a compressed one is unpacked to the disk first.

    Raises:
        DataError: as `open_bytes`.
    """
    with open_bytes(path) as stream:
        if not is_compressed(path):
            yield stream
            return
        with tempfile.TemporaryFile(prefix="secauditai-unpacked.") as whole:
            shutil.copyfileobj(stream, whole)
            whole.seek(0)
            yield whole


@contextlib.contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a file as UTF-8 text, unpacked, without a byte order mark."""
    with open_bytes(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as text:
        yield text


def first_not_utf8(path: Path) -> tuple[int, str]:
    """The line of a file's first byte that is not UTF-8, and what byte it is, for people."""
    with open_bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return number, f"byte 0x{line[error.start]:02x}"
    return 1, "changed meanwhile"


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a compressed file, up to a limit."""

    def __init__(self, packed: pa.NativeFile, path: Path) -> None:
        self._packed, self._path = packed, path
        self._left = max(FREE_EXPANSION, MAX_EXPANSION * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._packed.read(len(buffer))
        except OSError as error:
            raise DataError(f"damaged compressed file: {error}", where=str(self._path)) from None
        self._left -= len(data)
        if self._left < 0:
            raise DataError(
                f"the file unpacks to more than {MAX_EXPANSION} times its size",
                where=str(self._path),
                hint="Unpack it yourself if that is right.",
            )
        buffer[: len(data)] = data
        return len(data)
