"""JSON, JSON Lines, CSV and Parquet: files of records, whatever the records mean."""

import csv
import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from secauditai.data.readers.streams import open_seekable, open_text
from secauditai.data.readers.strict_json import StrictJson
from secauditai.data.schema import Broken
from secauditai.errors import DataError

Place = tuple[str, object]
"""`file:line`, and the record there."""
LISTS = ("samples", "data")
"""Keys under which a JSON document may hold its records."""


def read_json(path: Path) -> Iterator[Place]:
    """A list of records, or one under `samples`."""
    json_parser = StrictJson()
    try:
        with open_text(path) as stream:
            document = json_parser.parse(stream.read())
    except json.JSONDecodeError as error:
        # Benchmarks often call a file of JSON lines `.json`.
        if error.msg == "Extra data" and error.lineno > 1:
            yield from read_json_lines(path)
            return
        raise DataError(f"not valid JSON: {error.msg}", where=f"{path}:{error.lineno}") from None
    except RecursionError:
        raise DataError("nested too deeply", where=str(path)) from None
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise DataError(f"not valid JSON: {_first_sentence(error)}", where=str(path)) from None
    if isinstance(document, Broken):
        raise DataError(document.message, where=str(path))
    if isinstance(document, dict):
        document = next((document[key] for key in LISTS if key in document), [document] if "func" in document else None)
    if not isinstance(document, list):
        raise DataError("there is no list of samples", where=str(path), hint="Use a list, or `samples` with a list.")
    for number, value in enumerate(document):
        yield f"{path}:samples[{number}]", json_parser.whole(value)


def read_json_lines(path: Path) -> Iterator[Place]:
    """One record per line."""
    json_parser = StrictJson()
    with open_text(path) as lines:
        empty = True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            empty = False
            try:
                record = json_parser.parse(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"not valid JSON: {_first_sentence(error)}", where=f"{path}:{number}") from None
            yield f"{path}:{number}", json_parser.whole(record)
        if empty:
            raise DataError("the file is empty", where=str(path))


def _first_sentence(error: Exception) -> str:
    """What an error says, without its advice for programmers."""
    return str(error).partition("; use ")[0]


def read_csv(path: Path) -> Iterator[Place]:
    """One record per row; the first line names the columns."""
    csv.field_size_limit(2**31 - 1)
    with open_text(path, newline="") as lines:
        rows = csv.reader(lines, strict=True)  # else a quote that nothing closes would swallow the rest in silence
        begins = 1
        try:
            names = next(rows, [])
            if not names:
                raise DataError("the first line must name the columns", where=f"{path}:1")
            _check_columns(names, f"{path}:1")
            begins = rows.line_num + 1
            for row in rows:
                if row:  # else the line is blank
                    yield f"{path}:{begins}", _row(names, row)
                begins = rows.line_num + 1
        except csv.Error as error:
            problem = "a quote of this row is never closed" if "end of data" in str(error) else str(error)
            raise DataError(f"not valid CSV: {problem}", where=f"{path}:{begins}") from None


def _check_columns(names: list[str], where: str) -> None:
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"the column {repeated[0]!r} stands twice", where=where)


def _row(names: list[str], row: list[str]) -> object:
    """The cells by column; None for those at the end that a row leaves out."""
    if len(row) > len(names):
        return Broken("bad_row", f"the row has more cells than the {len(names)} columns; is a comma unquoted?")
    return dict(zip_longest(names, row))


def read_parquet(path: Path) -> Iterator[Place]:
    """One record per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        with open_seekable(path) as stream:
            file = pq.ParquetFile(stream)
            _check_columns(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:{number}", row
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"not a Parquet file: {error}".splitlines()[0], where=str(path)) from None
    except OverflowError as error:
        raise DataError(f"a date or time is out of range: {error}", where=str(path)) from None
