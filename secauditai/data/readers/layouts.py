"""What the records of published datasets mean: each layout turns one record into raw samples of the guide's format.

A function before and after its fix becomes two samples of one group. Project, commit, CWE and flaw lines survive.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from secauditai.data.readers.cases import ENDINGS
from secauditai.data.readers.strict_json import StrictJson
from secauditai.data.schema import FIELDS, SAMPLE_SCHEMA, Broken, shown_id
from secauditai.errors import DataError

Record = Mapping[str, Any]
Raw = dict[str, Any]

KEPT_KEYS = {
    "project": ("project", "repo"),
    "commit": ("commit_id", "commit", "commit_link"),
    "cwe": ("CWE ID", "cwe", "vul_type", "cwe_id"),
    "cve": ("CVE ID", "cve", "cve_id"),
    "file": ("file_name", "file_path"),
    "function": ("func_name", "method_name"),
    "language": ("language", "lang"),
    "time": ("commit_date", "Publish Date", "date"),
    "flaw_lines": ("flaw_line_index", "flaw_lines"),
}
"""Metadata key to the names it goes by, the first present one counts."""
_CELLS = StrictJson()
LABELS = {"1": "vulnerability", "0": "safe", "true": "vulnerability", "false": "safe"}


@dataclass(frozen=True)
class Layout:
    """How one published dataset lays out its records."""

    name: str
    keys: frozenset[str]
    """Keys that tell it from others."""
    convert: Callable[[Record, str, int], Iterable[object]]
    """(record, stem of its file, number of the record) to raw samples, at least one; ids begin with the stem."""
    default_language: str = ""


def guess_layout(record: Record, path: PurePath) -> Layout:
    """The layout whose keys a file's first record has.

    Raises:
        DataError: when no layout fits.
    """
    if {"func", "target"} <= record.keys() and "paired" in path.name:
        return LAYOUTS["primevul-paired"]
    fitting = [layout for layout in LAYOUTS.values() if layout.keys <= record.keys()]
    if fitting:
        return max(fitting, key=lambda layout: len(layout.keys))
    if record.keys() & {"code", "label"}:
        return LAYOUTS["guide"]
    shown = ", ".join(map(repr, list(record)[:8]))
    raise DataError(
        f"the records are of no known dataset; their fields are {shown}",
        where=str(path),
        hint=f"Known layouts: {', '.join(LAYOUTS)}; a sample needs at least `id`, `code` and `label`.",
    )


def _guide(record: Record, _stem: str, _number: int) -> Iterator[object]:
    """The guide's fields, as in YAML; a cell of a table may be empty, and its column `metadata` holds JSON."""
    sample = {key: value for key, value in record.items() if value is not None and value != ""}
    if "metadata" in sample:
        sample["metadata"] = _parsed(sample["metadata"])
    yield _whole(sample)


def _parsed(metadata: object) -> object:
    """What a text says that is JSON; anything else as it is, for the schema to judge."""
    if isinstance(metadata, str):
        with contextlib.suppress(ValueError, RecursionError):
            return _CELLS.whole(_CELLS.parse(metadata))
    return metadata


def _whole(sample: Raw) -> object:
    """A sample, or what is wrong with its metadata when a key stands there twice."""
    metadata = sample.get("metadata")
    return metadata._replace(id=shown_id(sample)) if isinstance(metadata, Broken) else sample


def _prepared(record: Record, _stem: str, _number: int) -> Iterator[object]:
    """A stored sample of a prepared dataset; what its cluster is comes out anew."""
    metadata = _parsed(record["metadata"] or {})
    if isinstance(metadata, Mapping) and record["group"]:
        metadata = {**metadata, "group": record["group"]}
    yield _whole({**{key: record[key] for key in FIELDS}, "metadata": metadata})


def _function(record: Record, stem: str, number: int) -> Iterator[object]:
    """Devign, DiverseVul, PrimeVul: one function and whether it is vulnerable."""
    yield _sample(record, f"{stem}_{_own_id(record, number)}", record["func"], record.get("target"))


def _paired_function(record: Record, stem: str, number: int) -> Iterator[object]:
    """PrimeVul's paired file: a vulnerable function, and in the next record its fix."""
    sample = _sample(record, f"{stem}_{_own_id(record, number)}", record["func"], record.get("target"))
    sample["metadata"]["group"] = f"{stem}_pair_{number // 2}"
    yield sample


