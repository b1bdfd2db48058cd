"""`split`: writes the splits of a dataset by cluster, and proves from the written files that none is in two of them."""

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from secauditai.data.assign import (
    Member,
    assign_by_project,
    assign_by_time,
    assign_folds,
    assign_held_out,
    assign_predefined,
    assign_stratified,
    drift,
    extend_assignment,
)
from secauditai.data.clean import Rejection
from secauditai.data.clusters import recompute_clusters
from secauditai.data.dataset import (
    SPLITS,
    Dataset,
    DatasetLayout,
    content_hash,
    open_dataset,
    part_file,
    read_parts,
    write_manifest,
    write_table,
)
from secauditai.data.parts import open_part, write_part
from secauditai.data.replacing import replacing, staging_beside
from secauditai.data.schema import row_digest
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
    bridges: int = 0
    """New samples left out because they would join two older splits."""
    drift: dict[str, float] = field(default_factory=dict)
    """How far each split's share is from its ratio, after an older split was carried over."""


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Refuse ratios that do not add up to 1.

    Raises:
        ConfigError: naming the flags and the sum.
    """
    total = sum(ratios.values())
    flags = " ".join(f"--{name} {ratio:g}" for name, ratio in ratios.items())
    if not all(0 <= ratio <= 1 for ratio in ratios.values()):
        raise ConfigError(f"{flags}: each must be between 0 and 1")
    if abs(total - 1.0) > 1e-6:
        raise ConfigError(
            f"{flags} add up to {total:g}, not to 1", hint="For example --train 0.8 --val 0.1 --test 0.1."
        )
    if ratios["train"] <= 0:
        raise ConfigError("--train must be above 0")


@dataclass(frozen=True)
class SplitPlan:
    """How a dataset is to be split; at most one of the ways is chosen, none means at random but stratified."""

    ratios: Mapping[str, float] = field(default_factory=lambda: DEFAULT_RATIOS)
    seed: int = 13
    by_time: str | None = None
    """Metadata key of the time of a sample."""
    by_project: bool = False
    predefined: bool = False
    folds: int | None = None
    held_out: int | None = None
    """Of the folds, the one that becomes test; the others become train and val."""
    extend: Dataset | None = None
    """An older dataset whose splits are carried over."""

    def __post_init__(self) -> None:
        """Refuse ratios that do not add up, and two ways at once."""
        check_ratios(self.ratios)
        ways: dict[str, object] = {
            "--by-time": self.by_time,
            "--by-project": self.by_project,
            "--predefined": self.predefined,
        }
        ways |= {"--folds": self.folds, "--extend": self.extend}
        chosen = [flag for flag, value in ways.items() if value]
        if len(chosen) > 1:
            raise ConfigError(f"{' and '.join(chosen)} cannot be combined")
        if self.extend is not None and not self.extend.splits():
            raise DataError("it has no splits to carry over", where=str(self.extend.root))
        if self.extend is not None and set(self.extend.splits()) - set(SPLITS):
            raise DataError("its splits are folds, which cannot be extended", where=str(self.extend.root))

    @property
    def names(self) -> list[str]:
        """The splits to write."""
        if self.folds is not None and self.held_out is None:
            return [f"fold_{number}" for number in range(self.folds)]
        return [name for name in SPLITS if self.predefined or self.ratios.get(name, 0) > 0]

    def describe(self) -> dict[str, Any]:
        """What the manifest says about it."""
        way: dict[str, Any] = {"by_time": self.by_time, "by_project": self.by_project, "predefined": self.predefined}
        way |= {"folds": self.folds, "extends": self.extend.manifest["splits"]["hash"] if self.extend else None}
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        chosen = {key: value for key, value in way.items() if value}
        return {"ratios": dict(self.ratios), "seed": self.seed, **chosen, **held_out}


def split_dataset(dataset: Dataset, plan: SplitPlan, runner: Runner = HERE) -> Split:
    """Write the splits of a prepared dataset into it; splits that are there are replaced.

    Raises:
        DataError: when there are too few clusters, metadata that the plan needs is missing, or (a bug) a cluster is
            found in two of the written splits.
    """
    members = _members(dataset)
    split_of, bridges, warnings = _assign(members, plan)
    with staging_beside(dataset.root) as staging, replacing(dataset.root) as partial:
        layout = DatasetLayout(partial)
        shutil.copyfile(dataset.layout.rejected, layout.rejected)
        assignment = staging / "assignment.arrow"
        write_part(pa.table({"split": pa.array([split_of.get(m.id, "") for m in members], pa.string())}), assignment)
        counts = _write_splits(dataset, layout, plan.names, assignment, runner)
        straddling = count_straddling(layout, plan.names, dataset.similarity)
        if straddling:
            raise _straddling_error(dataset, plan, straddling)
        manifest = {key: value for key, value in dataset.manifest.items() if key not in ("files", "schema_version")}
        if bridges:
            manifest |= _reject_bridges(bridges, manifest, layout)
        splits = {"counts": counts, **plan.describe(), "hash": splits_hash(layout, plan.names)}
        write_manifest(layout, {**manifest, "splits": splits})
    opened = open_dataset(dataset.root, name=dataset.name, origin=dataset.origin)
    moved = drift(counts, plan.ratios) if plan.extend is not None else {}
    return Split(opened, counts, straddling, warnings + _empty_label_warnings(opened, plan.names), len(bridges), moved)


def _members(dataset: Dataset) -> list[Member]:
    columns = ["id", "cluster", "label", "category", "metadata"]
    found = read_parts(dataset.layout.samples, columns).to_pydict()
    rows = zip(*(found[name] for name in columns), strict=True)
    return [Member(name, cluster, f"{label}/{category}", more) for name, cluster, label, category, more in rows]


def _assign(members: list[Member], plan: SplitPlan) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """The split of each sample, the bridges left out with the reason, and warnings."""
    if plan.extend is not None:
        old = {
            sample: name
            for name in plan.extend.splits()
            for sample in read_parts(plan.extend.layout.split(name), ["id"]).column("id").to_pylist()
        }
        known = sum(member.id in old for member in members)
        extension = extend_assignment(members, old, plan.ratios, plan.seed)
        gone = len(old) - known
        told = [f"{gone} samples of {plan.extend.root} are not in this dataset"] if gone else []
        return extension.split_of, extension.bridges, told
    if plan.by_time:
        found = assign_by_time(members, plan.ratios, plan.by_time)
    elif plan.by_project:
        found = assign_by_project(members, plan.ratios, plan.seed)
    elif plan.predefined:
        found = assign_predefined(members)
    elif plan.folds:
        found = assign_folds(members, plan.folds, plan.seed)
        if plan.held_out is not None:
            found = assign_held_out(members, found.chosen, f"fold_{plan.held_out}", plan.seed)
    else:
        found = assign_stratified(members, plan.ratios, plan.seed)
    return {member.id: found.chosen[member.cluster] for member in members}, {}, found.warnings


def _straddling_error(dataset: Dataset, plan: SplitPlan, straddling: int) -> DataError:
    told = f"{straddling} clusters are in more than one split"
    if plan.extend is None:
        return DataError(f"{told}; this is a bug", where=str(dataset.root))
    hint = "Prepare both with the same --similarity and groups, or split this one anew."
    return DataError(f"{told} of {plan.extend.root}, as this dataset clusters them", where=str(dataset.root), hint=hint)


def _reject_bridges(bridges: Mapping[str, str], manifest: Mapping[str, Any], layout: DatasetLayout) -> dict[str, Any]:
    """List samples that would bridge two splits among the rejected ones; what changes in the manifest."""
    with layout.rejected.open("a", encoding="utf-8") as lines:
        for sample, message in bridges.items():
            told = Rejection(f"{layout.samples.name}:{sample}", sample, "bridge", message)
            lines.write(json.dumps(asdict(told), ensure_ascii=False) + "\n")
    rows = read_parts(layout.samples)
    digests = (row_digest(row) for row in rows.to_pylist())
    return {
        "content_hash": content_hash(digests, rows.column("group").to_pylist()),
        "kept": rows.num_rows,
        "rejected": manifest["rejected"] + len(bridges),
        "rejected_reasons": {**manifest["rejected_reasons"], "bridge": len(bridges)},
    }


def _write_splits(
    dataset: Dataset, layout: DatasetLayout, names: list[str], assignment: Path, runner: Runner
) -> dict[str, int]:
    """Deal out every part of the samples to the splits, and copy it; samples per split."""
    items, start = [], 0
    for number, part in enumerate(sorted(dataset.layout.samples.iterdir())):
        targets = {name: str(part_file(layout.split(name), number)) for name in names}
        kept = str(part_file(layout.samples, number))
        item = {"part": str(part), "assignment": str(assignment), "start": start, "targets": targets, "kept": kept}
        items.append(item)
        start += pq.read_metadata(part).num_rows
    counts = dict.fromkeys(names, 0)
    for result in runner.map(deal_task, items):
        for name, count in json.loads(result).items():
            counts[name] += count
    return counts


def deal_task(item: dict[str, Any]) -> bytes:
    """Write the samples of one part that have a split, all together and by split; counts as JSON."""
    table = pq.read_table(item["part"])
    assigned = open_part(item["assignment"]).column("split").slice(item["start"], table.num_rows)
    write_table(table.filter(pc.not_equal(assigned, "")), Path(item["kept"]))
    counts = {}
    for name, target in item["targets"].items():
        part = table.filter(pc.equal(assigned, name))
        counts[name] = part.num_rows
        if part.num_rows:
            write_table(part, Path(target))
    return json.dumps(counts).encode()


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
