"""`validate`: every finding in some data, with its place and sample id."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from secauditai.config.settings import CleaningSettings
from secauditai.data.clean import Cleaned
from secauditai.data.dataset import Dataset, content_hash, each_part, is_dataset, open_dataset
from secauditai.data.findings import ERROR, WARNING, Finding, Validation
from secauditai.data.prepare import open_source, parse_and_clean
from secauditai.data.schema import LABELS, code_key, row_digest
from secauditai.data.straddling import Place, read_places
from secauditai.data.tasks import Runner
from secauditai.progress import Progress, silent

SMALL_CLASS = 10
IMBALANCE = 0.1


def validate(
    spec: str,
    settings: CleaningSettings | None = None,
    *,
    ray_data_min_mb: float = 64.0,
    address: str | None = None,
    progress: Progress = silent,
) -> Validation:
    """Check raw data, or a prepared dataset with its splits.

    Args:
        spec: a file, directory or glob, a prepared dataset, or `security_dataset`.
        settings: how raw data would be cleaned.
        ray_data_min_mb: from this input size on, Ray Data does the reading.
        address: the Ray cluster to use.
        progress: told how many samples are read.

    Raises:
        DataError: when the structure cannot be read at all.
    """
    if is_dataset(Path(spec)):
        return validate_dataset(open_dataset(Path(spec)))
    settings = settings or CleaningSettings()
    wanted = settings.model_copy(update={"near_duplicates": False})
    with tempfile.TemporaryDirectory(prefix="secauditai-validate.") as staging:
        source = open_source(spec, settings.data_format, Path(staging), progress)
        runner = Runner(source.megabytes >= ray_data_min_mb, address)
        cleaned = parse_and_clean(source, wanted, Path(staging), runner, progress, keys_only=True)
    return validate_cleaned(cleaned, spec)


def validate_cleaned(cleaned: Cleaned, spec: str) -> Validation:
    """What cleaning found in raw data."""
    labels = Counter(cleaned.column("label").to_pylist())
    names = ("id", "where", "label", "code_key")
    kept = pa.table({name: cleaned.column(name) for name in names} | {"group": pa.array(cleaned.groups, pa.string())})
    findings = [*_rejections(cleaned), *_duplicates(cleaned), *_kept_conflicts(kept), *_balance(labels, spec)]
    return Validation(cleaned.read, len(cleaned.kept), findings, dict(labels))


def _rejections(cleaned: Cleaned) -> Iterable[Finding]:
    return (Finding(ERROR, item.where, item.id, item.reason, item.message) for item in cleaned.rejected)


def _duplicates(cleaned: Cleaned) -> Iterable[Finding]:
    for merge in cleaned.merged:
        message = "the sample is repeated" if merge.id == merge.into else f"the same code and label as {merge.into}"
        yield Finding(WARNING, merge.where, merge.id, "duplicate", message + "; `prepare` merges them")


def _kept_conflicts(kept: pa.Table) -> Iterable[Finding]:
    """Equal code with both labels that `--conflicts keep` kept; members of one explicit group never conflict."""
    codes = kept.column("code_key").combine_chunks().dictionary_encode().indices.to_numpy()
    repeated = np.bincount(codes)[codes] > 1 if len(codes) else np.zeros(0, bool)
    by_code: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for row in kept.filter(pa.array(repeated)).to_pylist():
        by_code[row["code_key"]].append(row)
    for rows in by_code.values():
        groups = {row["group"] for row in rows}
        if len({row["label"] for row in rows}) > 1 and (len(groups) > 1 or "" in groups):
            others = ", ".join(row["id"] for row in rows[:3]) + (" …" if len(rows) > 3 else "")
            message = f"the same code has both labels ({others}) and no common group; it was kept"
            yield from (Finding(WARNING, row["where"], row["id"], "conflict", message) for row in rows)


def _balance(labels: Counter[str], where: str) -> Iterable[Finding]:
    for label in LABELS:
        if not labels[label]:
            yield Finding(ERROR, where, "", "missing_label", f"no sample is labelled {label}")
        elif labels[label] < SMALL_CLASS:
            yield Finding(WARNING, where, "", "small_class", f"only {labels[label]} samples are labelled {label}")
    total = labels.total()
    if total and min(labels[label] for label in LABELS) / total < IMBALANCE and all(labels[label] for label in LABELS):
        shown = ", ".join(f"{labels[label]} {label}" for label in LABELS)
        yield Finding(
            WARNING, where, "", "imbalance", f"the labels are unbalanced ({shown}); see --class-weights balanced"
        )


def validate_dataset(dataset: Dataset) -> Validation:
    """What is to be said about a prepared dataset: its balance, its digest, and what its splits share."""
    where = str(dataset.root)
    samples, digests = _read_keys(dataset)
    labels = Counter(samples.column("label").to_pylist())
    findings = list(_balance(labels, where))
    if content_hash(digests, samples.column("group").to_pylist()) != dataset.content_hash:
        findings.append(Finding(ERROR, where, "", "content_hash", "the samples differ from the manifest"))
    if dataset.manifest["cleaning"]["conflicts"] == "keep":
        findings += _kept_conflicts(samples)
    if dataset.splits():
        findings += _leaks(dataset)
    else:
        message = "the dataset is not split yet; see `secauditai train split`"
        findings.append(Finding(WARNING, where, "", "not_split", message))
    return Validation(int(dataset.manifest["read"]), samples.num_rows, findings, dict(labels))


def _read_keys(dataset: Dataset) -> tuple[pa.Table, list[bytes]]:
    """Id, label, group, place and code key of all samples, and their digests; a part at a time is in memory."""
    rows, digests = list[dict[str, Any]](), list[bytes]()
    for part in each_part(dataset.layout.samples):
        for row in part.to_pylist():
            about = {name: row[name] for name in ("id", "label", "group")}
            rows.append({**about, "where": str(dataset.root), "code_key": code_key(row["code"])})
            digests.append(row_digest(row))
    return pa.Table.from_pylist(rows), digests


def _leaks(dataset: Dataset) -> Iterable[Finding]:
    """Samples whose cluster stands in an earlier split as well; equal code is always in one cluster."""
    first: dict[str, Place] = {}
    for place in read_places(dataset.layout, list(dataset.splits()), dataset.similarity):
        seen = first.setdefault(place.cluster, place)
        if seen.split != place.split:
            message = f"shares a cluster with {seen.id} in {seen.split}"
            yield Finding(ERROR, str(dataset.layout.split(place.split)), place.id, "leak", message)
