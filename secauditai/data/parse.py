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
from secauditai.data.parts import PartWriter
from secauditai.data.readers import RawSample, Source, file_stems, read_file
from secauditai.data.readers.cases import Case
from secauditai.data.readers.streams import inner_suffix, is_compressed
from secauditai.data.readers.trees import TREES
from secauditai.data.readers.yaml_cuts import Piece, cut_yaml
from secauditai.data.readers.yaml_events import NotCut, read_yaml_piece
from secauditai.data.refine import changes, refine
from secauditai.data.schema import Sample, SampleError, parse_sample, shown_id, valid_unicode
from secauditai.data.tasks import Runner
from secauditai.garbage import collecting_no_cycles
from secauditai.progress import Progress

BUILT_IN = "security_dataset"
PIECE_BYTES = 1 << 25
"""Size of the pieces of a YAML file; a file of less than two is not cut."""
CASES_PER_CHUNK = 500


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
    stem: str = ""
    """What the ids of a file's records begin with; "" for its name."""

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
        The keys (`parts.KEY_SCHEMA`) of all samples, in input order, however the work was cut.

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
        stems = file_stems(source.files)
        planned = [(path, chunk) for path in source.files for chunk in plan_chunks(path, layout, cut=cut)]
        return [replace(chunk, shown=source.shown(chunk.shown), stem=stems[path]) for path, chunk in planned]
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
    writer = PartWriter(item["stem"], near=settings.near_duplicates, keys_only=item["keys_only"])
    with collecting_no_cycles():  # parsing makes none
        try:
            for raw in raw_samples(chunk):
                _parse_one(chunk, raw, settings, writer)
        except NotCut:
            return b""
        return writer.close()


def _parse_one(chunk: Chunk, raw: RawSample, settings: CleaningSettings, writer: PartWriter) -> None:
    where = chunk.place(raw)
    try:
        read = raw.value if isinstance(raw.value, Sample) else parse_sample(raw.value)
        refined = refine(read, settings)
        code = raw.value["code"] if isinstance(raw.value, dict) else ""
        writer.add(where, refined, changes(code, read, refined))
    except SampleError as error:
        writer.refuse(where, shown_id(raw.value), error)
    except RecursionError:
        writer.refuse(where, shown_id(raw.value), SampleError("bad_metadata", "'metadata' is nested too deeply"))


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
    return read_file(path, chunk.layout, chunk.stem)
