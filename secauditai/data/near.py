"""Near duplicates: code whose sets of tokens have a Jaccard similarity at or above a threshold.

MinHash-LSH proposes pairs, with a probability of more than 0.9999 for a pair at the default threshold; exact Jaccard
similarity of the token sets decides. Nothing is removed: near duplicates are clustered, so that they share a split.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

BANDS, ROWS = 40, 6
"""A pair of similarity s is proposed with probability 1 - (1 - s^6)^40: 0.999995 at 0.8, 0.993 at 0.7, 0.47 at 0.5."""
SIGNATURE_SEED = 1
PAIRS_AT_ONCE = 50_000
PROPOSALS_AT_ONCE = 4_000_000
TOKEN = re.compile(r"[^\W\d][\w$]*|\d[\w.]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[^\s\w]")
"""Identifiers, numbers, quoted texts, and every other character by itself."""
ASCII_TOKEN = re.compile(
    r"[A-Za-z_][A-Za-z0-9_$]*+|[0-9][A-Za-z0-9_.]*+|\"(?:[^\"\\\n]|\\.)*+\"|'(?:[^'\\\n]|\\.)*+'|[^\s\x1c-\x1fA-Za-z0-9_]",
    re.ASCII,
)
"""The same tokens of code that is ASCII, in a third less time."""
MAX_KNOWN = 1_000_000


class TokenSets:
    """Turns code into sets of token hashes; remembers the hashes of tokens it has met."""

    def __init__(self) -> None:
        self._known = _Hashes()

    def __call__(self, codes: Iterable[str]) -> tuple[UInt64, Int64]:
        """The hashes of the distinct tokens of each code, one after another, and (codes + 1,) where each begins."""
        hashes: list[int] = []
        starts = [0]
        for code in codes:
            if len(self._known) > MAX_KNOWN:
                self._known.clear()
            tokens = set((ASCII_TOKEN if code.isascii() else TOKEN).findall(code))
            hashes.extend(map(self._known.__getitem__, tokens))
            starts.append(len(hashes))
        return np.array(hashes, np.uint64), np.array(starts, np.int64)


class _Hashes(dict[str, int]):
    def __missing__(self, token: str) -> int:
        value = int.from_bytes(hashlib.blake2b(token.encode("utf-8"), digest_size=8).digest(), "big")
        self[token] = value
        return value


def near_columns(token_sets: TokenSets, codes: Sequence[str]) -> pa.Table:
    """What clustering needs of some samples: `tokens`, their token sets, and one column of hashes per band."""
    from rensa import RMinHash

    flat, offsets = token_sets(codes)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        flat, offsets.astype(np.uint64), BANDS * ROWS, SIGNATURE_SEED
    )
    signatures = np.asarray(matrix.to_rows(), dtype=np.uint64).reshape(len(codes), BANDS, ROWS)
    mixed = np.zeros((len(codes), BANDS), np.uint64)
    for row in range(ROWS):
        mixed = (mixed ^ signatures[:, :, row]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    tokens = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
    return pa.table(
        {"tokens": tokens, **{band_name(band): np.ascontiguousarray(mixed[:, band]) for band in range(BANDS)}}
    )


def band_name(band: int) -> str:
    """The column of a band's hashes."""
    return f"band_{band:02d}"


@dataclass(frozen=True)
class NearSource:
    """Where the columns of samples come from: tables of `near_columns`, and the rows that count."""

    tables: Sequence[Callable[[], pa.Table]]
    """Each opens one. A mapped file is opened for every use: what it has read counts as resident while it is open."""
    table_of: Int64
    """(n,) which table a sample is in."""
    row_of: Int64
    """(n,) its row there."""

    def band(self, band: int) -> UInt64:
        """(n,) the hashes of a band."""
        found = np.zeros(len(self.table_of), np.uint64)
        for number, table in enumerate(self.tables):
            here = self.table_of == number
            found[here] = table().column(band_name(band)).to_numpy()[self.row_of[here]]
        return found

    def sizes(self) -> Int64:
        """(n,) how many distinct tokens a sample has."""
        found = np.zeros(len(self.table_of), np.int64)
        for number, table in enumerate(self.tables):
            here = self.table_of == number
            lengths = pc.list_value_length(table().column("tokens")).to_numpy()
            found[here] = lengths[self.row_of[here]]
        return found

    def tokens(self, samples: Int64) -> tuple[UInt64, Int64]:
        """The token sets of some samples, one after another, and (len + 1,) where each begins."""
        pieces: list[UInt64] = [np.zeros(0, np.uint64)] * len(samples)
        for number in np.unique(self.table_of[samples]):
            here = np.flatnonzero(self.table_of[samples] == number)
            taken = self.tables[number]().column("tokens").take(pa.array(self.row_of[samples[here]])).combine_chunks()
            values, offsets = taken.flatten().to_numpy(), np.asarray(taken.value_lengths()).cumsum()
            for place, piece in zip(here, np.split(values, offsets[:-1]), strict=True):
                pieces[place] = piece
        starts = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
        return (np.concatenate(pieces) if pieces else np.zeros(0, np.uint64)), starts


