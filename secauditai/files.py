"""Small files of ours: JSON written whole or not at all, and what a manifest says about a file."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, document: Any) -> None:
    """Write a JSON file, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def describe_file(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as manifests record them."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def describe_tree(root: Path, *, leave_out: Iterable[Path] = ()) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file under a directory, by relative path."""
    left_out = set(leave_out)
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path not in left_out)
    return {str(path.relative_to(root)): describe_file(path) for path in paths}
