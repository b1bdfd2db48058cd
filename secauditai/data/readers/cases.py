"""Test cases of a directory of sources, and what reading them has in common."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.data.readers.raw import RawSample
from secauditai.data.readers.streams import first_not_utf8
from secauditai.data.schema import Broken
from secauditai.errors import DataError

ENDINGS = {
    **{".c": "c", ".h": "c", ".cc": "c++", ".cpp": "c++", ".hpp": "c++", ".java": "java", ".py": "python"},
    **{".js": "javascript", ".php": "php", ".go": "go", ".rb": "ruby", ".rs": "rust", ".cs": "c#"},
}
"""File ending to language."""


@dataclass(frozen=True)
class Case:
    """Some files that make up one test case."""

    name: str
    files: tuple[str, ...]
    """Relative to the root."""
    facts: str = "{}"
    """JSON: what the manifest says about it."""

    def fact(self, key: str) -> Any:
        """One of the facts; None when it is not known."""
        return json.loads(self.facts).get(key)


def _none(_directory: Path) -> bool:
    return False


def files_below(root: Path, leave_out: Callable[[Path], bool] = _none) -> Iterator[Path]:
    """Files below a directory in sorted order; hidden ones are left out, and links do not lead out of it.

    Args:
        root: the directory.
        leave_out: whether to pass over a directory below it.

    Raises:
        DataError: when a directory cannot be listed, as nothing in it would be read.
    """
    real = root.resolve()
    for directory, folders, names in os.walk(root, onerror=_refuse):
        here = Path(directory)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not leave_out(here / name))
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and path.is_file() and path.resolve().is_relative_to(real):
                yield path


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot be read: {error.strerror}", where=str(error.filename))


def inside(root: Path, name: str) -> Path | None:
    """The file that a manifest names; None when there is none below the root."""
    try:
        path = (root / name).resolve()
        return path if path.is_relative_to(root.resolve()) and path.is_file() else None
    except OSError:  # a name longer than any file's
        return None


def read_source(path: Path) -> str | None:
    """The text of a source file, None when it is not UTF-8.

    Raises:
        DataError: when it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None


def not_utf8(root: Path, name: str, case: Case, sample: str) -> RawSample:
    """What stands for a test case with a file that is not UTF-8, in any other encoding: none is guessed.

    Args:
        root: the directory of all test cases.
        name: the file, relative to the root.
        case: the test case.
        sample: the id that it is refused under.
    """
    line, byte = first_not_utf8(root / name)
    message = f"{name} is not UTF-8 text ({byte}), so the test case {case.name} is refused; save the file as UTF-8"
    return RawSample(f"{root / name}:{line}", Broken("not_utf8", message, sample))
