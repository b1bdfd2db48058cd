"""Data on object stores: what `s3://…` names, and copying it to where it is parsed.

Credentials and the endpoint come from the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, …), never from the address.
"""

import fnmatch
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from secauditai.data.dataset import MANIFEST, SAMPLES
from secauditai.data.readers import READERS, is_data_file
from secauditai.data.readers.streams import inner_suffix
from secauditai.errors import DataError
from secauditai.progress import Progress, silent
from secauditai.storage import SCHEME, open_s3

WILDCARDS = "*?["
BLOCK = 1 << 24


@dataclass(frozen=True)
class RemoteFiles:
    """The data files that an address names."""

    filesystem: Any
    root: str
    """The bucket and the folders that all of them are below."""
    files: list[Any]
    """As `pyarrow.fs.FileInfo`, by path."""

    @property
    def fingerprint(self) -> str:
        """Digest of names, sizes and times of change."""
        told = "\n".join(f"{item.path} {item.size} {item.mtime_ns}" for item in self.files)
        return hashlib.sha256(told.encode()).hexdigest()

    def copy_to(self, directory: Path, progress: Progress = silent) -> list[Path]:
        """Copy all files below a directory; where each went."""
        total, done, copies = sum(item.size for item in self.files) >> 20, 0, []
        for item in self.files:
            target = directory / item.path.removeprefix(self.root).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            stream = self.filesystem.open_input_stream
            with _telling(f"{SCHEME}{item.path}"), stream(item.path) as source, target.open("wb") as out:
                while block := source.read(BLOCK):
                    out.write(block)
                    done += len(block)
                    progress("Downloading MiB", done >> 20, total)
            copies.append(target)
        return copies


def list_remote(spec: str) -> RemoteFiles:
    """Find the data files of an object, a prefix or a glob.

    Raises:
        DataError: when there are none, or the store cannot be reached.
    """
    from pyarrow.fs import FileSelector, FileType

    if "@" in urlsplit(spec).netloc:
        raise DataError(
            "an address must not hold credentials", hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and its like."
        )
    path = spec.removeprefix(SCHEME).rstrip("/")
    cut = min((path.index(sign) for sign in WILDCARDS if sign in path), default=len(path))
    root = path if cut == len(path) else path[:cut].rpartition("/")[0]
    with _telling(spec):
        filesystem = open_s3()
        info = filesystem.get_file_info(root)
        if info.type == FileType.File:
            found = [info]
        else:
            found = filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    paths = [item.path for item in found if item.type == FileType.File and ".." not in item.path.split("/")]
    if root != path:
        wanted = {name for name in paths if fnmatch.fnmatchcase(name, path) and is_data_file(PurePosixPath(name))}
    elif info.type == FileType.File:
        wanted = {name for name in paths if inner_suffix(PurePosixPath(name)) in READERS}
    else:
        wanted = below_prefix(paths, root)
    files = [item for item in sorted(found, key=lambda item: item.path) if item.path in wanted]
    if not files:
        raise DataError(f"{spec} holds no data files", hint=f"Data files end in {', '.join(READERS)}.")
    return RemoteFiles(filesystem, root.rpartition("/")[0] if info.type == FileType.File else root, files)


def below_prefix(paths: Iterable[str], root: str) -> set[str]:
    """Of all objects below a prefix, the data files that a directory with these files would give."""
    known = {name: PurePosixPath(name) for name in paths}
    objects = set(known.values())
    folders = {folder for path in objects for folder in path.parents}
    prepared = {folder for folder in folders if folder / MANIFEST in objects and folder / SAMPLES in folders}
    data = {name: path for name, path in known.items() if is_data_file(path)}
    if PurePosixPath(root) in prepared:
        return {name for name, path in data.items() if path.parent == PurePosixPath(root, SAMPLES)}
    shown = {name for name, path in data.items() if not any(part[0] == "." for part in path.relative_to(root).parts)}
    return {name for name in shown if prepared.isdisjoint(data[name].parents)}


@contextmanager
def _telling(spec: str) -> Iterator[None]:
    """Turn what the store says into one clear error."""
    try:
        yield
    except OSError as error:
        told = str(error).splitlines()[0][:300]
        hint = "Credentials and endpoint come from the environment: AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL."
        raise DataError(f"cannot be read: {told}", where=spec, hint=hint) from None
