"""Cleaning: which samples are kept, merged as duplicates, or refused, decided from their keys.

read = kept + rejected + merged, always.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64 = npt.NDArray[np.int64]

CONFLICTS = ("drop", "keep", "majority")


@dataclass(frozen=True)
class Rejection:
    """A sample that was refused."""

    where: str
    id: str
    reason: str
    message: str


@dataclass(frozen=True)
class Merge:
    """A duplicate that was merged into another sample."""

    id: str
    into: str
    where: str


@dataclass
class Cleaned:
    """What became of all samples read."""

    keys: pa.Table
    """Every sample read, in input order."""
    kept: Int64
    """Rows of `keys`, by id."""
    groups: list[str]
    """The group of each kept sample, "" when it has none."""
    rejected: list[Rejection] = field(default_factory=list)
    merged: list[Merge] = field(default_factory=list)
    conflicts_kept: int = 0
    """Kept samples whose code is kept with another label too, outside one group."""

    @property
    def read(self) -> int:
        """Samples read."""
        return int(self.keys.num_rows)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the kept samples' keys, by id."""
        return self.keys.column(name).take(pa.array(self.kept))


def clean(keys: pa.Table, conflicts: str = "drop") -> Cleaned:
    """Sort out samples: unique ids, no exact duplicates, no code with both labels outside one group.

    Args:
        keys: as `parts.KEY_SCHEMA`.
        conflicts: what becomes of the same code with both labels: drop, keep, or keep the label that most of them have.
    """
    cleaned = Cleaned(keys, np.zeros(0, np.int64), [])
    refused = keys.column("reason").to_numpy(zero_copy_only=False) != ""
    cleaned.rejected += [Rejection(**row) for row in _rows(keys, np.flatnonzero(refused), Rejection)]
    groups = _Groups()
    unique = _unique_ids(keys, np.flatnonzero(~refused), cleaned, groups)
    gone = _settle_equal_code(keys, unique, conflicts, cleaned, groups)
    kept = unique[~np.isin(unique, gone)]
    ids = keys.column("id").take(pa.array(kept))
    cleaned.kept = kept[pc.sort_indices(ids).to_numpy()]
    cleaned.groups = groups.of(cleaned.column("id").to_pylist(), cleaned.column("group").to_pylist())
    return cleaned


def _rows(keys: pa.Table, rows: Int64, kind: type) -> Iterator[dict[str, Any]]:
    names = list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
    yield from keys.select(names).take(pa.array(rows)).to_pylist()


def _codes(column: pa.ChunkedArray) -> Int64:
    """Equal values as equal numbers."""
    indices: Int64 = column.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return indices


def _unique_ids(keys: pa.Table, good: Int64, cleaned: Cleaned, groups: "_Groups") -> Int64:
    """The first sample of every id; a later one is a duplicate when it says the same, else refused.

    An id whose code has both labels is refused altogether: neither is more likely right for standing first.
    """
    ids = _codes(keys.column("id"))[good]
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    later = np.flatnonzero(first[inverse] != np.arange(len(good)))
    if len(later):
        code, label = keys.column("code_key"), keys.column("label")
        pairs = list(zip(good[later].tolist(), good[first[inverse[later]]].tolist(), strict=True))
        torn = {before for row, before in pairs if code[row] == code[before] and label[row] != label[before]}
        for row, before in [*((before, before) for before in sorted(torn)), *pairs]:
            where, sample = keys.column("where")[row].as_py(), keys.column("id")[row].as_py()
            if code[row] != code[before]:
                message = f"the id is taken by another sample at {keys.column('where')[before].as_py()}"
                cleaned.rejected.append(Rejection(where, sample, "duplicate_id", message))
            elif before in torn:
                message = "the same id and code have both labels, so neither can be kept"
                cleaned.rejected.append(Rejection(where, sample, "conflict", message))
            else:
                cleaned.merged.append(Merge(sample, sample, where))
                first_group, group = (keys.column("group")[number].as_py() for number in (before, row))
                groups.join({"id": sample, "group": first_group}, {"group": group})
        return good[np.setdiff1d(first, np.flatnonzero(np.isin(good, list(torn))))]
    return good[np.sort(first)]


