"""Which files a user means, and which reader each of them takes."""

import glob
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from secauditai.data.dataset import REFUSED_ENDING, is_dataset, open_dataset
from secauditai.data.readers.cases import Case, files_below
from secauditai.data.readers.containers import Place, read_csv, read_json, read_json_lines, read_parquet
from secauditai.data.readers.layouts import LAYOUTS, Layout, guess_layout
from secauditai.data.readers.raw import RawSample
from secauditai.data.readers.streams import COMPRESSIONS, first_not_utf8, inner_suffix
from secauditai.data.readers.trees import TREES, Tree, find_tree
from secauditai.data.readers.yaml_events import read_yaml_samples
from secauditai.data.schema import valid_unicode
from secauditai.errors import DataError
from secauditai.files import describe_file
from secauditai.storage import is_remote

CONTAINERS: dict[str, Callable[[Path], Iterator[Place]]] = {
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
YAML = (".yaml", ".yml")
READERS = (*YAML, *CONTAINERS)
"""Endings of data files; each may be followed by that of a compression."""
AUTO = "auto"
FORMATS = (AUTO, *LAYOUTS, *TREES)
"""What `--format` takes: the layout of records, however their file stores them, or of a directory of sources."""
GUIDE = "guide"
LOOKED_AT = 20
"""First samples of a file that tell whether it holds any."""


@dataclass(frozen=True)
class Source:
    """What a user means by some raw data."""

    spec: str
    files: list[Path]
    """Everything that the samples come from; empty for the built-in dataset."""
    tree: str = ""
    """A name of `TREES` when it is a directory of sources."""
    cases: tuple[Case, ...] = ()
    """Its test cases."""
    copied_from: tuple[str, str] = ("", "")
    """Directory of the copies and the address they come from, when the data is on an object store."""

    def shown(self, path: str) -> str:
        """A path as users know it."""
        here, there = self.copied_from
        return there + path.removeprefix(here) if here else path

    @property
    def megabytes(self) -> float:
        """Size of the files in MiB."""
        return sum(path.stat().st_size for path in self.files) / 2**20

    def describe(self) -> dict[str, Any]:
        """What the manifest says about it."""
        files = [{"path": self.shown(str(path)), **describe_file(path)} for path in self.files]
        if not self.tree:
            return {"spec": self.spec, "files": files}
        digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        return {"spec": self.spec, "format": self.tree, "files": len(files), "sha256": digest}


def find_source(spec: str, layout: str = AUTO) -> Source:
    """The directory of sources, or the data files, that a path, directory or glob names.

    Raises:
        DataError: when there are none, or both and no layout that tells which is meant.
    """
    if not spec:
        raise DataError("no data is named", hint="Name a file, directory or glob.")
    root = Path(spec)
    found = find_tree(root, layout) if root.is_dir() and not is_dataset(root) else None
    tree, cases = found or (None, [])
    files = tree.files(root, cases) if tree else list_files(spec)
    if tree and layout == AUTO:
        _check_alone(root, tree, files)
    for path in files:
        if not tree:
            _check_layout(path, layout)
        if valid_unicode(str(path)) != str(path):
            raise DataError("the name of the file is not UTF-8", where=valid_unicode(str(path)), hint="Rename it.")
    return Source(spec, files, tree.name if tree else "", tuple(cases))


def _check_alone(root: Path, tree: Tree, files: list[Path]) -> None:
    """Raise a DataError when data files with samples stand beside the test cases of a tree."""
    known = set(files)
    for path in files_below(root, leave_out=is_dataset):
        if inner_suffix(path) in READERS and path not in known and _holds_samples(path):
            raise DataError(
                f"holds test cases of {tree.name} and data files, such as {path.relative_to(root)}",
                where=str(root),
                hint=f"--format {tree.name} reads the test cases, --format {GUIDE} or another layout the data files.",
            )


def _holds_samples(path: Path) -> bool:
    """Whether a file is one of samples, and not a tool's settings or results, which are JSON or YAML as well."""
    try:
        return any(isinstance(raw.value, dict) and "code" in raw.value for raw in islice(read_file(path), LOOKED_AT))
    except DataError:
        return False


def file_stems(files: Iterable[Path]) -> dict[Path, str]:
    """What the ids of each file's samples begin with, where its records have no whole ids of their own.

    It is the file's name up to the first dot; with its directories below those of all where several files have the
    same; with all of its name where this is still the same.
    """
    left = list(dict.fromkeys(files))
    root = os.path.commonpath([path.parent for path in left]) if left else ""
    forms: tuple[Callable[[Path], str], ...] = (
        lambda path: path.name.partition(".")[0],
        lambda path: path.relative_to(root).with_name(path.name.partition(".")[0]).as_posix(),
        lambda path: path.relative_to(root).as_posix(),
    )
    stems: dict[Path, str] = {}
    for form in forms:
        stems |= {path: form(path) for path in left}
        counts = Counter(stems[path] for path in left)
        left = [path for path in left if counts[stems[path]] > 1]
    return stems


def existing_path(spec: str) -> Path | None:
    """The path that is meant: as written, or with the one data ending that a file of that name has."""
    path = Path(spec)
    if not spec or is_remote(spec):  # Python takes no name for the current directory
        return None
    if path.exists():
        return path
    found = [path.with_name(path.name + ending) for ending in READERS if path.with_name(path.name + ending).is_file()]
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise DataError(f"{spec} does not exist, and several files of that name do", hint=f"Name one of {names}.")
    return found[0] if found else None


def is_data_file(path: PurePath) -> bool:
    """Whether a file among others is meant when these are named together."""
    return inner_suffix(path) in READERS and not path.name.startswith(".") and not path.name.endswith(REFUSED_ENDING)


def list_files(spec: str) -> list[Path]:
    """The data files that a path, directory or glob names, sorted.

    Of a directory, those below it that are neither hidden, nor part of a prepared dataset, nor one of our lists of
    refused samples; links do not lead out. Of a prepared dataset, its samples.

    Raises:
        DataError: when there are none.
    """
    path = Path(spec)
    if path.is_file():
        _check_ending(path)
        return [path]
    if is_dataset(path):
        found = set(open_dataset(path).layout.samples.iterdir())
    elif path.is_dir():
        found = set(files_below(path, leave_out=is_dataset))
    else:  # a file may match in several ways
        found = {item for item in map(Path, glob.iglob(spec, recursive=True)) if item.is_file()}  # noqa: PTH207 - any glob
    files = sorted(item for item in found if is_data_file(item))
    if not files:
        reason = "holds no data files" if path.is_dir() or "*" in spec else "does not exist"
        raise DataError(f"{spec} {reason}", hint=f"Data files end in {', '.join(READERS)}.")
    return files


def read_file(path: Path, layout: str = AUTO, stem: str = "") -> Iterator[RawSample]:
    """The raw samples of a file.

    Args:
        path: a data file.
        layout: one of `FORMATS`; auto looks at the first record.
        stem: what ids begin with, as `file_stems` gives it; "" for the file's name up to the first dot.

    Raises:
        DataError: with file and line when its structure cannot be read, or when it cannot have the layout.
    """
    _check_ending(path)
    _check_layout(path, layout)
    try:
        if inner_suffix(path) in YAML:
            yield from (RawSample(f"{path}:{line}", value) for line, value in read_yaml_samples(path))
        else:
            stem = stem or file_stems([path])[path]
            yield from _records(path, CONTAINERS[inner_suffix(path)](path), layout, stem)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    except UnicodeDecodeError:
        line, byte = first_not_utf8(path)
        raise DataError(f"not UTF-8 text ({byte})", where=f"{path}:{line}", hint="Save it as UTF-8.") from None


def _records(path: Path, places: Iterator[Place], wanted: str, stem: str) -> Iterator[RawSample]:
    layout: Layout | None = LAYOUTS.get(wanted)
    for number, (where, record) in enumerate(places):
        if layout is None and isinstance(record, dict):
            layout = guess_layout(record, path)
        if layout is None or not isinstance(record, dict) or not layout.keys <= record.keys():
            yield RawSample(where, record)  # refused by the schema, with what it lacks
            continue
        for value in layout.convert(record, stem, number):
            yield RawSample(where, _with_language(value, layout))


def _with_language(value: object, layout: Layout) -> object:
    if layout.default_language and isinstance(value, dict):
        value["metadata"].setdefault("language", layout.default_language)
    return value


def _check_layout(path: Path, layout: str) -> None:
    if layout in TREES:
        raise DataError(f"--format {layout} needs a directory of sources", where=str(path))
    if inner_suffix(path) in YAML and layout not in (AUTO, GUIDE):
        raise DataError(
            f"--format {layout} does not apply to YAML, which holds samples of the guide's format",
            where=str(path),
            hint="Leave --format out, or keep the dataset's records as JSON, JSON lines, CSV or Parquet.",
        )


def _check_ending(path: Path) -> None:
    if inner_suffix(path) not in READERS:
        raise DataError(
            f"unknown kind of file {path.suffix or path.name!r}",
            where=str(path),
            hint=f"Known: {', '.join(READERS)}, alone or followed by {' or '.join(COMPRESSIONS)}.",
        )
