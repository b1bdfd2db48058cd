"""Which split every cluster goes to: at random but stratified, by time, by project, as given, or as in an older split.

Every way is a function of the clusters and the seed, not of the order of the input.
"""

import datetime
import hashlib
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from secauditai.data.dataset import SPLITS
from secauditai.errors import DataError

Ratios = Mapping[str, float]
NAMES_OF_SPLITS = {"valid": "val", "validation": "val", "dev": "val", "training": "train", "testing": "test"}
"""Other words for the splits, in metadata."""
INNER_VALIDATION = 0.1
"""Share of all samples that a fold's training selects its best weights on."""


@dataclass(frozen=True)
class Member:
    """What assigning knows of a sample."""

    id: str
    cluster: str
    stratum: str
    """Label and category."""
    metadata: str
    """JSON."""

    def value(self, key: str) -> object:
        """A value of the metadata; None when it is not there."""
        found: object = json.loads(self.metadata).get(key)
        return found


@dataclass
class Assignment:
    """The split of each cluster, and what a user should know about it."""

    chosen: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def assign_stratified(members: Sequence[Member], ratios: Ratios, seed: int) -> Assignment:
    """Choose the split of each cluster, largest first, by which split lacks its labels and categories most.

    Raises:
        DataError: when there are fewer clusters than splits.
    """
    strata: dict[str, Counter[str]] = defaultdict(Counter)
    for member in members:
        strata[member.cluster][member.stratum] += 1
    wanted = [name for name in ratios if ratios[name] > 0]
    if len(strata) < len(wanted):
        raise DataError(
            f"{len(strata)} clusters cannot be split into {', '.join(wanted)}",
            hint="A cluster is a group, some near duplicates, or a sample that stands alone; add samples.",
        )
    totals = Counter(member.stratum for member in members)
    filled: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    result, large = Assignment({}), dict[str, int]()
    for cluster in sorted(strata, key=lambda name: (-strata[name].total(), _rank(name, seed))):
        size = strata[cluster].total()
        room = [name for name in wanted if name == wanted[0] or size <= ratios[name] * len(members)]
        if room == wanted[:1] and len(wanted) > 1 and size > 1:
            large[cluster] = size
        best = max(room, key=lambda name: (_need(strata[cluster], filled[name], totals, ratios[name]), ratios[name]))
        result.chosen[cluster] = best
        filled[best] += strata[cluster]
    _fill_empty(result.chosen, wanted, seed)
    result.warnings += [
        f"cluster {cluster} ({size} samples) is larger than any other split's share: it goes to {wanted[0]}"
        for cluster, size in large.items()
        if result.chosen[cluster] == wanted[0]
    ]
    return result


def assign_folds(members: Sequence[Member], folds: int, seed: int) -> Assignment:
    """Deal clusters out to `fold_0`, `fold_1`, … of equal size, stratified."""
    return assign_stratified(members, {f"fold_{number}": 1 / folds for number in range(folds)}, seed)


def assign_held_out(members: Sequence[Member], fold_of: Mapping[str, str], held_out: str, seed: int) -> Assignment:
    """Test is one fold; of the clusters of the others, a tenth of all samples is for validation, the rest for training.

    Args:
        members: all samples.
        fold_of: the fold of each cluster.
        held_out: the fold that is test.
        seed: of the choice of validation clusters.
    """
    rest = [member for member in members if fold_of[member.cluster] != held_out]
    share = min(0.5, INNER_VALIDATION * len(members) / max(1, len(rest)))
    found = assign_stratified(rest, {"train": 1 - share, "val": share}, seed)
    test = {member.cluster: "test" for member in members if fold_of[member.cluster] == held_out}
    return Assignment(found.chosen | test, found.warnings)


def assign_by_time(members: Sequence[Member], ratios: Ratios, key: str) -> Assignment:
    """The oldest clusters to train, the newest to test; a cluster is as old as its newest sample.

    Raises:
        DataError: when a sample has no time, or one that cannot be read, or some have a number and some a date.
    """
    newest: dict[str, float] = {}
    sizes = Counter(member.cluster for member in members)
    for member in members:
        newest[member.cluster] = max(newest.get(member.cluster, float("-inf")), _time(member, key))
    numbers = {_is_number(member.value(key)): member.id for member in members}
    if len(numbers) > 1:
        raise DataError(
            f"{key!r} is a number in sample {numbers[True]} and a date in sample {numbers[False]}",
            hint="--by-time compares numbers with numbers and ISO dates, such as 2024-05-31, with dates.",
        )
    ordered = [name for name in SPLITS if ratios.get(name, 0) > 0]
    result, taken, place, limit = Assignment({}), 0, 0, ratios[ordered[0]]
    for cluster in sorted(newest, key=lambda name: (newest[name], name)):
        while place + 1 < len(ordered) and taken >= limit * len(members) - 1e-9:
            place += 1
            limit += ratios[ordered[place]]
        result.chosen[cluster] = ordered[place]
        taken += sizes[cluster]
    return result


