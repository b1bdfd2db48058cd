"""Writing a directory whole or not at all, and clearing away what a killed process left beside it."""

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

PARTIAL, OLD, STAGING = "partial", "old", "staging"


@contextlib.contextmanager
def replacing(root: Path) -> Iterator[Path]:
    """A directory to fill beside `root`; it takes its place when all went well, and vanishes otherwise."""
    clear_leftovers(root)
    partial, old = (root.with_name(f"{_prefix(root)}.{kind}") for kind in (PARTIAL, OLD))
    partial.mkdir(parents=True)
    try:
        yield partial
        if root.exists():
            root.rename(old)
        partial.rename(root)
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def staging_beside(output: Path) -> Iterator[Path]:
    """A directory for parts, on the same storage as the output; removed in the end."""
    parent = output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(output)
    with tempfile.TemporaryDirectory(prefix=f"{_prefix(output)}.{STAGING}.", dir=parent) as directory:
        yield Path(directory)


def clear_leftovers(root: Path) -> None:
    """Remove what dead processes of this host left beside a directory, and put back one that they had moved away."""
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
