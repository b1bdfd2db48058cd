"""`split`: train, val and test by cluster, stratified by label and category, the same for the same seed.

Which split a cluster goes to follows from the seed and the clusters themselves, not from the order of the input.
"""

import contextlib
import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secauditai.data.clusters import recompute_clusters
from secauditai.data.dataset import (
    SPLITS,
    Dataset,
    DatasetLayout,
    open_dataset,
    part_file,
    read_parts,
    replacing,
    write_manifest,
    write_table,
)
from secauditai.data.parse import open_part, write_part
from secauditai.data.prepare import staging_beside
from secauditai.data.tasks import HERE, Runner
from secauditai.errors import ConfigError, DataError

DEFAULT_RATIOS = {"train": 0.8, "val": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Split:
    """What `split` did."""

    dataset: Dataset
    counts: dict[str, int]
    """Samples per split."""
    straddling_clusters: int
    """Clusters found in two splits, recomputed from the written files; never anything but 0."""
    warnings: list[str]


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Refuse ratios that do not add up to 1.

    Raises:
        ConfigError: naming the flags and the sum.
    """
    total = sum(ratios.values())
    if any(ratio < 0 for ratio in ratios.values()) or abs(total - 1.0) > 1e-6:
        flags = " ".join(f"--{name} {ratio:g}" for name, ratio in ratios.items())
        raise ConfigError(
            f"{flags} add up to {total:g}, not to 1", hint="For example --train 0.8 --val 0.1 --test 0.1."
        )
    if ratios["train"] <= 0:
        raise ConfigError("--train must be above 0")


def split_dataset(dataset: Dataset, ratios: Mapping[str, float], *, seed: int, runner: Runner = HERE) -> Split:
    """Write the splits of a prepared dataset into it; splits that are there are replaced.

    Args:
        dataset: a prepared dataset.
        ratios: share of samples per split.
        seed: of the assignment.
        runner: where the writing is done.

    Raises:
        ConfigError: for ratios that do not add up.
        DataError: when there are too few clusters to split, or a cluster were found in two splits.
    """
    check_ratios(ratios)
    keys = read_parts(dataset.layout.samples, ["id", "label", "category", "cluster"])
    clusters = keys.column("cluster").to_pylist()
    chosen, warnings = assign_clusters(keys, clusters, ratios, seed=seed)
    names = [name for name in SPLITS if ratios.get(name, 0) > 0]
    with staging_beside(dataset.root) as staging, _replacing_splits(dataset) as layout:
        assignment = staging / "assignment.arrow"
        write_part(pa.table({"split": pa.array([chosen[cluster] for cluster in clusters], pa.string())}), assignment)
        counts = _write_splits(layout, names, assignment, runner)
        straddling = count_straddling(layout, names, dataset.similarity)
        if straddling:
            raise DataError(f"{straddling} clusters are in more than one split; this is a bug", where=str(dataset.root))
        splits = {"counts": counts, "ratios": dict(ratios), "seed": seed, "hash": splits_hash(layout, names)}
        manifest = {key: value for key, value in dataset.manifest.items() if key not in ("files", "schema_version")}
        write_manifest(layout, {**manifest, "splits": splits})
    opened = open_dataset(dataset.root, name=dataset.name, origin=dataset.origin)
    return Split(opened, counts, straddling, warnings + _empty_label_warnings(opened, names))


@contextlib.contextmanager
def _replacing_splits(dataset: Dataset) -> Iterator[DatasetLayout]:
    """A copy of the dataset without splits, to be filled; it takes the dataset's place when all went well."""
    with replacing(dataset.root) as layout:
        shutil.copytree(dataset.layout.samples, layout.samples)
        shutil.copyfile(dataset.layout.rejected, layout.rejected)
        yield layout


def _write_splits(layout: DatasetLayout, names: list[str], assignment: Path, runner: Runner) -> dict[str, int]:
    """Deal out every part of the samples to the splits; samples per split."""
    items, start = [], 0
    for number, part in enumerate(sorted(layout.samples.iterdir())):
        targets = {name: str(part_file(layout.split(name), number)) for name in names}
        items.append({"part": str(part), "assignment": str(assignment), "start": start, "targets": targets})
        start += pq.read_metadata(part).num_rows
    counts = dict.fromkeys(names, 0)
    for result in runner.map(deal_task, items):
        for name, count in json.loads(result).items():
            counts[name] += count
    return counts


def deal_task(item: dict[str, Any]) -> bytes:
    """Write the samples of one part into the splits they are assigned to; how many went where, as JSON."""
    table = pq.read_table(item["part"])
    assigned = open_part(item["assignment"]).column("split").slice(item["start"], table.num_rows)
    counts = {}
    for name, target in item["targets"].items():
        part = table.filter(pc.equal(assigned, name))
        counts[name] = part.num_rows
        if part.num_rows:
            write_table(part, Path(target))
    return json.dumps(counts).encode()


def assign_clusters(
    table: pa.Table, clusters: list[str], ratios: Mapping[str, float], *, seed: int
) -> tuple[dict[str, str], list[str]]:
    """Choose the split of each cluster, largest first, by which split lacks its labels and categories most.

    Returns:
        Cluster to split, and warnings for clusters larger than any split but train can take.
    """
    strata = [f"{a}/{b}" for a, b in zip(table["label"].to_pylist(), table["category"].to_pylist(), strict=True)]
    members: dict[str, Counter[str]] = defaultdict(Counter)
    for cluster, stratum in zip(clusters, strata, strict=True):
        members[cluster][stratum] += 1
    wanted = [name for name in SPLITS if ratios.get(name, 0) > 0]
    if len(members) < len(wanted):
        raise DataError(
            f"{len(members)} clusters cannot be split into {', '.join(wanted)}",
            hint="A cluster is a group, some near duplicates, or a sample that stands alone; add samples.",
        )
    totals = Counter(strata)
    filled: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    chosen: dict[str, str] = {}
    warnings = []
    for cluster in sorted(members, key=lambda name: (-members[name].total(), _rank(name, seed))):
        size = members[cluster].total()
        room = [name for name in wanted if name == "train" or size <= ratios[name] * len(strata)]
        if room == ["train"] and len(wanted) > 1 and size > 1:
            warnings.append(
                f"cluster {cluster} ({size} samples) is larger than any other split's share: it goes to train"
            )
        best = max(
            room or ["train"],
            key=lambda name: (_need(members[cluster], filled[name], totals, ratios[name]), ratios[name]),
        )
        chosen[cluster] = best
        filled[best] += members[cluster]
    _fill_empty(chosen, wanted, seed)
    return chosen, warnings


def _need(cluster: Counter[str], filled: Counter[str], totals: Counter[str], ratio: float) -> float:
    """How much of a cluster's strata a split still lacks: 1 when empty, 0 when full, below 0 beyond."""
    size = cluster.total()
    lacks = sum(count * (1 - filled[stratum] / (ratio * totals[stratum])) for stratum, count in cluster.items()) / size
    overall = 1 - filled.total() / (ratio * totals.total())
    return round(lacks + overall, 9)


def _fill_empty(chosen: dict[str, str], wanted: list[str], seed: int) -> None:
    """Give a split that got nothing one cluster of the split with the most."""
    for name in wanted:
        if name in chosen.values():
            continue
        donor = Counter(chosen.values()).most_common(1)[0][0]
        candidates = [cluster for cluster, split in chosen.items() if split == donor]
        chosen[min(candidates, key=lambda cluster: _rank(cluster, seed))] = name


def _rank(cluster: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {cluster}".encode()).hexdigest()


def count_straddling(layout: DatasetLayout, names: list[str], similarity: float | None) -> int:
    """Count clusters that the written files have in more than one split, found anew from their groups and code."""
    tables = [read_parts(layout.split(name), ["id", "group", "code"]) for name in names]
    split_of = [name for name, table in zip(names, tables, strict=True) for _ in range(table.num_rows)]
    seen: dict[str, set[str]] = defaultdict(set)
    for cluster, name in zip(recompute_clusters(pa.concat_tables(tables), similarity), split_of, strict=True):
        seen[cluster].add(name)
    return sum(len(splits) > 1 for splits in seen.values())


def splits_hash(layout: DatasetLayout, names: list[str]) -> str:
    """Digest of which sample is in which split."""
    digest = hashlib.sha256()
    for name in names:
        ids = read_parts(layout.split(name), ["id"]).column("id").to_pylist()
        digest.update(f"{name}\n".encode() + "\n".join(sorted(ids)).encode("utf-8") + b"\n")
    return digest.hexdigest()


def _empty_label_warnings(dataset: Dataset, names: list[str]) -> list[str]:
    labels = set(read_parts(dataset.layout.samples, ["label"]).column("label").to_pylist())
    found = {name: set(read_parts(dataset.layout.split(name), ["label"]).column("label").to_pylist()) for name in names}
    return [f"{name} has no sample labelled {label}" for name in names for label in sorted(labels - found[name])]