def near_labels(source: NearSource, similarity: float, labels: Int64) -> Int64:
    """Join samples into components until no proposed pair of similarity at or above the threshold is apart.

    Args:
        source: the samples.
        similarity: the Jaccard threshold.
        labels: (n,) components to start from, such as explicit groups.

    Returns:
        (n,) component numbers.
    """
    refuted = np.zeros(0, np.int64)
    sizes = source.sizes()
    for band in range(BANDS):
        for left, right in _proposals(source.band(band)):
            small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
            possible = (labels[left] != labels[right]) & (small >= similarity * large)
            low, high = np.minimum(left, right)[possible], np.maximum(left, right)[possible]
            pairs = _without(low * len(labels) + high, refuted)
            for start in range(0, len(pairs), PAIRS_AT_ONCE):
                some = pairs[start : start + PAIRS_AT_ONCE]
                near = jaccard(source, *np.divmod(some, len(labels))) >= similarity
                labels = joined(labels, *np.divmod(some[near], len(labels)))
                refuted = np.sort(np.concatenate([refuted, some[~near]]))
    return labels


def _without(pairs: Int64, known: Int64) -> Int64:
    """The distinct pairs that are not among the known ones, all sorted.

    By sorting, not by `np.unique`: its hash table becomes quadratic on numbers as regular as these.
    """
    pairs = np.sort(pairs)
    new = np.concatenate([[True], np.diff(pairs) > 0])[: len(pairs)]
    if len(known):
        new &= known[np.minimum(np.searchsorted(known, pairs), len(known) - 1)] != pairs
    found: Int64 = pairs[new]
    return found


def _proposals(hashes: UInt64) -> Iterator[tuple[Int64, Int64]]:
    """Pairs of samples with equal hashes: first neighbours, which joins most of a bucket, then all others."""
    order = np.argsort(hashes, kind="stable").astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], np.diff(hashes[order]) != 0]))
    ends = np.repeat(np.append(starts[1:], len(order)), np.diff(np.append(starts, len(order))))
    places = np.arange(len(order), dtype=np.int64)
    distance, waiting = 1, 0
    batch: list[tuple[Int64, Int64]] = []
    while len(places := places[places + distance < ends[places]]):
        batch.append((order[places], order[places + distance]))
        waiting += len(places)
        if distance == 1 or waiting >= PROPOSALS_AT_ONCE:
            yield tuple(map(np.concatenate, zip(*batch, strict=True)))  # type: ignore[misc]
            batch, waiting = [], 0
        distance += 1
    if batch:
        yield tuple(map(np.concatenate, zip(*batch, strict=True)))  # type: ignore[misc]


def jaccard(source: NearSource, left: Int64, right: Int64) -> npt.NDArray[np.float64]:
    """Exact Jaccard similarity of the token sets of pairs of samples."""
    from scipy.sparse import csr_matrix

    samples, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    tokens, starts = source.tokens(samples)
    _, columns = np.unique(tokens, return_inverse=True)
    sets = csr_matrix((np.ones(len(tokens), np.int32), columns, starts))
    a, b = places[: len(left)], places[len(left) :]
    shared = np.asarray(sets[a].multiply(sets[b]).sum(axis=1)).ravel()
    sizes = np.diff(starts)
    union = sizes[a] + sizes[b] - shared
    similarity: npt.NDArray[np.float64] = np.divide(shared, union, out=np.ones(len(a)), where=union > 0)
    return similarity


def joined(labels: Int64, left: Int64, right: Int64) -> Int64:
    """Components after some samples are joined in pairs.

    Args:
        labels: (n,) component numbers.
        left: (pairs,) samples.
        right: (pairs,) samples.

    Returns:
        (n,) new component numbers.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return labels
    size = int(labels.max()) + 1
    edges = coo_matrix((np.ones(len(left), np.int8), (labels[left], labels[right])), shape=(size, size))
    _, merged = connected_components(edges, directed=False)
    found: Int64 = merged.astype(np.int64)[labels]
    return found
