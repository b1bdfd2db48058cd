"""Parsing: from data files to parts on disk, and the keys of all samples in memory.

A chunk is a file, or a piece of a large YAML file. Parsing one writes its samples into parts (Arrow files of bounded
size) and returns their keys: what cleaning must know of every sample, which is little and does not include the code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from secauditai.config.settings import CleaningSettings
from secauditai.data.near import TokenSets, near_columns
from secauditai.data.readers import RawSample, Source, read_file
from secauditai.data.readers.cases import Case
from secauditai.data.readers.streams import inner_suffix, is_compressed
from secauditai.data.readers.trees import TREES
from secauditai.data.readers.yaml_cuts import Piece, cut_yaml
from secauditai.data.readers.yaml_events import NotCut, read_yaml_piece
from secauditai.data.refine import changes, refine
from secauditai.data.schema import (
    SAMPLE_SCHEMA,
    Sample,
    SampleError,
    code_key,
    parse_sample,
    row_digest,
    shown_id,
    valid_unicode,
)
from secauditai.data.tasks import Runner
from secauditai.progress import Progress

BUILT_IN = "security_dataset"
PART_CHARS = 1 << 24
"""Characters of code after which a part is written."""
KEYS_AT_ONCE = 50_000
PIECE_BYTES = 1 << 25
"""Size of the pieces of a YAML file; a file of less than two is not cut."""
CASES_PER_CHUNK = 500
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


@dataclass(frozen=True)
class Chunk:
    """What one task parses."""

    path: str
    """Absolute; "" for the built-in dataset."""
    shown: str
    """The path as the user wrote it."""
    layout: str = "auto"
    piece: Piece | None = None
    cases: tuple[Case, ...] = ()
    """Test cases, when `path` is a directory of sources of the kind `layout`."""

    def place(self, raw: RawSample) -> str:
        """Where a sample of it stands, in the user's words."""
        return valid_unicode(raw.where.replace(self.path, self.shown, 1) if self.path else raw.where)


def parse_all(
    source: Source,
    staging: Path,
    settings: CleaningSettings,
    runner: Runner,
    progress: Progress,
    *,
    keys_only: bool = False,
) -> pa.Table:
    """Parse a source into parts below `staging`, or none where only the keys are wanted.

    Returns:
        The keys (`KEY_SCHEMA`) of all samples, in input order, however the work was cut.

    Raises:
        DataError: when the structure of a file cannot be read.
    """
    chunks = plan_source(source, settings.data_format)
    common = {"settings": settings.model_dump(), "keys_only": keys_only}
    tables = dict(zip(chunks, _parse(chunks, staging, common, runner, progress), strict=True))
    refused = {chunk.path: chunk.shown for chunk, table in tables.items() if table is None}
    whole = [Chunk(path, shown, settings.data_format) for path, shown in refused.items()]
    streams = dict(zip(refused, _parse(whole, staging, common, runner, progress), strict=True))
    keys = []
    for chunk, table in tables.items():
        found = streams.pop(chunk.path, None) if chunk.path in refused else table
        if found is not None:
            keys.append(found)
    return pa.concat_tables(keys).unify_dictionaries().combine_chunks()


def plan_source(source: Source, layout: str, *, cut: bool = True) -> list[Chunk]:
    """Divide a source into what single tasks parse; without `cut` no file is in several chunks."""
    if source.tree:
        root, cases = str(Path(source.spec).absolute()), source.cases
        starts = range(0, len(cases), CASES_PER_CHUNK)
        return [Chunk(root, source.spec, source.tree, None, cases[n : n + CASES_PER_CHUNK]) for n in starts]
    if source.files:
        chunks = [chunk for path in source.files for chunk in plan_chunks(path, layout, cut=cut)]
        return [replace(chunk, shown=source.shown(chunk.shown)) for chunk in chunks]
    return [Chunk("", BUILT_IN)]


def plan_chunks(path: Path, layout: str, piece_bytes: int = PIECE_BYTES, *, cut: bool = True) -> list[Chunk]:
    """Cut a large YAML file; any other file is one chunk."""
    whole = Chunk(str(path.absolute()), str(path), layout)
    large = cut and path.stat().st_size >= 2 * piece_bytes
    if not large or is_compressed(path) or inner_suffix(path) not in (".yaml", ".yml"):
        return [whole]
    return [Chunk(whole.path, whole.shown, layout, piece) for piece in cut_yaml(path, piece_bytes)] or [whole]


def _parse(
    chunks: list[Chunk], staging: Path, common: dict[str, Any], runner: Runner, progress: Progress
) -> Iterator[pa.Table | None]:
    """The keys of each chunk; None for a piece whose file must be read as one."""
    first = len(list(staging.iterdir()))
    items = [
        {"chunk": asdict(chunk), "stem": str(staging / f"{first:05d}-{number:05d}"), **common}
        for number, chunk in enumerate(chunks)
    ]
    count = 0
    for result in runner.map(parse_task, items):
        table = pa.ipc.open_stream(result).read_all() if result else None
        count += table.num_rows if table is not None else 0
        progress("Reading", count, None)
        yield table


