"""Which split every cluster goes to: at random but stratified, by time, by project, or as given.

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
    """JSON; `{}` where no metadata is needed."""
    group: str = ""
    code: bytes = b""
    """The `schema.code_key` of its code, where an older split is carried over."""

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
        names = ", ".join(wanted) if len(wanted) <= len(SPLITS) else f"{wanted[0]}, …, {wanted[-1]}"
        raise DataError(
            f"{len(strata)} clusters cannot be split into {names}",
            hint="A cluster is a group, some near duplicates, or a sample that stands alone; add samples.",
        )
    totals = Counter(member.stratum for member in members)
    filled: dict[str, Counter[str]] = {name: Counter() for name in wanted}
    result, large = Assignment({}), dict[str, int]()
    for cluster in sorted(strata, key=lambda name: (-strata[name].total(), rank(name, seed))):
        size = strata[cluster].total()
        room = [name for name in wanted if name == wanted[0] or size <= ratios[name] * len(members)]
        if room == wanted[:1] and len(wanted) > 1 and size > 1:
            large[cluster] = size
        best = max(room, key=lambda name: (_need(strata[cluster], filled[name], totals, ratios[name]), ratios[name]))
        result.chosen[cluster] = best
        filled[best] += strata[cluster]
    _fill_empty(result.chosen, wanted, {name: strata[name].total() for name in strata}, seed)
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
    used = set(result.chosen.values())
    result.warnings += [f"{name} is empty: larger clusters took its share" for name in ordered if name not in used]
    result.warnings += [
        f"cluster {cluster} ({sizes[cluster]} samples) is larger than the share of {split}, where its time puts it"
        for cluster, split in result.chosen.items()
        if 1 < sizes[cluster] > ratios[split] * len(members) + 1e-9
    ]
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


def _fill_empty(chosen: dict[str, str], wanted: Iterable[str], sizes: Mapping[str, int], seed: int) -> None:
    """Give a split that got nothing the smallest cluster of the split with the most clusters, which keeps others.

    There are at least as many clusters as splits.
    """
    for name in wanted:
        if name in chosen.values():
            continue
        donor = Counter(chosen.values()).most_common(1)[0][0]
        candidates = [cluster for cluster, split in chosen.items() if split == donor]
        chosen[min(candidates, key=lambda cluster: (sizes[cluster], rank(cluster, seed)))] = name


def rank(cluster: str, seed: int) -> str:
    """A place (hexadecimal) that depends on the name and the seed alone."""
    return hashlib.sha256(f"{seed} {cluster}".encode()).hexdigest()
