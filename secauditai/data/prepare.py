"""`prepare`: from any raw data to a clean dataset directory, in this process or through Ray Data.

Parsing writes parts and returns keys; cleaning and clustering look at keys and token sets; writing gathers the kept
samples from the parts in the order of their ids. No step holds all code in memory, and none depends on how the work
was cut.
"""

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from secauditai.config.settings import CleaningSettings
from secauditai.data.clean import Cleaned, Rejection, clean
from secauditai.data.clusters import name_clusters
from secauditai.data.dataset import (
    REFUSED_ENDING,
    STORED_SCHEMA,
    Dataset,
    DatasetLayout,
    content_hash,
    is_dataset,
    open_dataset,
    part_file,
    read_parts,
    write_manifest,
    write_table,
)
from secauditai.data.near import NearSource
from secauditai.data.parse import BUILT_IN, parse_all
from secauditai.data.parts import near_file, open_part, write_part
from secauditai.data.readers import Source, existing_path, find_source
from secauditai.data.refine import CHANGES
from secauditai.data.remote import list_remote
from secauditai.data.replacing import replacing, staging_beside
from secauditai.data.tasks import Runner
from secauditai.errors import DataError
from secauditai.files import whole_file
from secauditai.progress import Progress, silent
from secauditai.storage import SCHEME, is_remote

OUTPUT_CHARACTERS = 1 << 25
"""Characters of code per part of the output."""
Remedy = Callable[[Rejection], str]
"""From the first refused sample to a sentence."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did."""

    dataset: Dataset
    read: int
    kept: int
    rejected: int
    duplicates: int
    through_ray: bool
    ray_startup_seconds: float


def prepare(
    spec: str,
    output: Path,
    settings: CleaningSettings | None = None,
    *,
    ray_data_min_mb: float = 64.0,
    overwrite: bool = False,
    address: str | None = None,
    before_ray: Callable[[Path], None] = lambda _directory: None,
    remedy: Remedy | None = None,
    progress: Progress = silent,
) -> Prepared:
    """Read, validate, clean and cluster data into a dataset directory.

    Args:
        spec: a file, directory or glob, or `security_dataset`.
        output: the directory to write; it must not hold anything else.
        settings: how to clean.
        ray_data_min_mb: from this input size on, Ray Data does the work.
        overwrite: replace a dataset that is there.
        address: the Ray cluster to use; it must see the directory of the output.
        before_ray: called when Ray Data will do the work, with the directory that its tasks share.
        remedy: what the user can do when too much is refused; default mend it or raise `max_rejected`.
        progress: told how many samples are read.

    Raises:
        DataError: when the structure cannot be read, nothing is kept, too much is refused, or the output is taken.
    """
    settings = settings or CleaningSettings()
    _check_output(output, overwrite)
    with staging_beside(output) as staging:
        source = open_source(spec, settings.data_format, staging, progress)
        runner = Runner(source.megabytes >= ray_data_min_mb, address)
        if runner.through_ray:
            before_ray(staging)
        startup = runner.start()
        cleaned = parse_and_clean(source, settings, staging, runner, progress)
        _check_rejections(cleaned, output, settings.max_rejected, remedy)
        clusters = cluster(cleaned, settings)
        with replacing(output, overwrite=overwrite) as partial:
            layout = DatasetLayout(partial)
            about = {"source": source.describe(), "cleaning": settings.model_dump()}
            write_dataset(cleaned, clusters, staging, layout, about, runner)
    kept, rejected, merged = len(cleaned.kept), len(cleaned.rejected), len(cleaned.merged)
    return Prepared(open_dataset(output), cleaned.read, kept, rejected, merged, runner.through_ray, startup)


