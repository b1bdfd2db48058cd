"""Clusters: which samples must share a split, because they belong to one group or are near duplicates."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from secauditai.data.near import NearSource, TokenSets, near_columns, near_labels

Int64 = npt.NDArray[np.int64]
CODES_AT_ONCE = 4096


def name_clusters(
    ids: Sequence[str], groups: Sequence[str], near: NearSource | None = None, similarity: float = 1.0
) -> list[str]:
    """The cluster of each sample, named after its member with the smallest id; independent of their order.

    Args:
        ids: unique.
        groups: explicit groups, "" for none.
        near: where the token sets are; None to cluster by groups only.
        similarity: Jaccard threshold of near duplicates.
    """
    if not ids:
        return []
    known: dict[str, int] = {}
    labels = np.arange(len(ids), dtype=np.int64)
    for number, group in enumerate(groups):
        if group:
            labels[number] = known.setdefault(group, number)
    if near is not None:
        labels = near_labels(near, similarity, labels)
    smallest: dict[int, str] = {}
    for label, name in zip(labels.tolist(), ids, strict=True):
        if label not in smallest or name < smallest[label]:
            smallest[label] = name
    return [smallest[label] for label in labels.tolist()]


def recompute_clusters(table: pa.Table, similarity: float | None) -> list[str]:
    """The clusters of some samples from their groups and code alone, whatever was written beside them.

    Args:
        table: rows with id, group and code.
        similarity: Jaccard threshold of near duplicates; None to cluster by groups only.
    """
    ids, groups = table.column("id").to_pylist(), table.column("group").to_pylist()
    if similarity is None:
        return name_clusters(ids, groups)
    token_sets, codes, tables = TokenSets(), table.column("code"), []
    for start in range(0, table.num_rows, CODES_AT_ONCE):
        tables.append(near_columns(token_sets, codes.slice(start, CODES_AT_ONCE).to_pylist()))
    numbers = np.arange(table.num_rows, dtype=np.int64)
    source = NearSource(tables, numbers // CODES_AT_ONCE, numbers % CODES_AT_ONCE)
    return name_clusters(ids, groups, source, similarity)