def _settle_equal_code(keys: pa.Table, unique: Int64, conflicts: str, cleaned: Cleaned, groups: "_Groups") -> Int64:
    """Merge samples of equal code and label into the one with the smallest id; treat code that has both labels.

    Returns:
        The rows that are not kept.
    """
    codes = _codes(keys.column("code_key"))[unique]
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[inverse] > 1)
    if not len(shared):
        return np.zeros(0, np.int64)
    rows = keys.select(["where", "id", "label", "group"]).take(pa.array(unique[shared])).to_pylist()
    by_code: dict[int, list[dict[str, Any]]] = {}
    for code, number, row in zip(inverse[shared].tolist(), unique[shared].tolist(), rows, strict=True):
        by_code.setdefault(code, []).append({**row, "row": number, "group": groups.known(row["id"], row["group"])})
    gone: list[int] = []
    for _, samples in sorted((min(s["id"] for s in samples), samples) for samples in by_code.values()):
        samples.sort(key=lambda sample: sample["id"])
        dropped = _conflicting(samples, conflicts)
        cleaned.rejected += [Rejection(s["where"], s["id"], "conflict", _conflict_message(samples)) for s in dropped]
        gone += [sample["row"] for sample in dropped]
        first: dict[str, dict[str, Any]] = {}
        for sample in samples:
            if sample in dropped:
                continue
            into = first.setdefault(sample["label"], sample)
            if into is not sample:
                cleaned.merged.append(Merge(sample["id"], into["id"], sample["where"]))
                groups.join(into, sample)
                gone.append(sample["row"])
        if len(first) > 1 and _is_conflict(samples):
            cleaned.conflicts_kept += len(first)
    return np.array(gone, dtype=np.int64)


def _conflicting(samples: list[dict[str, Any]], policy: str) -> list[dict[str, Any]]:
    """Which samples of equal code a conflict of labels costs."""
    if policy == "keep" or not _is_conflict(samples):
        return []
    labels = sorted({sample["label"] for sample in samples})
    counts = {label: sum(sample["label"] == label for sample in samples) for label in labels}
    most = max(counts.values())
    winners = [label for label in labels if counts[label] == most]
    if policy == "drop" or len(winners) > 1:
        return samples
    return [sample for sample in samples if sample["label"] != winners[0]]


def _is_conflict(samples: list[dict[str, Any]]) -> bool:
    """Whether samples of equal code have both labels; members of one explicit group never conflict."""
    groups = {sample["group"] for sample in samples}
    return len({sample["label"] for sample in samples}) > 1 and (len(groups) > 1 or "" in groups)


def _conflict_message(samples: list[dict[str, Any]]) -> str:
    others = ", ".join(sample["id"] for sample in samples[:3]) + (" …" if len(samples) > 3 else "")
    return f"the same code has both labels ({others}) and no common group"


class _Groups:
    """Explicit groups that share a merged duplicate become one, so that a split keeps them together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._adopted: dict[str, str] = {}

    def join(self, kept: dict[str, Any], merged: dict[str, Any]) -> None:
        """Note that `merged` went into `kept`."""
        if not merged["group"]:
            return
        mine = kept["group"] or self._adopted.setdefault(kept["id"], merged["group"])
        low, high = sorted((self._find(mine), self._find(merged["group"])))
        if low != high:
            self._parent[high] = low

    def of(self, ids: list[str], groups: list[str]) -> list[str]:
        """The group of each sample after all joins: the smallest name among those joined."""
        if not self._parent and not self._adopted:
            return groups
        return [self.known(name, group) for name, group in zip(ids, groups, strict=True)]

    def known(self, name: str, group: str) -> str:
        """The group, after the joins so far, of a sample that was read with some group; "" when it has none."""
        found = group or self._adopted.get(name, "")
        return self._find(found) if found else ""

    def _find(self, group: str) -> str:
        while self._parent.get(group, group) != group:
            group = self._parent[group]
        return group
