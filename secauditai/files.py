"""Small files of ours: JSON written whole or not at all, and what a manifest says about a file."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well and is gone when it does not."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, whole or not at all."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as manifests record them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def describe_tree(root: Path, *, leave_out: Iterable[Path] = ()) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file under a directory, by relative path."""
    left_out = set(leave_out)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path not in left_out)
    return {str(path.relative_to(root)): describe_file(path) for path in paths}
