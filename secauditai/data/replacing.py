"""Writing a directory whole or not at all, and clearing away what a killed process left beside it."""

import contextlib
import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from secauditai.errors import DataError

PARTIAL, OLD, STAGING = "partial", "old", "staging"


@contextlib.contextmanager
def replacing(root: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A directory to fill beside `root`; it takes its place when all went well, and vanishes otherwise.

    Args:
        root: the directory to write or replace.
        overwrite: whether to replace what is there when all is written.

    Raises:
        DataError: when `root` came to be meanwhile and must not be replaced, or nothing can be written there.
    """
    root = check_place(root)
    clear_leftovers(root)
    partial, old = (root.with_name(f"{_prefix(root)}.{kind}") for kind in (PARTIAL, OLD))
    try:
        with _told(root):
            partial.mkdir(parents=True)
        yield partial
        if overwrite:
            _swap(partial, root, old)
        else:
            _claim(partial, root)
    finally:
        if old.exists() and not root.exists():
            old.rename(root)
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _claim(partial: Path, root: Path) -> None:
    """Give a directory its name; an empty one of that name may be there."""
    try:
        partial.rename(root)
    except OSError as error:
        if not root.exists():
            raise
        hint = "Another command wrote it meanwhile. Use --overwrite to replace it, or choose another --output."
        raise DataError("the output exists", where=str(root), hint=hint) from error


def _swap(partial: Path, root: Path, old: Path) -> None:
    """Put one directory in the place of another, whoever else does so at the same time; the last one stays."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            root.rename(old)
        try:
            partial.rename(root)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            return


@contextlib.contextmanager
def staging_beside(output: Path) -> Iterator[Path]:
    """A directory for parts, on the same storage as the output; removed in the end.

    Raises:
        DataError: when nothing can be written there.
    """
    place = check_place(output)
    with _told(output):
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(place)
        staging = Path(tempfile.mkdtemp(prefix=f"{_prefix(place)}.{STAGING}.", dir=place.parent))
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_place(root: Path) -> Path:
    """Where a directory to write or replace really is, whatever names it, `.` too.

    Raises:
        DataError: when it is below a file, or commands work in it, and would then be in a directory that is gone.
    """
    check_above(root)
    place = root.resolve()
    if Path.cwd().is_relative_to(place):
        hint = "Run the command from elsewhere, or name another directory."
        raise DataError("this would replace the current directory", where=str(root), hint=hint)
    return place


def check_above(output: Path) -> None:
    """Refuse an output below what is no directory, before any work.

    Raises:
        DataError: naming both.
    """
    above = next(parent for parent in output.absolute().parents if parent.exists())
    if not above.is_dir():
        raise DataError(f"cannot be written: {above} is a file", where=str(output), hint="Choose another place.")


@contextlib.contextmanager
def _told(output: Path) -> Iterator[None]:
    """Say of a directory that cannot be made which output it was for."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", where=str(output)) from None


def clear_leftovers(root: Path) -> None:
    """Remove what dead processes of this host left beside a directory, and put back one that they had moved away."""
    root = root.resolve()
    if not root.parent.is_dir():
        return
    pattern = re.compile(
        rf"\.{re.escape(root.name)}\.{re.escape(socket.gethostname())}-(\d+)\.({PARTIAL}|{OLD}|{STAGING})(\..*)?"
    )
    for path in sorted(root.parent.iterdir()):
        found = pattern.fullmatch(path.name)
        if found is None or psutil.pid_exists(int(found[1])):
            continue
        if found[2] == OLD and not root.exists():
            path.rename(root)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _prefix(root: Path) -> str:
    """How names of ours beside a directory begin: they tell which process they belong to."""
    return f".{root.name}.{socket.gethostname()}-{os.getpid()}"