def assign_by_project(members: Sequence[Member], ratios: Ratios, seed: int) -> Assignment:
    """As `assign_stratified`, with all clusters of one project in one split; a sample without one stands alone.

    Raises:
        DataError: when no sample has a project.
    """
    without = sum(not member.value("project") for member in members)
    if without == len(members):
        raise DataError(
            "no sample has `project` in its metadata", hint="--by-project keeps the samples of a project together."
        )
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.get(name, name) != name:
            name = parent[name]
        return name

    for member in members:
        project = member.value("project")
        if project:
            roots = {find(f"project {project}"), find(member.cluster)}
            low, *others = sorted(roots, key=lambda name: (not name.startswith("project "), name))
            parent |= dict.fromkeys(others, low)
    united = [Member(m.id, find(m.cluster), m.stratum, m.metadata) for m in members]
    found = assign_stratified(united, ratios, seed)
    chosen = {member.cluster: found.chosen[find(member.cluster)] for member in members}
    alone = [f"{without} of {len(members)} samples have no `project`, so that each stands alone"] if without else []
    return Assignment(chosen, found.warnings + alone)


def assign_predefined(members: Sequence[Member]) -> Assignment:
    """As the metadata's `split` says; a cluster that is in two of them goes to train, with a warning.

    Raises:
        DataError: when a sample has no split, or an unknown one.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for member in members:
        word = str(member.value("split") or "").lower()
        name = NAMES_OF_SPLITS.get(word, word)
        if name not in SPLITS:
            raise DataError(
                f"sample {member.id} has {f'the unknown split {word!r}' if word else 'no split'} in its metadata",
                hint="--predefined needs `split: train|val|test` in the metadata of every sample.",
            )
        wanted[member.cluster].add(name)
    torn = sum(len(names) > 1 for names in wanted.values())
    chosen = {name: next(iter(found)) if len(found) == 1 else "train" for name, found in wanted.items()}
    told = f"{torn} clusters stand in several of the given splits, which leaks: all their samples go to train"
    return Assignment(chosen, [told] if torn else [])


@dataclass
class Extension:
    """An older split carried over to more samples."""

    split_of: dict[str, str]
    """Sample to split."""
    bridges: dict[str, str]
    """New samples that belong to a cluster of several old splits, and why each is left out."""


def extend_assignment(members: Sequence[Member], old: Mapping[str, str], ratios: Ratios, seed: int) -> Extension:
    """Keep every old sample where it was, new clusters go by hash, and bridges between old splits nowhere.

    Args:
        members: all samples, old and new.
        old: split of each old sample.
        ratios: shares of the hash's range.
        seed: of the hash.
    """
    clusters: dict[str, list[str]] = defaultdict(list)
    for member in members:
        clusters[member.cluster].append(member.id)
    result = Extension({}, {})
    for cluster, ids in clusters.items():
        homes = sorted({old[sample] for sample in ids if sample in old})
        home = homes[0] if homes else _by_hash(min(ids), ratios, seed)
        for sample in ids:
            if sample in old:
                result.split_of[sample] = old[sample]
            elif len(homes) > 1:
                result.bridges[sample] = f"its cluster {cluster} has samples in {' and '.join(homes)}"
            else:
                result.split_of[sample] = home
    return result


def drift(counts: Mapping[str, int], ratios: Ratios) -> dict[str, float]:
    """How far each split's share is from its ratio."""
    total = max(1, sum(counts.values()))
    return {name: round(counts.get(name, 0) / total - ratio, 4) for name, ratio in ratios.items()}


def _by_hash(name: str, ratios: Ratios, seed: int) -> str:
    place = int(_rank(name, seed)[:16], 16) / 2**64
    limit = 0.0
    for split in ratios:
        limit += ratios[split]
        if place < limit:
            return split
    return next(split for split in reversed(list(ratios)) if ratios[split] > 0)


def _time(member: Member, key: str) -> float:
    value = member.value(key)
    if _is_number(value):
        return float(value)  # type: ignore[arg-type]
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        shown = "no" if value is None else f"an unreadable ({str(value)[:40]!r})"
        raise DataError(
            f"sample {member.id} has {shown} {key!r} in its metadata",
            hint="--by-time needs a number or an ISO date, such as 2024-05-31, in every sample.",
        ) from None
    return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()


def _is_number(value: object) -> bool:
    try:
        return math.isfinite(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _need(cluster: Counter[str], filled: Counter[str], totals: Counter[str], ratio: float) -> float:
    """How much of a cluster's strata a split still lacks: 1 when empty, 0 when full, below 0 beyond."""
    size = cluster.total()
    lacks = sum(count * (1 - filled[stratum] / (ratio * totals[stratum])) for stratum, count in cluster.items()) / size
    overall = 1 - filled.total() / (ratio * totals.total())
    return round(lacks + overall, 9)


def _fill_empty(chosen: dict[str, str], wanted: Iterable[str], seed: int) -> None:
    """Give a split that got nothing one cluster of the split with the most."""
    for name in wanted:
        if name in chosen.values():
            continue
        donor = Counter(chosen.values()).most_common(1)[0][0]
        candidates = [cluster for cluster, split in chosen.items() if split == donor]
        chosen[min(candidates, key=lambda cluster: _rank(cluster, seed))] = name


def _rank(cluster: str, seed: int) -> str:
    return hashlib.sha256(f"{seed} {cluster}".encode()).hexdigest()
