"""Carries an older split over to more samples: old code stays in its split, and what would join two splits is left out.

A cluster with code of several old splits is torn: its old samples keep their split and the group they had, its new ones
are bridges, and so are new duplicates that gave an old sample its new group.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from secauditai.data.assign import Member, Ratios, rank
from secauditai.data.dataset import Dataset, each_part
from secauditai.data.schema import code_key


@dataclass(frozen=True, slots=True)
class Home:
    """Where the older dataset had a sample."""

    split: str
    group: str
    code: bytes


@dataclass
class Homes:
    """Where the older dataset had its samples, by id and by code; code in two splits counts for the first of them."""

    by_id: dict[str, Home] = field(default_factory=dict)
    by_code: dict[bytes, Home] = field(default_factory=dict)

    def find(self, member: Member) -> Home | None:
        """The home of a sample: that of the same id and code, else of its code, else of its id; None when it is new."""
        home = self.by_id.get(member.id)
        return home if home and home.code == member.code else self.by_code.get(member.code, home)

    def gone(self, members: Iterable[Member]) -> int:
        """How many old samples are there neither by id nor by code."""
        ids, codes = {member.id for member in members}, {member.code for member in members}
        return sum(name not in ids and home.code not in codes for name, home in self.by_id.items())


@dataclass
class Extension:
    """An older split carried over to more samples."""

    split_of: dict[str, str] = field(default_factory=dict)
    """Sample to split."""
    bridges: dict[str, str] = field(default_factory=dict)
    """New samples that belong to a cluster of several old splits, and why each is left out."""
    torn: set[str] = field(default_factory=set)
    """Old samples whose cluster is of several old splits."""
    regrouped: dict[str, str] = field(default_factory=dict)
    """Those whose group is of several old splits as well, and the group they had."""


def read_homes(old: Dataset) -> Homes:
    """Read where an older dataset has its samples, a part at a time."""
    homes = Homes()
    for split in old.splits():
        for table in each_part(old.layout.split(split), ["id", "group", "code"]):
            rows = zip(*(table.column(name).to_pylist() for name in ("id", "group", "code")), strict=True)
            for name, group, code in rows:
                home = Home(split, group, code_key(code))
                homes.by_id[name] = home
                homes.by_code.setdefault(home.code, home)
    return homes


def extend_assignment(members: Sequence[Member], homes: Homes, ratios: Ratios, seed: int) -> Extension:
    """Keep old samples where they were; new ones go with the old ones of their cluster, or by hash.

    Args:
        members: all samples, old and new, with their groups and the keys of their code.
        homes: where the old ones were.
        ratios: shares of the hash's range.
        seed: of the hash.
    """
    clusters: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        clusters[member.cluster].append(member)
    result = Extension()
    for cluster, inside in clusters.items():
        splits = sorted({home.split for member in inside if (home := homes.find(member))})
        if len(splits) > 1:
            _tear(inside, homes, f"its cluster {cluster} has samples in {' and '.join(splits)}", result)
            continue
        split = splits[0] if splits else _by_hash(min(member.id for member in inside), ratios, seed)
        result.split_of |= dict.fromkeys((member.id for member in inside), split)
    return result


def drift(counts: Mapping[str, int], ratios: Ratios) -> dict[str, float]:
    """How far each split's share is from its ratio."""
    total = max(1, sum(counts.values()))
    return {name: round(counts.get(name, 0) / total - ratio, 4) for name, ratio in ratios.items()}


def merged_bridges(
    merged: Sequence[Mapping[str, str]], extension: Extension, homes: Homes, old_merged: Sequence[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """The duplicates that are bridges, though merged: new ones of old samples whose group is now of two splits.

    Args:
        merged: the duplicates of the new dataset, as its manifest lists them.
        extension: what became of its samples.
        homes: where the old samples were.
        old_merged: the duplicates of the older dataset.
    """
    known = homes.by_id.keys() | {merge["id"] for merge in old_merged}
    new = (merge for merge in merged if merge["id"] not in known and merge["id"] != merge["into"])
    return [merge for merge in new if merge["into"] in extension.regrouped]


def _tear(inside: Sequence[Member], homes: Homes, reason: str, result: Extension) -> None:
    """Keep the old code of a cluster in its splits, without a group of several splits; all else in it is a bridge."""
    stay: list[tuple[Member, Home]] = []
    for member in inside:
        home = homes.find(member)
        if home and home.code == member.code:
            stay.append((member, home))
        else:
            result.bridges[member.id] = reason
    splits: dict[str, set[str]] = defaultdict(set)
    for member, home in stay:
        splits[member.group].add(home.split)
        result.split_of[member.id] = home.split
        result.torn.add(member.id)
    result.regrouped |= {
        m.id: home.group for m, home in stay if m.group and m.group != home.group and len(splits[m.group]) > 1
    }


def _by_hash(name: str, ratios: Ratios, seed: int) -> str:
    place = int(rank(name, seed)[:16], 16) / 2**64
    limit = 0.0
    for split in ratios:
        limit += ratios[split]
        if place < limit:
            return split
    return next(split for split in reversed(list(ratios)) if ratios[split] > 0)
