"""Code to score: any data that can be read, labelled or not; every sample of it, duplicates too.

A model that learnt from code without comments is only ever shown such code.
"""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from secauditai.config.settings import CleaningSettings
from secauditai.data.clean import Rejection
from secauditai.data.dataset import Dataset, is_dataset
from secauditai.data.parse import Chunk, plan_source, raw_samples
from secauditai.data.prepare import open_source
from secauditai.data.readers import RawSample, existing_path
from secauditai.data.schema import Sample, SampleError, parse_code, shown_id
from secauditai.data.sources import open_data
from secauditai.data.syntax import detect_language, strip_comments
from secauditai.errors import DataError
from secauditai.progress import Progress, silent

SHOWN_EVERY = 1_000


def read_for_scoring(
    spec: str, *, cache: Path, comments: bool = True, progress: Progress = silent
) -> tuple[pa.Table, list[Rejection]]:
    """The code that a user names, and what of it cannot be scored.

    Args:
        spec: a file, directory or glob, a prepared dataset or one split of it, or `security_dataset`.
        cache: of the workspace.
        comments: whether the code keeps its comments.
        progress: told how many samples are read.

    Returns:
        `id` and `code` of each sample in input order; a sample without an id is named by its place. A prepared
        dataset's come by id. With the refused ones these are all that was read.

    Raises:
        DataError: when nothing is there, it cannot be read, or no sample of it has code.
    """
    if _is_prepared(spec):
        dataset = open_data(spec, cache=cache, progress=progress)
        return _commented(dataset, dataset.table(), comments).select(["id", "code"]), []
    names, codes, refused = list[str](), list[str](), list[Rejection]()
    with tempfile.TemporaryDirectory(prefix="secauditai-scoring.") as staging:
        source = open_source(spec, "auto", Path(staging), progress)
        for where, raw in _places(plan_source(source, "auto", cut=False)):
            try:
                name, code = (raw.value.id, raw.value.code) if isinstance(raw.value, Sample) else parse_code(raw.value)
                codes.append(code if comments else _only_code(code, raw.value))
                names.append(name or where)
            except SampleError as error:
                refused.append(Rejection(where, shown_id(raw.value), error.reason, str(error)))
            if (count := len(names) + len(refused)) % SHOWN_EVERY == 0:
                progress("Reading", count, None)
    if not names:
        reason = f"; the first: {refused[0].where}: {refused[0].message}" if refused else ""
        raise DataError(f"no sample has code to score{reason}", where=spec)
    return pa.table({"id": names, "code": codes}), refused


def open_labelled(
    spec: str, *, cache: Path, comments: bool = True, unlabelled: str = "", progress: Progress = silent
) -> Dataset:
    """Labelled data to evaluate on; raw data is cleaned like that which the model learnt from.

    Args:
        spec: whatever `open_data` takes.
        cache: of the workspace.
        comments: whether the code of raw data keeps its comments; prepared data is as it is.
        unlabelled: what to do, besides mending it, with data whose labels are missing or wrong.
        progress: told how many samples are read.
    """
    settings = None if comments or _is_prepared(spec) else CleaningSettings(strip_comments=True)

    def remedy(first: Rejection) -> str:
        return f"Mend them{f', or {unlabelled}' if unlabelled and first.reason == 'bad_label' else ''}."

    return open_data(spec, cache=cache, settings=settings, remedy=remedy, progress=progress)


def labelled_for_scoring(dataset: Dataset, *, comments: bool = True) -> pa.Table:
    """What an evaluation means by a dataset, its code without comments where a model never saw any."""
    return _commented(dataset, dataset.test_table(), comments)


def _is_prepared(spec: str) -> bool:
    path = existing_path(spec)
    return path is not None and (is_dataset(path) or is_dataset(path.parent))


def _commented(dataset: Dataset, table: pa.Table, comments: bool) -> pa.Table:
    if comments or dataset.without_comments:
        return table
    pairs = zip(table.column("code").to_pylist(), table.column("language").to_pylist(), strict=True)
    place = table.schema.get_field_index("code")
    codes = pa.array((strip_comments(code, language)[0] for code, language in pairs), pa.string())
    return table.set_column(place, table.schema.field(place), codes)


def _only_code(code: str, raw: object) -> str:
    """The code of a raw sample without its comments.

    Raises:
        SampleError: when it holds nothing else.
    """
    stripped, _ = strip_comments(code, _language(raw) or detect_language(code))
    if not stripped.strip():
        raise SampleError("no_code", "'code' holds nothing but comments")
    return stripped


def _language(raw: object) -> str:
    """The language that a raw sample states; "" for none."""
    if isinstance(raw, Sample):
        return raw.language
    if not isinstance(raw, Mapping):
        return ""
    metadata = raw.get("metadata")
    stated = metadata.get("language") if isinstance(metadata, Mapping) else None
    return str(stated or raw.get("language") or "").lower()


def _places(chunks: list[Chunk]) -> Iterator[tuple[str, RawSample]]:
    for chunk in chunks:
        for raw in raw_samples(chunk):
            yield chunk.place(raw), raw
