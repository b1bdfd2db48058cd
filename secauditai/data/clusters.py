"""Clusters: which samples must share a split, because they belong to one explicit group."""

import pyarrow as pa


def build_clusters(table: pa.Table) -> list[str]:
    """The cluster of each sample: its group, or itself. The name does not depend on the order of samples."""
    groups, ids = table.column("group").to_pylist(), table.column("id").to_pylist()
    return [f"group:{group}" if group else f"sample:{sample}" for group, sample in zip(groups, ids, strict=True)]