def open_source(spec: str, layout: str, staging: Path, progress: Progress) -> Source:
    """Find the files that some words mean, with what `--format` says of them; remote ones are copied below `staging`.

    A file may be named without its data ending.

    Raises:
        DataError: when there are none.
    """
    if is_remote(spec):
        remote, copies = list_remote(spec), staging / "remote"
        return Source(spec, remote.copy_to(copies, progress), copied_from=(str(copies), f"{SCHEME}{remote.root}"))
    if uses_built_in(spec):
        return Source(spec, [])
    path = existing_path(spec)
    return find_source(spec if path is None else str(path), layout)


def uses_built_in(spec: str) -> bool:
    """Whether a name means the built-in dataset; a path of that name wins."""
    return spec == BUILT_IN and existing_path(spec) is None


def parse_and_clean(
    source: Source,
    settings: CleaningSettings,
    staging: Path,
    runner: Runner,
    progress: Progress,
    *,
    keys_only: bool = False,
) -> Cleaned:
    """Parse a source into parts below `staging`, or only into its keys, and decide what is kept."""
    keys = parse_all(source, staging, settings, runner, progress, keys_only=keys_only)
    return clean(keys, settings.conflicts)


def cluster(cleaned: Cleaned, settings: CleaningSettings) -> list[str]:
    """The cluster of each kept sample."""
    ids, code_keys = cleaned.column("id").to_pylist(), cleaned.column("code_key").combine_chunks()
    if not settings.near_duplicates:
        return name_clusters(ids, cleaned.groups, code_keys)
    part = cleaned.column("part").combine_chunks()
    tables = [functools.partial(open_part, near_file(Path(path))) for path in part.dictionary.to_pylist()]
    source = NearSource(
        tables, part.indices.to_numpy().astype(np.int64), cleaned.column("row").to_numpy().astype(np.int64)
    )
    return name_clusters(ids, cleaned.groups, code_keys, source, settings.similarity)


def write_dataset(
    cleaned: Cleaned,
    clusters: list[str],
    staging: Path,
    layout: DatasetLayout,
    about: dict[str, Any],
    runner: Runner,
) -> None:
    """Write the kept samples, the list of refused ones and the manifest, to which `about` is added."""
    _write_samples(cleaned, clusters, staging, layout, runner)
    write_rejected(cleaned, layout.rejected)
    write_manifest(layout, {**_manifest(cleaned, layout), **about})


def write_rejected(cleaned: Cleaned, path: Path) -> None:
    """Write every refused sample with its place, id and reason, one JSON object per line; whole or not at all."""
    with whole_file(path) as partial, partial.open("w", encoding="utf-8") as lines:
        for rejection in cleaned.rejected:
            lines.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")


def _write_samples(cleaned: Cleaned, clusters: list[str], staging: Path, layout: DatasetLayout, runner: Runner) -> None:
    """Gather the kept samples from the parts, by id, into parts of bounded size."""
    order = pa.table(
        {
            "part": cleaned.column("part").combine_chunks().cast(pa.string()),
            "row": cleaned.column("row"),
            "group": pa.array(cleaned.groups, pa.string()),
            "cluster": pa.array(clusters, pa.string()),
        }
    )
    order_file = staging / "order.arrow"
    write_part(order, order_file)
    layout.samples.mkdir(parents=True)
    filled = np.cumsum(cleaned.column("characters").to_numpy()) // OUTPUT_CHARACTERS
    starts = np.flatnonzero(np.concatenate([[True], np.diff(filled) > 0])).tolist()
    items = [
        {"order": str(order_file), "start": start, "end": end, "target": str(part_file(layout.samples, number))}
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], order.num_rows], strict=True))
    ]
    for _ in runner.map(gather_task, items):
        pass


