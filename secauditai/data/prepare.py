"""`prepare`: from any raw data to a clean dataset directory, through Ray Data or, when it is small, in this process."""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from secauditai.data.dataset import (
    Dataset,
    content_hash,
    is_dataset,
    open_dataset,
    replacing,
    write_manifest,
    write_table,
)
from secauditai.data.dedup import Cleaned, clean
from secauditai.data.readers import list_files, read_file
from secauditai.data.schema import SAMPLE_SCHEMA, Sample, SampleError, parse_sample
from secauditai.errors import DataError
from secauditai.files import describe_file
from secauditai.progress import Progress, silent

BUILT_IN = "security_dataset"
PARSED_SCHEMA = pa.schema([(name, pa.string()) for name in ("where", "reason", "message", *SAMPLE_SCHEMA.names)])
Row = dict[str, str]


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    dataset: Dataset
    read: int
    kept: int
    rejected: int
    duplicates: int
    through_ray: bool


def prepare(
    spec: str,
    output: Path,
    *,
    ray_data_min_mb: float = 64.0,
    max_rejected: float = 0.05,
    overwrite: bool = False,
    address: str | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Read, validate and clean data into a dataset directory.

    Args:
        spec: a file, directory or glob, or `security_dataset`.
        output: the directory to write; it must not hold anything else.
        ray_data_min_mb: from this input size on, Ray Data does the reading.
        max_rejected: share of refused samples from which the data counts as broken.
        overwrite: replace a dataset that is there.
        address: the Ray cluster to use.
        progress: told how many samples are read.

    Raises:
        DataError: when the structure cannot be read, nothing is kept, too much is refused, or the output is taken.
    """
    _check_output(output, overwrite)
    parsed, source, through_ray = _read(spec, ray_data_min_mb, address, progress)
    cleaned = clean(parsed)
    _check_rejections(cleaned, output, max_rejected)
    with replacing(output) as layout:
        table = pa.Table.from_pylist(cleaned.kept, SAMPLE_SCHEMA)
        write_table(table, layout.samples)
        write_rejected(cleaned, layout.rejected)
        write_manifest(layout, {**_manifest(cleaned, table), "source": source, "max_rejected": max_rejected})
    return Prepared(
        open_dataset(output),
        cleaned.read,
        len(cleaned.kept),
        len(cleaned.rejected),
        len(cleaned.merged),
        through_ray,
    )


def parse_rows(path: Path) -> Iterator[Row]:
    """The samples of a file as rows of `PARSED_SCHEMA`; a refused one has a reason and a message."""
    for raw in read_file(path):
        try:
            yield {"where": raw.where, "reason": "", "message": "", **parse_sample(raw.value).row()}
        except SampleError as error:
            known = raw.value.get("id") if isinstance(raw.value, dict) else None
            blank = dict.fromkeys(SAMPLE_SCHEMA.names, "")
            found = "" if known is None else str(known)[:200]
            yield {**blank, "where": raw.where, "reason": error.reason, "message": str(error), "id": found}


def read_parsed(spec: str, progress: Progress = silent) -> Iterator[Row]:
    """All rows of some data, read in this process."""
    if uses_built_in(spec):
        yield from _built_in_rows()
        return
    count = 0
    for path in list_files(spec):
        for row in parse_rows(path):
            count += 1
            if count % 500 == 0:
                progress("Reading", count, None)
            yield row


def uses_built_in(spec: str) -> bool:
    """Whether a name means the built-in dataset; a path of that name wins."""
    return spec == BUILT_IN and not Path(spec).exists()


def write_rejected(cleaned: Cleaned, path: Path) -> None:
    """Write every refused sample with its place, id and reason, one JSON object per line."""
    with path.open("w", encoding="utf-8") as lines:
        for rejection in cleaned.rejected:
            lines.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")


def _read(
    spec: str, ray_data_min_mb: float, address: str | None, progress: Progress
) -> tuple[Iterable[Row], dict[str, Any], bool]:
    """The parsed rows, a description of the source, and whether Ray Data reads it."""
    if uses_built_in(spec):
        samples = list(_built_in())
        size = sum(len(sample.code) for sample in samples)
        source: dict[str, Any] = {"spec": spec, "files": []}
        if size / 2**20 < ray_data_min_mb:
            return (_sample_row(sample) for sample in samples), source, False
        return _parse_with_ray([], address, progress), source, True
    files = list_files(spec)
    described = [{"path": str(path), **describe_file(path)} for path in files]
    size = sum(path.stat().st_size for path in files)
    source = {"spec": spec, "files": described}
    if size / 2**20 < ray_data_min_mb:
        return read_parsed(spec, progress), source, False
    return _parse_with_ray(files, address, progress), source, True


def _parse_with_ray(files: list[Path], address: str | None, progress: Progress) -> Iterator[Row]:
    """Parse files, or the built-in corpus, in Ray tasks, in input order."""
    import ray.data

    from secauditai.cluster import ensure_ray

    ensure_ray(address)
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    items = [{"path": str(path.absolute()), "shown": str(path)} for path in files] or [{"path": "", "shown": BUILT_IN}]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).flat_map(_parse_item)
    count = 0
    try:
        for row in dataset.iter_rows():
            if row["fatal"]:
                fatal = json.loads(row["fatal"])
                raise DataError(fatal["message"], where=fatal["where"], hint=fatal["hint"])
            count += 1
            if count % 500 == 0:
                progress("Reading (Ray Data)", count, None)
            yield {name: row[name] for name in PARSED_SCHEMA.names}
    finally:
        progress("Reading (Ray Data)", count, count)


def _parse_item(item: dict[str, str]) -> Iterator[Row]:
    """One Ray task: the rows of one file, or one row that carries the error its structure has."""
    try:
        rows = parse_rows(Path(item["path"])) if item["path"] else _built_in_rows()
        for row in rows:
            yield {**row, "where": row["where"].replace(item["path"], item["shown"], 1), "fatal": ""}
    except DataError as error:
        where = (error.where or "").replace(item["path"], item["shown"], 1)
        fatal = json.dumps({"message": error.message, "where": where, "hint": error.hint})
        yield {**dict.fromkeys(PARSED_SCHEMA.names, ""), "fatal": fatal}


def _built_in() -> Iterator[Sample]:
    from secauditai.data.corpus import generate_corpus

    yield from generate_corpus()


def _built_in_rows() -> Iterator[Row]:
    return (_sample_row(sample) for sample in _built_in())


def _sample_row(sample: Sample) -> Row:
    return {"where": f"{BUILT_IN}:{sample.id}", "reason": "", "message": "", **sample.row()}


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not is_dataset(output):
        raise DataError(
            "the output exists and is not a dataset of ours", where=str(output), hint="Choose another --output."
        )
    if not overwrite:
        raise DataError(
            "the output exists", where=str(output), hint="Use --overwrite to replace it, or choose another --output."
        )


def _check_rejections(cleaned: Cleaned, output: Path, max_rejected: float) -> None:
    """Refuse data of which nothing, or too little, is left; what was refused is written beside the output."""
    rejected = len(cleaned.rejected)
    if cleaned.kept and rejected <= max_rejected * cleaned.read:
        return
    if not cleaned.read:
        raise DataError("there are no samples", hint="`samples:` is an empty list.")
    listing = output.with_name(output.name + ".rejected.jsonl")
    listing.parent.mkdir(parents=True, exist_ok=True)
    write_rejected(cleaned, listing)
    first = cleaned.rejected[0]
    raise DataError(
        f"{rejected} of {cleaned.read} samples are refused, the first for: {first.message}",
        where=f"{first.where}{f' ({first.id})' if first.id else ''}",
        hint=f"All are listed in {listing}. Mend them, or raise --max-rejected (now {max_rejected:g}).",
    )


def _manifest(cleaned: Cleaned, table: pa.Table) -> dict[str, Any]:
    return {
        "content_hash": content_hash(table),
        "read": cleaned.read,
        "kept": len(cleaned.kept),
        "rejected": len(cleaned.rejected),
        "duplicates": len(cleaned.merged),
        "merged": [asdict(merge) for merge in cleaned.merged],
        "rejected_reasons": _counts(rejection.reason for rejection in cleaned.rejected),
        "labels": _counts(table.column("label").to_pylist()),
        "categories": _counts(table.column("category").to_pylist()),
        "languages": _counts(table.column("language").to_pylist()),
    }


def _counts(values: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def copy_dataset(dataset: Dataset, output: Path) -> Dataset:
    """Copy a prepared dataset without its splits."""
    with replacing(output) as layout:
        layout.samples.parent.mkdir(parents=True)
        shutil.copyfile(dataset.layout.samples, layout.samples)
        shutil.copyfile(dataset.layout.rejected, layout.rejected)
        kept = {
            key: value for key, value in dataset.manifest.items() if key not in ("splits", "files", "schema_version")
        }
        write_manifest(layout, kept)
    return open_dataset(output)
