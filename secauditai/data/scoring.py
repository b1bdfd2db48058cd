"""Code to score: any data that can be read, labelled or not; every sample of it, duplicates too."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from secauditai.data.clean import Rejection
from secauditai.data.dataset import is_dataset
from secauditai.data.parse import Chunk, plan_source, raw_samples
from secauditai.data.prepare import open_source
from secauditai.data.readers import RawSample, existing_path
from secauditai.data.schema import Sample, SampleError, parse_code, shown_id
from secauditai.data.sources import open_data
from secauditai.errors import DataError
from secauditai.progress import Progress, silent

SHOWN_EVERY = 1_000


def read_for_scoring(spec: str, *, cache: Path, progress: Progress = silent) -> tuple[pa.Table, list[Rejection]]:
    """The code that a user names, and what of it cannot be scored.

    Args:
        spec: a file, directory or glob, a prepared dataset or one split of it, or `security_dataset`.
        cache: of the workspace.
        progress: told how many samples are read.

    Returns:
        `id` and `code` of each sample in input order; a sample without an id is named by its place. A prepared
        dataset's come by id. With the refused ones these are all that was read.

    Raises:
        DataError: when nothing is there, it cannot be read, or no sample of it has code.
    """
    path = existing_path(spec)
    if path is not None and (is_dataset(path) or is_dataset(path.parent)):
        return open_data(spec, cache=cache, progress=progress).table().select(["id", "code"]), []
    names, codes, refused = list[str](), list[str](), list[Rejection]()
    with tempfile.TemporaryDirectory(prefix="secauditai-scoring.") as staging:
        source = open_source(spec, "auto", Path(staging), progress)
        for where, raw in _places(plan_source(source, "auto", cut=False)):
            try:
                name, code = (raw.value.id, raw.value.code) if isinstance(raw.value, Sample) else parse_code(raw.value)
                names.append(name or where)
                codes.append(code)
            except SampleError as error:
                refused.append(Rejection(where, shown_id(raw.value), error.reason, str(error)))
            if (count := len(names) + len(refused)) % SHOWN_EVERY == 0:
                progress("Reading", count, None)
    if not names:
        reason = f"; the first: {refused[0].where}: {refused[0].message}" if refused else ""
        raise DataError(f"no sample has code to score{reason}", where=spec)
    return pa.table({"id": names, "code": codes}), refused


def _places(chunks: list[Chunk]) -> Iterator[tuple[str, RawSample]]:
    for chunk in chunks:
        for raw in raw_samples(chunk):
            yield chunk.place(raw), raw