def gather_task(item: dict[str, Any]) -> bytes:
    """Write one part of the output: some stretch of the order, from wherever its samples are."""
    order = open_part(item["order"]).slice(item["start"], item["end"] - item["start"])
    parts = order.column("part").combine_chunks().dictionary_encode()
    rows, indices = order.column("row").to_numpy(), parts.indices.to_numpy()
    tables, places = [], []
    for number, path in enumerate(parts.dictionary.to_pylist()):
        here = np.flatnonzero(indices == number)
        tables.append(open_part(path).take(pa.array(rows[here])))
        places.append(here)
    table = pa.concat_tables(tables).take(pa.array(np.argsort(np.concatenate(places))))
    table = table.set_column(table.schema.get_field_index("group"), STORED_SCHEMA.field("group"), order.column("group"))
    table = table.append_column(STORED_SCHEMA.field("cluster"), order.column("cluster"))
    write_table(table, Path(item["target"]))
    return b""


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


def _check_rejections(cleaned: Cleaned, output: Path, max_rejected: float, remedy: Remedy | None) -> None:
    """Refuse data of which nothing, or too little, is left; what was refused is written beside the output."""
    rejected = len(cleaned.rejected)
    if len(cleaned.kept) and rejected <= max_rejected * cleaned.read:
        return
    if not cleaned.read:
        raise DataError("there are no samples", hint="`samples:` is an empty list.")
    place = output.resolve()
    listing = place.with_name(place.name + REFUSED_ENDING)
    listing.parent.mkdir(parents=True, exist_ok=True)
    write_rejected(cleaned, listing)
    first = cleaned.rejected[0]
    other = f", or raise --max-rejected (now {max_rejected:g})" if len(cleaned.kept) else ""
    mend = remedy(first) if remedy else f"Mend them{other}."
    raise DataError(
        f"{rejected} of {cleaned.read} samples are refused, the first for: {first.message}",
        where=f"{first.where}{f' ({first.id})' if first.id else ''}",
        hint=f"All are listed in {listing}. {mend}",
    )


def _manifest(cleaned: Cleaned, layout: DatasetLayout) -> dict[str, Any]:
    return {
        "content_hash": content_hash(cleaned.column("digest").to_pylist(), cleaned.groups),
        "read": cleaned.read,
        "kept": len(cleaned.kept),
        "rejected": len(cleaned.rejected),
        "duplicates": len(cleaned.merged),
        "merged": [asdict(merge) for merge in cleaned.merged],
        "conflicts_kept": cleaned.conflicts_kept,
        "changed": count_changes(cleaned),
        "rejected_reasons": count_values(rejection.reason for rejection in cleaned.rejected),
        **describe_samples(layout),
    }


def describe_samples(layout: DatasetLayout) -> dict[str, Any]:
    """What a manifest says of the written samples: how large their clusters are, and their values."""
    columns = read_parts(layout.samples, ["label", "category", "language", "cluster"])
    sizes = Counter(columns.column("cluster").to_pylist()).values()
    return {
        "clusters": {"count": len(sizes), "largest": max(sizes, default=0), "alone": sum(n == 1 for n in sizes)},
        "labels": count_values(columns.column("label").to_pylist()),
        "categories": count_values(columns.column("category").to_pylist()),
        "languages": count_values(columns.column("language").to_pylist()),
    }


def count_changes(cleaned: Cleaned) -> dict[str, int]:
    """How many kept samples went through each of `CHANGES`."""
    flags = cleaned.column("changes").to_numpy()
    return {name: int((flags >> bit & 1).sum()) for bit, name in enumerate(CHANGES)}


def count_values(values: Iterable[str]) -> dict[str, int]:
    """How often each value is there, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def copy_dataset(dataset: Dataset, output: Path) -> Dataset:
    """Copy a prepared dataset without its splits."""
    with replacing(output) as partial:
        layout = DatasetLayout(partial)
        shutil.copytree(dataset.layout.samples, layout.samples)
        shutil.copyfile(dataset.layout.rejected, layout.rejected)
        kept = {
            key: value for key, value in dataset.manifest.items() if key not in ("splits", "files", "schema_version")
        }
        write_manifest(layout, kept)
    return open_dataset(output)
