"""The proof that no cluster is in two splits: clusters found anew from the written files, a part at a time."""

from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa

from secauditai.data.clusters import recompute_clusters
from secauditai.data.dataset import DatasetLayout, each_part


def find_straddling(layout: DatasetLayout, names: list[str], similarity: float | None) -> list[dict[str, str]]:
    """One sample per split (split to id) of each cluster that the written files have in more than one split."""
    split_of: dict[str, str] = {}

    def parts() -> Iterator[pa.Table]:
        for name in names:
            for table in each_part(layout.split(name), ["id", "group", "code"]):
                split_of.update(dict.fromkeys(table.column("id").to_pylist(), name))
                yield table

    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for cluster, (sample, split) in zip(recompute_clusters(parts(), similarity), split_of.items(), strict=True):
        seen[cluster].setdefault(split, sample)
    return [seen[cluster] for cluster in sorted(seen) if len(seen[cluster]) > 1]
