"""The proof that no cluster is in two splits: clusters found anew from the written files, a part at a time."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from secauditai.data.clusters import recompute_clusters
from secauditai.data.dataset import DatasetLayout, each_part


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample was found."""

    cluster: str
    split: str
    id: str


def read_places(layout: DatasetLayout, names: list[str], similarity: float | None) -> list[Place]:
    """The split and the cluster of every sample, in the order of the written files."""
    found: list[tuple[str, str]] = []

    def parts() -> Iterator[pa.Table]:
        for name in names:
            for table in each_part(layout.split(name), ["id", "group", "code"]):
                found.extend((name, sample) for sample in table.column("id").to_pylist())
                yield table

    clusters = recompute_clusters(parts(), similarity)
    return [Place(cluster, *place) for cluster, place in zip(clusters, found, strict=True)]


def find_straddling(layout: DatasetLayout, names: list[str], similarity: float | None) -> list[dict[str, str]]:
    """One sample per split (split to id) of each cluster that the written files have in more than one split."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for place in read_places(layout, names, similarity):
        seen[place.cluster].setdefault(place.split, place.id)
    return [seen[cluster] for cluster in sorted(seen) if len(seen[cluster]) > 1]
