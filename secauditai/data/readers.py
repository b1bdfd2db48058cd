"""Readers: from files of several formats to raw samples, each with the place it stands at.

Every reader yields `RawSample`s; what a sample must be is `schema.parse_sample`'s business.
"""

import csv
import glob
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from secauditai.data.schema import FIELDS
from secauditai.data.yaml_events import read_yaml_samples
from secauditai.errors import DataError


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as it stands in a file."""

    where: str
    """`file:line`"""
    value: object


def list_files(spec: str) -> list[Path]:
    """The data files that a path, directory or glob names, sorted; links do not lead out of a directory.

    Raises:
        DataError: when there are none.
    """
    path = Path(spec)
    if path.is_file():
        _reader(path)
        return [path]
    if path.is_dir():
        root = path.resolve()
        found = [item for item in path.rglob("*") if item.is_file() and item.resolve().is_relative_to(root)]
    else:
        found = [item for item in map(Path, glob.iglob(spec, recursive=True)) if item.is_file()]  # noqa: PTH207 - any glob
    files = sorted(item for item in found if item.suffix.lower() in READERS and not item.name.startswith("."))
    if not files:
        reason = "holds no data files" if path.is_dir() or "*" in spec else "does not exist"
        raise DataError(f"{spec} {reason}", hint=f"Data files end in {', '.join(READERS)}.")
    return files


def read_file(path: Path) -> Iterator[RawSample]:
    """The raw samples of a file.

    Raises:
        DataError: with file and line when its structure cannot be read.
    """
    try:
        yield from _reader(path)(path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except UnicodeDecodeError:
        raise DataError("not UTF-8 text", where=str(path)) from None


def _reader(path: Path) -> Callable[[Path], Iterator[RawSample]]:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"unknown kind of file {path.suffix or path.name!r}", where=str(path), hint=f"Known: {', '.join(READERS)}."
        )
    return reader


def _read_yaml(path: Path) -> Iterator[RawSample]:
    for line, value in read_yaml_samples(path):
        yield RawSample(f"{path}:{line}", value)


def _read_json(path: Path) -> Iterator[RawSample]:
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except RecursionError:
        raise DataError("nested too deeply", where=str(path)) from None
    samples = document.get("samples") if isinstance(document, dict) else document
    if not isinstance(samples, list):
        raise DataError("there is no list of samples", where=str(path), hint="Use a list, or `samples` with a list.")
    for number, value in enumerate(samples):
        yield RawSample(f"{path}:samples[{number}]", value)


def _read_json_lines(path: Path) -> Iterator[RawSample]:
    with path.open(encoding="utf-8-sig") as lines:
        empty = True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            empty = False
            try:
                yield RawSample(f"{path}:{number}", json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"not valid JSON: {error}", where=f"{path}:{number}") from None
        if empty:
            raise DataError("the file is empty", where=str(path))


def _read_csv(path: Path) -> Iterator[RawSample]:
    csv.field_size_limit(2**31 - 1)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.DictReader(lines)
        if not rows.fieldnames or "code" not in rows.fieldnames:
            raise DataError("the first line must name the columns, `code` among them", where=f"{path}:1")
        try:
            for row in rows:
                yield RawSample(f"{path}:{rows.line_num}", _flat_sample(row))
        except csv.Error as error:
            raise DataError(f"not valid CSV: {error}", where=f"{path}:{rows.line_num}") from None


def _read_parquet(path: Path) -> Iterator[RawSample]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield RawSample(f"{path}:{number}", _flat_sample(row))
    except pa.ArrowInvalid as error:
        raise DataError(f"not a Parquet file: {error}", where=str(path)) from None


def _flat_sample(row: dict[str | None, object]) -> dict[str, object]:
    """A sample from a table's row: unknown columns, and a JSON column `metadata`, become metadata."""
    sample: dict[str, object] = {}
    metadata: dict[str, object] = {}
    for key, value in row.items():
        if key is None or value is None or value == "":
            continue
        if key == "metadata":
            metadata |= _metadata(value)
        elif key in FIELDS:
            sample[key] = value
        else:
            metadata[key] = value
    return {**sample, "metadata": metadata}


def _metadata(value: object) -> dict[str, object]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return {"metadata": value}
    return value if isinstance(value, dict) else {"metadata": value}


READERS: dict[str, Callable[[Path], Iterator[RawSample]]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
