"""The prepared dataset directory: its file names, opening it, and writing it whole or not at all."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from secauditai.data.schema import SAMPLE_SCHEMA
from secauditai.errors import DataError
from secauditai.files import describe_file, describe_tree

SCHEMA_VERSION = 2
SPLITS = ("train", "val", "test")
SAMPLES, MANIFEST = "samples", "manifest.json"
REFUSED_ENDING = ".rejected.jsonl"
"""Of a list of refused samples that stands beside an output."""
PARTS = "part-*.parquet"
NEEDED = {"content_hash": str, "read": int, "merged": list, "cleaning": dict, "files": dict}
"""What a manifest must have, whatever has written it."""
STORED_SCHEMA = SAMPLE_SCHEMA.append(pa.field("cluster", pa.string(), nullable=False))
"""Columns of sample and split files: `cluster` names the samples that must share a split."""


@dataclass(frozen=True)
class DatasetLayout:
    """The file names of a dataset directory."""

    root: Path

    @property
    def samples(self) -> Path:
        """Directory of all kept samples, by id over its parts."""
        return self.root / SAMPLES

    @property
    def rejected(self) -> Path:
        """Every refused sample with its place and reason."""
        return self.root / "rejected.jsonl"

    @property
    def manifest(self) -> Path:
        """Counts, digests, sources and settings."""
        return self.root / MANIFEST

    def split(self, name: str) -> Path:
        """Directory of the samples of a split."""
        return self.root / name


@dataclass(frozen=True)
class Dataset:
    """An opened dataset directory, or one split of it."""

    name: str
    """What the user called it."""
    layout: DatasetLayout
    manifest: dict[str, Any]
    origin: str
    """What the name was resolved to."""
    only: str | None = None
    """The one split this is a view of."""

    @property
    def root(self) -> Path:
        """The dataset directory."""
        return self.layout.root

    @property
    def content_hash(self) -> str:
        """Digest of all kept samples, whatever their order in the source."""
        return str(self.manifest["content_hash"])

    @property
    def megabytes(self) -> float:
        """Size of its sample files in MiB."""
        return sum(path.stat().st_size for path in self.layout.samples.iterdir()) / 2**20

    @property
    def similarity(self) -> float | None:
        """From which similarity its near duplicates share a cluster; None when only groups do."""
        cleaning = self.manifest["cleaning"]
        return float(cleaning["similarity"]) if cleaning["near_duplicates"] else None

    @property
    def without_comments(self) -> bool:
        """Whether comments were removed from its code."""
        return bool(self.manifest["cleaning"].get("strip_comments"))

    def splits(self) -> tuple[str, ...]:
        """The splits it has; () when it was not split."""
        return tuple(self.manifest.get("splits", {}).get("counts", {}))

    def table(self, split: str | None = None) -> pa.Table:
        """The samples of a split, or all of them, by id."""
        wanted = split or self.only
        return read_parts(self.layout.split(wanted) if wanted else self.layout.samples)

    def test_table(self) -> pa.Table:
        """What an evaluation means by this dataset: its `test`, or all of it when it is unsplit."""
        return self.table("test" if self.only is None and "test" in self.splits() else None)


def open_dataset(root: Path, *, name: str | None = None, origin: str | None = None) -> Dataset:
    """Open a prepared dataset directory after comparing its files with the manifest.

    Raises:
        DataError: when it is none, or a file is missing or differs.
    """
    root = root.absolute()
    layout = DatasetLayout(root)
    manifest = _read_manifest(layout)
    files = manifest["files"]
    for relative, expected in files.items():
        if not (root / relative).is_file() or describe_file(root / relative) != expected:
            raise DataError(f"damaged dataset: {relative} differs from its manifest", where=str(root))
    for path in sorted(root.glob(f"*/{PARTS}")):
        if str(path.relative_to(root)) not in files:
            raise DataError(f"damaged dataset: {path.relative_to(root)} is not in its manifest", where=str(root))
    return Dataset(name or str(root), layout, manifest, origin or f"prepared dataset {root}")


def _read_manifest(layout: DatasetLayout) -> dict[str, Any]:
    """The manifest, with whatever reading a dataset needs of it."""
    try:
        manifest: dict[str, Any] = json.loads(layout.manifest.read_text(encoding="utf-8"))
        if manifest["schema_version"] != SCHEMA_VERSION:
            hint = "Prepare it again."
            raise DataError("the dataset was written by another version", where=str(layout.root), hint=hint)
        for name, kind in NEEDED.items():
            if not isinstance(manifest[name], kind):
                raise TypeError(f"{name!r} is no {kind.__name__}")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("not a prepared dataset: it has no manifest.json", where=str(layout.root)) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"damaged manifest: {error}", where=str(layout.manifest)) from None
    return manifest


def one_split(dataset: Dataset, split: str) -> Dataset:
    """A view of one split.

    Raises:
        DataError: when the dataset has no such split.
    """
    if split not in dataset.splits():
        known = ", ".join(dataset.splits()) or "none"
        raise DataError(f"{dataset.root} has no split {split!r}", hint=f"Its splits: {known}.")
    return replace(dataset, only=split, origin=f"{split} split of {dataset.root}")


def is_dataset(root: Path) -> bool:
    """Whether a directory looks like a prepared dataset."""
    layout = DatasetLayout(root)
    return layout.manifest.is_file() and layout.samples.is_dir()


def content_hash(digests: Iterable[bytes], groups: Iterable[str]) -> str:
    """Digest of samples ordered by id, from their row digests and groups."""
    whole = hashlib.sha256()
    for digest, group in zip(digests, groups, strict=True):
        whole.update(digest + group.encode("utf-8") + b"\n")
    return whole.hexdigest()


def part_file(directory: Path, number: int) -> Path:
    """A part of a directory of samples."""
    return directory / f"part-{number:05d}.parquet"


def read_parts(directory: Path, columns: list[str] | None = None) -> pa.Table:
    """The samples of all parts of a directory, in order."""
    parts = list(each_part(directory, columns))
    return pa.concat_tables(parts) if parts else STORED_SCHEMA.empty_table().select(columns or STORED_SCHEMA.names)


def each_part(directory: Path, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The samples of a directory, one part at a time, in order."""
    for path in sorted(directory.glob(PARTS)):
        yield pq.read_table(path, columns=columns)


def write_table(table: pa.Table, path: Path) -> None:
    """Write samples as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", compression_level=1)


def write_manifest(layout: DatasetLayout, manifest: dict[str, Any]) -> None:
    """Write the manifest, last, with size and digest of every other file."""
    files = describe_tree(layout.root, leave_out=[layout.manifest])
    document = {"schema_version": SCHEMA_VERSION, **manifest, "files": files}
    layout.manifest.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
