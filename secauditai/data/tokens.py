"""The token store: every sample tokenised once, memory-mapped, addressed by its content.

Layout of a store directory: `tokens.bin` (all tokens of all rows, one after another), `offsets.npy`
((rows + 1,) int64), `samples.parquet` (what training needs to know of each sample) and `manifest.json`, written last.
Row `sample * (1 + variants) + variant` holds one augmentation variant of a sample; variant 0 is the code as it is.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from secauditai.errors import DataError
from secauditai.mirror import fetch, send
from secauditai.progress import Progress, silent

STORE_VERSION = 1
CHUNK = 256
"""Samples tokenised at a time: enough for the tokenizer's threads, little memory."""

Int64 = npt.NDArray[np.int64]
Rewrite = Callable[[str, str, str, int], str]
"""(code, language, sample id, variant) -> a label-preserving rewrite of the code; variant counts from 1."""


class TokenEncoder(Protocol):
    """A tokenizer as the store needs it."""

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that decides the tokens."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""

    def encode(self, codes: Sequence[str]) -> list[list[int]]:
        """Tokenise, without special tokens and without cutting anything off."""


@dataclass(frozen=True)
class Augmentation:
    """How many rewrites of each sample the store holds, and how they are made."""

    variants: int
    rewrite: Rewrite
    fingerprint: str


@dataclass(frozen=True)
class TokenStore:
    """An opened store; `tokens` stays on disk until it is read."""

    root: Path
    tokens: npt.NDArray[np.unsignedinteger[Any]]
    offsets: Int64
    variants: int
    samples: pa.Table
    """id, label, severity, category, cluster: one row per sample, in the order of the dataset."""

    @property
    def n_samples(self) -> int:
        """Samples, not counting variants."""
        return int(self.samples.num_rows)

    @cached_property
    def lengths(self) -> Int64:
        """(samples, 1 + variants) token counts without special tokens."""
        return np.diff(self.offsets).reshape(self.n_samples, 1 + self.variants)

    def row(self, sample: int, variant: int = 0) -> npt.NDArray[np.unsignedinteger[Any]]:
        """The tokens of one row."""
        index = sample * (1 + self.variants) + variant
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


def store_key(table: pa.Table, encoder: TokenEncoder, augmentation: Augmentation | None) -> str:
    """The address of a store: a digest of everything that decides its content."""
    digest = hashlib.sha256(f"{STORE_VERSION} {encoder.fingerprint}".encode())
    if augmentation is not None:
        digest.update(f"{augmentation.variants} {augmentation.fingerprint}".encode())
    for column in ("id", "label", "severity", "category", "language", "code"):
        for value in table.column(column).to_pylist():
            digest.update(value.encode("utf-8"))
            digest.update(b"\x00")
    return digest.hexdigest()[:32]


def build_token_store(
    table: pa.Table,
    encoder: TokenEncoder,
    directory: Path,
    *,
    augmentation: Augmentation | None = None,
    use_ray_data: bool = False,
    progress: Progress = silent,
) -> TokenStore:
    """Open the store of these samples below `directory`, building it when it is not there.

    Args:
        table: samples as rows of `SAMPLE_SCHEMA`.
        encoder: the tokenizer; must be picklable when `use_ray_data`.
        directory: parent of all stores; several processes may build at once, one wins.
        augmentation: rewrites to tokenise as well.
        use_ray_data: tokenise on the Ray cluster instead of in this process.
        progress: told how many samples are done.
    """
    from filelock import FileLock

    root = directory / store_key(table, encoder, augmentation)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        fetch(root)
        if not (root / "manifest.json").exists():
            _write_store(root, table, encoder, augmentation, use_ray_data, progress)
        send(root)
    return open_token_store(root)


def open_token_store(root: Path) -> TokenStore:
    """Open a store.

    Raises:
        DataError: when it is missing or damaged, naming the file.
    """
    import pyarrow.parquet as pq

    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        for name, size in manifest["files"].items():
            if (root / name).stat().st_size != size:
                raise DataError(
                    "damaged token store", where=str(root / name), hint="Delete its directory; it is built again."
                )
        offsets = np.load(root / "offsets.npy", allow_pickle=False)
        samples = pq.read_table(root / "samples.parquet")
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"not a token store: {error}", where=str(root)) from None
    size = int(offsets[-1])
    tokens = (
        np.memmap(root / "tokens.bin", dtype=manifest["dtype"], mode="r", shape=(size,)) if size else np.zeros(0, int)
    )
    return TokenStore(root, tokens, offsets, int(manifest["variants"]), samples)


def _write_store(
    root: Path,
    table: pa.Table,
    encoder: TokenEncoder,
    augmentation: Augmentation | None,
    use_ray_data: bool,
    progress: Progress,
) -> None:
    import pyarrow.parquet as pq

    partial = root.with_name(f".{root.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    dtype = "uint16" if encoder.vocab_size <= 2**16 else "uint32"
    source = _encode_with_ray if use_ray_data else _encode_here
    lengths: list[int] = []
    with (partial / "tokens.bin").open("wb") as out:
        for rows in source(table, encoder, augmentation):
            lengths += map(len, rows)
            np.fromiter((token for row in rows for token in row), dtype=dtype).tofile(out)
            progress("Tokenising", len(lengths) // (1 + _variants(augmentation)), table.num_rows)
    np.save(partial / "offsets.npy", np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64))
    columns = [name for name in ("id", "label", "severity", "category", "cluster") if name in table.column_names]
    pq.write_table(table.select(columns), partial / "samples.parquet")
    files = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    manifest = {
        "version": STORE_VERSION,
        "dtype": dtype,
        "variants": _variants(augmentation),
        "samples": table.num_rows,
        "tokens": int(sum(lengths)),
        "tokenizer": encoder.fingerprint,
        "files": files,
    }
    (partial / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    partial.rename(root)


def _variants(augmentation: Augmentation | None) -> int:
    return augmentation.variants if augmentation else 0


def _encode_here(
    table: pa.Table, encoder: TokenEncoder, augmentation: Augmentation | None
) -> Iterator[list[list[int]]]:
    for start in range(0, table.num_rows, CHUNK):
        chunk = table.slice(start, CHUNK).select(["id", "code", "language"]).to_pydict()
        yield encoder.encode(_texts(chunk, augmentation))


def _encode_with_ray(
    table: pa.Table, encoder: TokenEncoder, augmentation: Augmentation | None
) -> Iterator[list[list[int]]]:
    import ray.data

    from secauditai.cluster import work_labels

    def encode(batch: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
        texts = _texts({key: values.tolist() for key, values in batch.items()}, augmentation)
        return {"rows": [np.asarray(row, dtype=np.uint32).tobytes() for row in encoder.encode(texts)]}

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.execution_options.label_selector = work_labels() or None
    blocks = [table.slice(start, CHUNK).select(["id", "code", "language"]) for start in range(0, table.num_rows, CHUNK)]
    dataset = ray.data.from_arrow(blocks).map_batches(encode, batch_size=None)  # type: ignore[arg-type]
    for batch in dataset.iter_batches(batch_size=None):
        yield [np.frombuffer(row, dtype=np.uint32).tolist() for row in batch["rows"]]


def _texts(chunk: dict[str, list[str]], augmentation: Augmentation | None) -> list[str]:
    """Each sample's code, followed by its rewrites."""
    if augmentation is None:
        return list(chunk["code"])
    return [
        augmentation.rewrite(code, language, sample, variant) if variant else code
        for sample, code, language in zip(chunk["id"], chunk["code"], chunk["language"], strict=True)
        for variant in range(1 + augmentation.variants)
    ]