def _big_vul(record: Record, stem: str, number: int) -> Iterator[object]:
    name = f"{stem}_{_own_id(record, number)}"
    if _label(record.get("vul")) == "vulnerability":
        yield from _pair(record, name, record["func_before"], record.get("func_after"))
    else:
        yield _sample(record, name, record["func_before"], record.get("vul"))


def _sven(record: Record, stem: str, number: int) -> Iterator[object]:
    name = f"{stem}_{_own_id(record, number)}"
    for sample in _pair(record, name, record["func_src_before"], record["func_src_after"]):
        changes = record.get("line_changes")
        if sample["label"] == "vulnerability" and isinstance(changes, Mapping):
            deleted = changes.get("deleted")
            items = deleted if isinstance(deleted, list) else []
            lines = [item.get("line_no") for item in items if isinstance(item, Mapping)]
            sample["metadata"]["flaw_lines"] = [line for line in lines if isinstance(line, int)]
        yield sample


def _pair(record: Record, name: str, before: object, after: object) -> Iterator[Raw]:
    """A vulnerable function and its fix; one of them only where the other was added or deleted.

    Without either, one sample without code, so that the record is refused and not lost.
    """
    sides = [side for side in (("before", before, 1), ("after", after, 0)) if not _is_empty(side[1])]
    for side, code, target in sides or [("before", None, 1)]:
        sample = _sample(record, f"{name}_{side}", code, target)
        sample["metadata"]["group"] = name
        if side == "after":
            sample["metadata"].pop("flaw_lines", None)
        yield sample


def _is_empty(code: object) -> bool:
    """Whether there is no such side; a float is the NaN that tables hold for a text that is missing."""
    return code is None or isinstance(code, float) or (isinstance(code, str) and not code.strip())


def _sample(record: Record, name: str, code: object, target: object) -> Raw:
    metadata: Raw = {}
    for key, names in KEPT_KEYS.items():
        value = next((record[name] for name in names if record.get(name) not in (None, "", [], "nan")), None)
        if value is not None:
            metadata[key] = value
    if "flaw_lines" in metadata:
        first = int(metadata["flaw_lines"] is record.get("flaw_line_index"))  # which counts from 0, as LineVul does
        numbers = re.findall(r"(\d+)(?:\.0+\b)?", str(metadata["flaw_lines"]))
        metadata["flaw_lines"] = [first + int(number) for number in numbers]
    cwes = _cwes(metadata.get("cwe"))
    if cwes:
        metadata["cwe"] = cwes[0]
    if len(cwes) > 1:
        metadata["cwes"] = cwes
    if "language" not in metadata and (ending := PurePath(str(metadata.get("file", ""))).suffix.lower()) in ENDINGS:
        metadata["language"] = ENDINGS[ending]
    sample: Raw = {"id": name, "code": code, "label": _label(target), "metadata": metadata}
    if cwes and sample["label"] != "safe":
        sample["category"] = cwes[0].lower()
    return sample


def _label(target: object) -> object:
    """The label that 1, 0, 1.0, "0.0", true and the like mean; anything else as it is, for the schema to judge."""
    return LABELS.get(str(target).strip().lower().removesuffix(".0"), target)


def _cwes(value: object) -> list[str]:
    """All weaknesses that a value names, each once, in its order."""
    found = re.findall(r"CWE-?(\d+)", str(value), re.IGNORECASE)
    return list(dict.fromkeys(f"CWE-{int(number)}" for number in found))


def _own_id(record: Record, number: int) -> object:
    """The record's own number where the dataset has one, else its place."""
    return next((record[key] for key in ("idx", "id", "index", "") if record.get(key) not in (None, "")), number)


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("guide", frozenset({"code", "label"}), _guide),
        Layout("prepared", frozenset((*SAMPLE_SCHEMA.names, "cluster")), _prepared),
        Layout("devign", frozenset({"func", "target"}), _function, "c"),
        Layout("diversevul", frozenset({"func", "target", "cwe", "message"}), _function, "c"),
        Layout("primevul", frozenset({"func", "target", "idx", "cve"}), _function, "c"),
        Layout("primevul-paired", frozenset({"func", "target"}), _paired_function, "c"),
        Layout("big-vul", frozenset({"func_before", "func_after", "vul"}), _big_vul, "c"),
        Layout("sven", frozenset({"func_src_before", "func_src_after"}), _sven),
    )
}
"""By name, as in `--format`."""
