"""Cross-validation datasets: of every fold one, in which it is test and the others are train and val."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from secauditai.data.dataset import (
    Dataset,
    DatasetLayout,
    content_hash,
    is_dataset,
    open_dataset,
    part_file,
    write_manifest,
    write_table,
)
from secauditai.data.prepare import copy_dataset, describe_samples
from secauditai.data.replacing import replacing
from secauditai.data.schema import row_digest
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.errors import DataError
from secauditai.mirror import fetch, send


@dataclass(frozen=True)
class Pool:
    """What cross-validation deals out to folds."""

    dataset: Dataset
    """Without splits."""
    seed: int
    """Of the folds: the run's, or that of folds which `split --folds` wrote."""
    left_out: int
    """Samples of the test split, which stay unseen."""


def open_pool(dataset: Dataset, folds: int, *, seed: int, cache: Path) -> Pool:
    """The samples to deal out: all of them, or train and val when there is a test split.

    Raises:
        DataError: when the dataset has folds already, but another number of them.
    """
    splits = dataset.splits()
    if splits and splits[0] == "fold_0":
        if len(splits) != folds:
            raise DataError(
                f"it has {len(splits)} folds, not {folds}", where=str(dataset.root), hint=f"Use --folds {len(splits)}."
            )
        return Pool(dataset, int(dataset.manifest["splits"]["seed"]), 0)
    if dataset.only is None and "test" not in splits:
        return Pool(dataset, seed, 0)
    names = [dataset.only] if dataset.only else [name for name in splits if name != "test"]
    table = pa.concat_tables([dataset.table(name) for name in names]).sort_by("id")
    left_out = 0 if dataset.only else dataset.table("test").num_rows
    digest = _digest(table)
    root = cache / "datasets" / f"{digest[:24]}-pool"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        fetch(root)
        if not is_dataset(root):
            _write_pool(dataset, table, digest, names, root)
        send(root)
    return Pool(open_dataset(root, name=dataset.name), seed, left_out)


def open_fold(pool: Pool, folds: int, held_out: int, *, cache: Path) -> Dataset:
    """The dataset in which fold `held_out` (from 0) is test; no cluster is in two of its splits.

    Raises:
        DataError: when there are too few clusters.
    """
    root = cache / "datasets" / f"{pool.dataset.content_hash[:24]}-seed{pool.seed}-fold{held_out}of{folds}"
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        fetch(root)
        if not is_dataset(root) or not open_dataset(root).splits():
            plan = SplitPlan(seed=pool.seed, folds=folds, held_out=held_out)
            split_dataset(copy_dataset(pool.dataset, root), plan)
        send(root)
    return open_dataset(root, name=f"{pool.dataset.name}, fold {held_out}")


def _digest(table: pa.Table) -> str:
    return content_hash((row_digest(row) for row in table.to_pylist()), table.column("group").to_pylist())


def _write_pool(dataset: Dataset, table: pa.Table, digest: str, names: list[str], root: Path) -> None:
    """Write some splits of a dataset as a dataset of its own, without splits."""
    with replacing(root) as partial:
        layout = DatasetLayout(partial)
        write_table(table, part_file(layout.samples, 0))
        layout.rejected.write_text("", encoding="utf-8")
        kept = {
            key: value for key, value in dataset.manifest.items() if key not in ("splits", "files", "schema_version")
        }
        kept |= {"content_hash": digest, "read": table.num_rows, "kept": table.num_rows, "rejected": 0, "duplicates": 0}
        kept |= {"merged": [], "rejected_reasons": {}, "pool": {"of": dataset.content_hash, "splits": names}}
        write_manifest(layout, kept | describe_samples(layout))
