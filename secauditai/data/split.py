"""`split`: writes the splits of a dataset by cluster, and proves from the written files that none is in two of them."""

import hashlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
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
)
from secauditai.data.clean import Rejection
from secauditai.data.clusters import CODES_AT_ONCE, recompute_clusters
from secauditai.data.dataset import (
    SPLITS,
    Dataset,
    DatasetLayout,
    content_hash,
    each_part,
    open_dataset,
    part_file,
    read_parts,
    write_manifest,
    write_table,
)
from secauditai.data.extend import Extension, drift, extend_assignment, merged_bridges, read_homes
from secauditai.data.parts import open_part, write_part
from secauditai.data.prepare import count_values, describe_samples
from secauditai.data.replacing import replacing, staging_beside
from secauditai.data.schema import DIGESTED, code_key, row_digest
from secauditai.data.straddling import find_straddling
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
    labels: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Samples of each split by label, as written."""


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
        old = self.extend.splits() if self.extend is not None else ()
        return [name for name in SPLITS if self.predefined or self.ratios.get(name, 0) > 0 or name in old]

    def describe(self) -> dict[str, Any]:
        """What the manifest says about it."""
        way: dict[str, Any] = {"by_time": self.by_time, "by_project": self.by_project, "predefined": self.predefined}
        way |= {"folds": self.folds, "extends": self.extend.manifest["splits"]["hash"] if self.extend else None}
        held_out = {} if self.held_out is None else {"held_out": self.held_out}
        chosen = {key: value for key, value in way.items() if value}
        ratios = {} if self.folds or self.predefined else {"ratios": dict(self.ratios)}
        return {**ratios, "seed": self.seed, **chosen, **held_out}


@dataclass
class _Deal:
    """What becomes of each sample."""

    split_of: dict[str, str]
    warnings: list[str]
    bridges: list[Rejection] = field(default_factory=list)
    """Samples that are left out, whether the prepared dataset has them or merged them."""
    merged_bridges: list[Mapping[str, str]] = field(default_factory=list)
    """Those that are among the merged duplicates, as the manifest lists them."""
    changed: dict[str, dict[str, str]] = field(default_factory=dict)
    """`group` and `cluster` to their new values by sample."""


def split_dataset(dataset: Dataset, plan: SplitPlan, runner: Runner = HERE) -> Split:
    """Write the splits of a prepared dataset into it; splits that are there are replaced.

    Raises:
        DataError: when there are too few clusters, metadata that the plan needs is missing, or (a bug) a cluster is
            found in two of the written splits, or a sample in none.
    """
    members = _members(dataset, plan)
    deal = _deal(dataset, members, plan)
    with staging_beside(dataset.root) as staging, replacing(dataset.root) as partial:
        layout = DatasetLayout(partial)
        shutil.copyfile(dataset.layout.rejected, layout.rejected)
        assignment = staging / "assignment.arrow"
        write_part(_assignment(members, deal), assignment)
        counts = _write_splits(dataset, layout, plan.names, assignment, runner)
        _check_complete(counts, len(members) - len(deal.bridges) + len(deal.merged_bridges), dataset)
        straddling = find_straddling(layout, plan.names, dataset.similarity)
        if straddling:
            raise _straddling_error(dataset, plan, straddling)
        manifest = {key: value for key, value in dataset.manifest.items() if key not in ("files", "schema_version")}
        if deal.bridges or deal.changed:
            manifest |= _reject_bridges(deal, manifest, layout)
        splits = {"counts": counts, **plan.describe(), "hash": splits_hash(layout, plan.names)}
        write_manifest(layout, {**manifest, "splits": splits})
    opened = open_dataset(dataset.root, name=dataset.name, origin=dataset.origin)
    moved = drift(counts, plan.ratios) if plan.extend is not None else {}
    labels = {name: count_values(_column(opened.layout.split(name), "label")) for name in plan.names}
    warnings = deal.warnings + _empty_label_warnings(labels)
    return Split(opened, counts, len(straddling), warnings, len(deal.bridges), moved, labels)


def _members(dataset: Dataset, plan: SplitPlan) -> list[Member]:
    """What the plan needs to know of each sample, read a part at a time."""
    columns = ["id", "cluster", "label", "category"]
    columns += ["metadata"] if plan.by_time or plan.by_project or plan.predefined else []
    columns += ["group", "code"] if plan.extend is not None else []
    members = []
    for table in each_part(dataset.layout.samples, columns):
        for batch in table.to_batches(max_chunksize=CODES_AT_ONCE):
            for row in batch.to_pylist():
                key = code_key(row["code"]) if "code" in row else b""
                stratum, metadata = f"{row['label']}/{row['category']}", row.get("metadata", "{}")
                members.append(Member(row["id"], row["cluster"], stratum, metadata, row.get("group", ""), key))
    return members


def _deal(dataset: Dataset, members: list[Member], plan: SplitPlan) -> _Deal:
    if plan.extend is not None:
        return _extended(dataset, members, plan, plan.extend)
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
    return _Deal({member.id: found.chosen[member.cluster] for member in members}, found.warnings)


def _extended(dataset: Dataset, members: list[Member], plan: SplitPlan, old: Dataset) -> _Deal:
    """Carry the splits of an older dataset over, with what a user should know about it."""
    homes = read_homes(old)
    found = extend_assignment(members, homes, plan.ratios, plan.seed)
    deal = _Deal(found.split_of, [])
    if gone := homes.gone(members):
        deal.warnings.append(f"{gone} samples of {old.root} are not in this dataset")
    if found.regrouped:
        deal.warnings.append(
            f"{len(found.regrouped)} samples, such as {min(found.regrouped)}, are in a group of several splits of "
            f"{old.root} now; they keep their split, and the group they had there"
        )
    samples = dataset.layout.samples.name
    deal.bridges = [Rejection(f"{samples}:{name}", name, "bridge", message) for name, message in found.bridges.items()]
    for merge in merged_bridges(dataset.manifest["merged"], found, homes, old.manifest["merged"]):
        into = merge["into"]
        message = f"the same code as {into} in {found.split_of[into]}, but its group has samples in another split"
        deal.bridges.append(Rejection(merge["where"], merge["id"], "bridge", message))
        deal.merged_bridges.append(merge)
    if found.torn:
        deal.changed = {"group": found.regrouped, "cluster": _mended_clusters(dataset, found)}
    return deal


def _mended_clusters(dataset: Dataset, extension: Extension) -> dict[str, str]:
    """The clusters of torn samples, without the bridges and with the groups they go back to."""
    wanted = pa.array(sorted(extension.torn), pa.string())
    tables = []
    for part in each_part(dataset.layout.samples, ["id", "group", "code"]):
        table = part.filter(pc.is_in(part.column("id"), value_set=wanted))
        pairs = zip(table.column("id").to_pylist(), table.column("group").to_pylist(), strict=True)
        groups = [extension.regrouped.get(name, group) for name, group in pairs]
        tables.append(table.set_column(1, "group", pa.array(groups, pa.string())))
    ids = [name for table in tables for name in table.column("id").to_pylist()]
    return dict(zip(ids, recompute_clusters(tables, dataset.similarity), strict=True))


def _assignment(members: list[Member], deal: _Deal) -> pa.Table:
    """(samples,) split, "" for none, and what changes in the columns of a sample, null for nothing."""
    columns: dict[str, list[str | None]] = {"split": [deal.split_of.get(member.id, "") for member in members]}
    columns |= {
        name: [deal.changed.get(name, {}).get(member.id) for member in members] for name in ("group", "cluster")
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _check_complete(counts: Mapping[str, int], kept: int, dataset: Dataset) -> None:
    if sum(counts.values()) != kept:
        told = f"{kept} samples are kept, but {sum(counts.values())} are in its splits ({', '.join(counts)})"
        raise DataError(f"{told}; this is a bug", where=str(dataset.root))


def _straddling_error(dataset: Dataset, plan: SplitPlan, straddling: Sequence[Mapping[str, str]]) -> DataError:
    shown = " and ".join(f"{name} in {split}" for split, name in straddling[0].items())
    told = f"{len(straddling)} clusters are in more than one split"
    if plan.extend is None:
        return DataError(f"{told}, one with {shown}; this is a bug", where=str(dataset.root))
    told += f" of {plan.extend.root}, as this dataset clusters them: one has {shown}"
    hint = "Prepare both with the same --similarity, take one of these samples out, or split this dataset anew."
    return DataError(told, where=str(dataset.root), hint=hint)


def _reject_bridges(deal: _Deal, manifest: Mapping[str, Any], layout: DatasetLayout) -> dict[str, Any]:
    """List samples that would bridge two splits among the rejected ones; what changes in the manifest.

    The written files tell of `changed` only which languages were detected; the other counts are what they can be at
    most.
    """
    with layout.rejected.open("a", encoding="utf-8") as lines:
        for rejection in deal.bridges:
            lines.write(json.dumps(asdict(rejection), ensure_ascii=False) + "\n")
    digests, groups, detected = list[bytes](), list[str](), 0
    for table in each_part(layout.samples, [*DIGESTED, "group"]):
        groups += table.column("group").to_pylist()
        for batch in table.to_batches(max_chunksize=CODES_AT_ONCE):
            rows = batch.to_pylist()
            digests += map(row_digest, rows)
            detected += sum(bool(json.loads(row["metadata"]).get("language_detected")) for row in rows)
    most = defaultdict(lambda: len(digests), language_detected=detected)
    refused = {tuple(merge.items()) for merge in deal.merged_bridges}
    merged = [merge for merge in manifest["merged"] if tuple(merge.items()) not in refused]
    reasons = Counter(manifest["rejected_reasons"]) + Counter(bridge=len(deal.bridges))
    return {
        "content_hash": content_hash(digests, groups),
        "kept": len(digests),
        "rejected": manifest["rejected"] + len(deal.bridges),
        "duplicates": len(merged),
        "merged": merged,
        "conflicts_kept": min(manifest.get("conflicts_kept", 0), len(digests)),
        "changed": {name: min(count, most[name]) for name, count in manifest["changed"].items()},
        "rejected_reasons": count_values(reasons.elements()),
        **describe_samples(layout),
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
    assignment = open_part(item["assignment"]).slice(item["start"], table.num_rows)
    for name in ("group", "cluster"):
        place, changed = table.schema.get_field_index(name), assignment.column(name)
        if changed.null_count < table.num_rows:
            table = table.set_column(place, table.schema.field(place), pc.coalesce(changed, table.column(name)))
    assigned = assignment.column("split")
    write_table(table.filter(pc.not_equal(assigned, "")), Path(item["kept"]))
    counts = {}
    for name, target in item["targets"].items():
        part = table.filter(pc.equal(assigned, name))
        counts[name] = part.num_rows
        if part.num_rows:
            write_table(part, Path(target))
    return json.dumps(counts).encode()


def splits_hash(layout: DatasetLayout, names: list[str]) -> str:
    """Digest of which sample is in which split."""
    digest = hashlib.sha256()
    for name in names:
        ids = _column(layout.split(name), "id")
        digest.update(f"{name}\n".encode() + "\n".join(sorted(ids)).encode("utf-8") + b"\n")
    return digest.hexdigest()


def _column(directory: Path, name: str) -> list[str]:
    values: list[str] = read_parts(directory, [name]).column(name).to_pylist()
    return values


def _empty_label_warnings(labels: Mapping[str, Mapping[str, int]]) -> list[str]:
    known = sorted({label for counts in labels.values() for label in counts})
    return [f"{name} has no sample labelled {label}" for name in labels for label in known if label not in labels[name]]
