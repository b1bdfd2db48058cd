"""Parts: what parsing leaves of a chunk. Its samples, as Arrow files of bounded size, and the keys of all of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from secauditai.data.near import TokenSets, near_columns
from secauditai.data.schema import SAMPLE_SCHEMA, Sample, SampleError, code_key, row_digest

PART_CHARS = 1 << 22
"""Characters of code after which a part is written: memory that is used again for the next one costs less than new."""
BATCH_CHARS = 1 << 20
"""Characters of code after which Python objects become Arrow memory; few enough to stay in a processor's cache."""
BATCH_KEYS = 10_000
KEY_SCHEMA = pa.schema(
    [
        pa.field("part", pa.dictionary(pa.int32(), pa.string())),
        pa.field("row", pa.int32()),
        pa.field("where", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
        pa.field("id", pa.string()),
        pa.field("label", pa.string()),
        pa.field("group", pa.string()),
        pa.field("characters", pa.int32()),
        pa.field("changes", pa.int8()),
        pa.field("code_key", pa.binary(16)),
        pa.field("digest", pa.binary(16)),
    ]
)
"""What cleaning knows of every sample read; a refused one has a reason and no part."""


class PartWriter:
    """Collects samples, writes a part whenever enough have come, and keeps the keys."""

    def __init__(self, stem: str, *, near: bool, keys_only: bool) -> None:
        """Start.

        Args:
            stem: the path of every part, without number and ending.
            near: write what clustering near duplicates needs beside each part.
            keys_only: write no parts.
        """
        self._stem, self._near, self._keys_only = stem, TokenSets() if near else None, keys_only
        self._keys: list[tuple[Any, ...]] = []
        self._rows: list[dict[str, str]] = []
        self._characters = 0
        self._key_batches: list[pa.Table] = []
        self._part = _Part(Path(f"{stem}-00000.arrow"))
        self._parts = 0

    def add(self, where: str, sample: Sample, changed: int) -> None:
        """Take a good sample, and what was changed in it.

        Raises:
            SampleError: when its metadata cannot be stored.
        """
        row = sample.row()
        try:
            digest = row_digest(row)
        except UnicodeEncodeError:
            raise SampleError("bad_metadata", "'metadata' is not valid unicode") from None
        part = None if self._keys_only else str(self._part.path)
        head = (part, self._part.rows + len(self._rows), where, "", "", sample.id, sample.label, row["group"])
        self._keys.append((*head, len(sample.code), changed, code_key(sample.code), digest))
        self._characters += len(sample.code)
        if not self._keys_only:
            self._rows.append(row)
        if self._characters >= BATCH_CHARS or len(self._keys) >= BATCH_KEYS:
            self._pack()

    def refuse(self, where: str, sample_id: str, error: SampleError) -> None:
        """Take note of a sample that is refused."""
        self._keys.append((None, -1, where, error.reason, str(error), sample_id, "", "", 0, 0, bytes(16), bytes(16)))

    def close(self) -> bytes:
        """Write what is left; all keys as an Arrow stream."""
        self._pack()
        self._finish_part()
        sink = pa.BufferOutputStream()
        table = pa.concat_tables(self._key_batches) if self._key_batches else KEY_SCHEMA.empty_table()
        with pa.ipc.new_stream(sink, KEY_SCHEMA) as stream:
            stream.write_table(table.unify_dictionaries().combine_chunks())
        return bytes(sink.getvalue())

    def _pack(self) -> None:
        """Turn what has come into Arrow memory; write the part when it is large enough."""
        if self._rows:
            self._part.add(self._rows, self._characters, self._near)
        if self._keys:
            keys = zip(zip(*self._keys, strict=True), KEY_SCHEMA, strict=True)
            arrays = [pa.array(column, field.type) for column, field in keys]
            self._key_batches.append(pa.Table.from_arrays(arrays, schema=KEY_SCHEMA))
        self._rows, self._keys, self._characters = [], [], 0
        if self._part.characters >= PART_CHARS:
            self._finish_part()

    def _finish_part(self) -> None:
        if self._part.rows:
            self._part.write()
            self._parts += 1
            self._part = _Part(Path(f"{self._stem}-{self._parts:05d}.arrow"))


class _Part:
    """A part that is being filled."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows, self.characters = path, 0, 0
        self._samples: list[pa.Table] = []
        self._near: list[pa.Table] = []

    def add(self, rows: list[dict[str, str]], characters: int, token_sets: TokenSets | None) -> None:
        """Take a batch of samples."""
        columns = {name: [row[name] for row in rows] for name in SAMPLE_SCHEMA.names}
        self._samples.append(pa.table(columns, SAMPLE_SCHEMA))
        if token_sets is not None:
            self._near.append(near_columns(token_sets, columns["code"]))
        self.rows += len(rows)
        self.characters += characters

    def write(self) -> None:
        """Write the samples, and what clustering needs of them beside."""
        write_part(pa.concat_tables(self._samples), self.path)
        if self._near:
            write_part(pa.concat_tables(self._near), near_file(self.path))


def near_file(part: Path) -> Path:
    """Where the columns of `near_columns` for the samples of a part are."""
    return part.with_suffix(".near")


def write_part(table: pa.Table, path: Path) -> None:
    """Write an Arrow file that `open_part` maps into memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table.combine_chunks())


def open_part(path: Path | str) -> pa.Table:
    """A part as a table whose memory is the file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