def parse_task(item: dict[str, Any]) -> bytes:
    """Parse a chunk into parts; the keys as an Arrow stream, empty for a piece that cannot stand alone."""
    fields = item["chunk"]
    piece, cases = (
        fields.pop("piece"),
        tuple(Case(**{**case, "files": tuple(case["files"])}) for case in fields.pop("cases")),
    )
    chunk = Chunk(**fields, piece=Piece(**piece) if piece else None, cases=cases)
    settings = CleaningSettings(**item["settings"])
    writer = _PartWriter(item["stem"], near=settings.near_duplicates, keys_only=item["keys_only"])
    try:
        for raw in raw_samples(chunk):
            where = chunk.place(raw)
            try:
                read = raw.value if isinstance(raw.value, Sample) else parse_sample(raw.value)
                refined = refine(read, settings)
                code = raw.value["code"] if isinstance(raw.value, dict) else ""
                writer.add(where, refined, changes(code, read, refined))
            except SampleError as error:
                writer.refuse(where, shown_id(raw.value), error)
    except NotCut:
        return b""
    return writer.close()


def raw_samples(chunk: Chunk) -> Iterable[RawSample]:
    """The samples of a chunk as they stand in it.

    Raises:
        DataError: when its structure cannot be read.
        NotCut: when a piece cannot stand alone.
    """
    path = Path(chunk.path)
    if not chunk.path:
        from secauditai.data.corpus import generate_corpus

        return (RawSample(f"{BUILT_IN}:{sample.id}", sample) for sample in generate_corpus())
    if chunk.piece is not None:
        return (RawSample(f"{path}:{line}", value) for line, value in read_yaml_piece(path, chunk.piece))
    if chunk.cases:
        return (raw for case in chunk.cases for raw in TREES[chunk.layout].read_case(path, case))
    return read_file(path, chunk.layout)


class _PartWriter:
    """Collects samples, writes a part whenever enough have come, and keeps the keys."""

    def __init__(self, stem: str, *, near: bool, keys_only: bool) -> None:
        self._stem, self._near, self._keys_only = stem, TokenSets() if near else None, keys_only
        self._rows: list[dict[str, str]] = []
        self._keys: list[tuple[Any, ...]] = []
        self._tables: list[pa.Table] = []
        self._characters = 0
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
        part = None if self._keys_only else f"{self._stem}-{self._parts:05d}.arrow"
        head = (part, len(self._rows), where, "", "", sample.id, sample.label, sample.group)
        self._keys.append((*head, len(sample.code), changed, code_key(sample.code), digest))
        if self._keys_only:
            if len(self._keys) >= KEYS_AT_ONCE:
                self._flush()
            return
        self._rows.append(row)
        self._characters += len(sample.code)
        if self._characters >= PART_CHARS:
            self._flush()

    def refuse(self, where: str, sample_id: str, error: SampleError) -> None:
        """Take note of a sample that is refused."""
        self._keys.append((None, -1, where, error.reason, str(error), sample_id, "", "", 0, 0, bytes(16), bytes(16)))

    def close(self) -> bytes:
        """Write what is left; all keys as an Arrow stream."""
        self._flush()
        sink = pa.BufferOutputStream()
        table = pa.concat_tables(self._tables) if self._tables else KEY_SCHEMA.empty_table()
        with pa.ipc.new_stream(sink, KEY_SCHEMA) as stream:
            stream.write_table(table.unify_dictionaries().combine_chunks())
        return bytes(sink.getvalue())

    def _flush(self) -> None:
        if self._rows:
            columns = {name: [row[name] for row in self._rows] for name in SAMPLE_SCHEMA.names}
            table = pa.table(columns, SAMPLE_SCHEMA)
            write_part(table, Path(f"{self._stem}-{self._parts:05d}.arrow"))
            if self._near is not None:
                near = near_columns(self._near, [row["code"] for row in self._rows])
                write_part(near, Path(f"{self._stem}-{self._parts:05d}.near"))
            self._parts += 1
        if self._keys:
            keys = zip(zip(*self._keys, strict=True), KEY_SCHEMA, strict=True)
            arrays = [pa.array(column, field.type) for column, field in keys]
            self._tables.append(pa.Table.from_arrays(arrays, schema=KEY_SCHEMA))
        self._rows, self._keys, self._characters = [], [], 0


def write_part(table: pa.Table, path: Path) -> None:
    """Write an Arrow file that `open_part` maps into memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
        out.write_table(table.combine_chunks())


def open_part(path: Path | str) -> pa.Table:
    """A part as a table whose memory is the file."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
