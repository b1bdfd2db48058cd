"""An independent proof that a split leaks nothing: every pair of samples across splits is compared, none is proposed."""

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix

from secauditai.data.dataset import Dataset

TOKEN = re.compile(r"[^\W\d][\w$]*|\d[\w.]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[^\s\w]")
"""Identifiers, numbers, quoted texts, and every other character by itself, as docs/data-format.md counts tokens."""


def leaks(dataset: Dataset, similarity: float) -> list[tuple[str, str]]:
    """Pairs of ids in different splits that share a group, or whose sets of tokens are at least so similar."""
    tables = [dataset.table(split) for split in dataset.splits()]
    rows = pa.concat_tables(tables)
    split = np.repeat(np.arange(len(tables)), [table.num_rows for table in tables])
    ids, groups = rows.column("id").to_pylist(), rows.column("group").to_pylist()
    found = [
        (ids[i], ids[j]) for i, j in similar_pairs(rows.column("code").to_pylist(), similarity) if split[i] != split[j]
    ]
    home: dict[str, int] = {}
    for number, group in enumerate(groups):
        if group and split[home.setdefault(group, number)] != split[number]:
            found.append((ids[home[group]], ids[number]))
    return found


def similar_pairs(codes: list[str], similarity: float) -> Iterator[tuple[int, int]]:
    """All pairs at or above a Jaccard similarity, by the product of the matrix of samples and tokens with itself."""
    numbers: dict[str, int] = {}
    sets = [sorted({numbers.setdefault(token, len(numbers)) for token in TOKEN.findall(code)}) for code in codes]
    sizes = np.array([len(tokens) for tokens in sets])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    columns = np.concatenate([np.array(tokens, dtype=np.int64) for tokens in sets])
    matrix = csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=(len(sets), len(numbers)))
    for start in range(0, len(sets), 256):
        shared = (matrix[start : start + 256] @ matrix.T).toarray()
        union = sizes[start : start + 256, None] + sizes[None, :] - shared
        for i, j in np.argwhere(shared >= similarity * union):
            if start + i < j:
                yield int(start + i), int(j)
