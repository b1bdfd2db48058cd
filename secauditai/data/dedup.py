"""Cleaning: which parsed samples are kept, merged as duplicates, or refused, so that nothing vanishes.

read = kept + rejected + merged, always.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from secauditai.data.schema import code_key

Row = Mapping[str, str]


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

    read: int = 0
    kept: list[dict[str, str]] = field(default_factory=list)
    """Rows of `SAMPLE_SCHEMA`, by id."""
    rejected: list[Rejection] = field(default_factory=list)
    merged: list[Merge] = field(default_factory=list)


def clean(parsed: Iterable[Row]) -> Cleaned:
    """Sort out parsed rows: unique ids, no exact duplicates, no code with both labels outside one group.

    Args:
        parsed: rows of `parse_rows`, in input order: a sample, or a rejection when `reason` is not empty.
    """
    result = Cleaned()
    by_id: dict[str, tuple[str, dict[str, str]]] = {}
    for row in parsed:
        result.read += 1
        if row["reason"]:
            result.rejected.append(Rejection(row["where"], row["id"], row["reason"], row["message"]))
            continue
        sample = {key: value for key, value in row.items() if key not in ("where", "reason", "message")}
        first = by_id.setdefault(row["id"], (row["where"], sample))
        if first[1] is sample:
            continue
        if code_key(first[1]["code"]) == code_key(row["code"]) and first[1]["label"] == row["label"]:
            result.merged.append(Merge(row["id"], row["id"], row["where"]))
        else:
            message = f"the id is taken by another sample at {first[0]}"
            result.rejected.append(Rejection(row["where"], row["id"], "duplicate_id", message))
    _merge_equal_code(by_id, result)
    result.kept.sort(key=lambda sample: sample["id"])
    return result


def _merge_equal_code(by_id: Mapping[str, tuple[str, dict[str, str]]], result: Cleaned) -> None:
    """Merge samples of equal code and label into the one with the smallest id; drop code that has both labels."""
    by_code: dict[str, list[str]] = {}
    for sample_id in sorted(by_id):
        by_code.setdefault(code_key(by_id[sample_id][1]["code"]), []).append(sample_id)
    groups = _Groups()
    for ids in by_code.values():
        samples = [by_id[sample_id][1] for sample_id in ids]
        if len({sample["label"] for sample in samples}) > 1 and not _one_group(samples):
            others = ", ".join(ids[:3]) + (" …" if len(ids) > 3 else "")
            message = f"the same code has both labels ({others}) and no common group"
            result.rejected += [Rejection(by_id[i][0], i, "conflict", message) for i in ids]
            continue
        first: dict[str, str] = {}
        for sample_id, sample in zip(ids, samples, strict=True):
            into = first.setdefault(sample["label"], sample_id)
            if into == sample_id:
                result.kept.append(sample)
                continue
            result.merged.append(Merge(sample_id, into, by_id[sample_id][0]))
            groups.join(by_id[into][1], sample)
    for sample in result.kept:
        sample["group"] = groups.find(sample["group"]) if sample["group"] else groups.adopted(sample["id"])


def _one_group(samples: list[dict[str, str]]) -> bool:
    names = {sample["group"] for sample in samples}
    return len(names) == 1 and "" not in names


class _Groups:
    """Explicit groups that share a merged duplicate become one, so that a split keeps them together."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._adopted: dict[str, str] = {}

    def join(self, kept: Row, merged: Row) -> None:
        """Note that `merged` went into `kept`."""
        if not merged["group"]:
            return
        mine = kept["group"] or self._adopted.setdefault(kept["id"], merged["group"])
        low, high = sorted((self.find(mine), self.find(merged["group"])))
        self._parent[high] = low

    def find(self, group: str) -> str:
        """The smallest name among the groups joined with this one."""
        while self._parent.get(group, group) != group:
            group = self._parent[group]
        return group

    def adopted(self, sample_id: str) -> str:
        """The group an ungrouped sample got from its duplicates; "" when it has none."""
        group = self._adopted.get(sample_id, "")
        return self.find(group) if group else ""
