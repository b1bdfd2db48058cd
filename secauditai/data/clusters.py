"""Clusters: samples that must share a split, as they belong to one group, have equal code or are near duplicates."""

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from secauditai.data.near import NearSource, TokenSets, joined, near_columns, near_labels
from secauditai.data.schema import code_key

Int64 = npt.NDArray[np.int64]
CODES_AT_ONCE = 4096


def name_clusters(
    ids: Sequence[str],
    groups: Sequence[str],
    code_keys: pa.Array,
    near: NearSource | None = None,
    similarity: float = 1.0,
) -> list[str]:
    """The cluster of each sample, named after its member with the smallest id; independent of their order.

    Args:
        ids: unique.
        groups: explicit groups, "" for none.
        code_keys: (n,) `schema.code_key` of each; equal code is in one cluster.
        near: where the token sets are; None to cluster by groups and equal code only.
        similarity: Jaccard threshold of near duplicates.
    """
    if not ids:
        return []
    known: dict[str, int] = {}
    labels = np.arange(len(ids), dtype=np.int64)
    for number, group in enumerate(groups):
        if group:
            labels[number] = known.setdefault(group, number)
    code = code_keys.dictionary_encode().indices.to_numpy()
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(ids)))
    labels = joined(labels, again, first[inverse[again]])
    if near is not None:
        labels = near_labels(near, similarity, labels)
    smallest: dict[int, str] = {}
    for label, name in zip(labels.tolist(), ids, strict=True):
        if label not in smallest or name < smallest[label]:
            smallest[label] = name
    return [smallest[label] for label in labels.tolist()]


def _itself(table: pa.Table) -> pa.Table:
    return table


def recompute_clusters(parts: Iterable[pa.Table], similarity: float | None) -> list[str]:
    """The clusters of some samples from their groups and code alone, whatever was written beside them.

    Args:
        parts: rows with id, group and code; the code of one part at a time is in memory.
        similarity: Jaccard threshold of near duplicates; None to cluster by groups and equal code only.
    """
    ids, groups, keys, tables = list[str](), list[str](), list[bytes](), list[pa.Table]()
    token_sets, sizes = TokenSets(), list[int]()
    for part in parts:
        ids += part.column("id").to_pylist()
        groups += part.column("group").to_pylist()
        for batch in part.to_batches(max_chunksize=CODES_AT_ONCE):
            codes = batch.column("code").to_pylist()
            keys += map(code_key, codes)
            sizes.append(len(codes))
            if similarity is not None:
                tables.append(near_columns(token_sets, codes))
    code_keys = pa.array(keys, pa.binary(16))
    if similarity is None:
        return name_clusters(ids, groups, code_keys)
    row_of = np.concatenate([np.zeros(0, np.int64), *(np.arange(size, dtype=np.int64) for size in sizes)])
    source = NearSource(
        [partial(_itself, table) for table in tables], np.repeat(np.arange(len(sizes), dtype=np.int64), sizes), row_of
    )
    return name_clusters(ids, groups, code_keys, source, similarity)
