"""Storage that several machines share: one interface to a directory and to an object store (`s3://bucket/prefix`).

Credentials and the endpoint come from the environment (`AWS_PROFILE`, `AWS_ENDPOINT_URL`, …), never from the address.
A store that does not answer for a while is asked again; what it refuses is an error at once.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from secauditai.errors import ClusterError

logger = logging.getLogger("secauditai.storage")

SCHEME = "s3://"
PATIENCE = 180.0
"""Seconds that a store may be out of reach before it is an error."""
BLOCK = 1 << 24
_REFUSALS = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "NO_SUCH_BUCKET",
    "NoSuchBucket",
    "403",
)
"""What a store says when asking again cannot help."""
_HINT = "Credentials and endpoint come from the environment: AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL."

Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredFile:
    """A file of a storage."""

    key: str
    """Path below the storage's root, with `/`."""
    size: int
    changed: float = 0.0
    """When it was written, seconds since the epoch."""


class Storage:
    """Files below one address; keys are relative paths with `/`."""

    def __init__(self, address: str, filesystem: Any, root: str, patience: float = PATIENCE) -> None:
        self.address = address
        self.patience = patience
        self._filesystem = filesystem
        self._root = root.rstrip("/")

    def at(self, key: str) -> str:
        """The full address of a key."""
        return f"{self.address.rstrip('/')}/{key}"

    def check_bucket(self) -> None:
        """Make sure that the bucket is there.

        Raises:
            ClusterError: when it is not, or cannot be asked.
        """
        from pyarrow.fs import FileType

        bucket = self._root.partition("/")[0]
        info = self._ask("", lambda: self._filesystem.get_file_info(bucket))
        if info.type == FileType.NotFound:
            raise ClusterError(f"there is no bucket {bucket!r}", where=self.address, hint=_HINT)

    def exists(self, key: str) -> bool:
        """Whether there is a file of this key."""
        from pyarrow.fs import FileType

        info = self._ask(key, lambda: self._filesystem.get_file_info(self._path(key)))
        return bool(info.type == FileType.File)

    def read_bytes(self, key: str) -> bytes:
        """The content of a small file.

        Raises:
            FileNotFoundError: when there is none.
        """

        def read() -> bytes:
            with self._filesystem.open_input_stream(self._path(key)) as stream:
                return bytes(stream.read())

        return self._ask(key, read)

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""

        def write() -> None:
            with self._filesystem.open_output_stream(self._path(key)) as stream:
                stream.write(content)

        self._ask(key, write)

    def upload(self, path: Path, key: str) -> None:
        """Copy a local file here, whole or not at all.

        Raises:
            FileNotFoundError: when it does not exist.
        """

        def copy() -> None:
            with path.open("rb") as source, self._filesystem.open_output_stream(self._path(key)) as stream:
                while block := source.read(BLOCK):
                    stream.write(block)

        try:
            self._ask(key, copy)
        except FileNotFoundError:
            if not path.exists():
                raise
            raise ClusterError("its bucket is gone", where=self.at(key), hint=_HINT) from None

    def upload_tree(self, root: Path, key: str, *, last: str = "manifest.json") -> None:
        """Copy all files of a local directory; those named `last` follow when all others are there."""
        paths = sorted((path for path in root.rglob("*") if path.is_file()), key=lambda path: (path.name == last, path))
        for path in paths:
            self.upload(path, f"{key}/{path.relative_to(root).as_posix()}")

    def download(self, key: str, path: Path) -> None:
        """Copy a file to a local path, whole or not at all.

        Raises:
            FileNotFoundError: when there is none.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

        def copy() -> None:
            with self._filesystem.open_input_stream(self._path(key)) as stream, partial.open("wb") as out:
                while block := stream.read(BLOCK):
                    out.write(block)

        try:
            self._ask(key, copy)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def download_tree(self, key: str, root: Path, *, last: str = "manifest.json") -> int:
        """Copy all files below a key into a local directory, those named `last` at the end; how many there were."""
        files = sorted(self.files(key), key=lambda file: (file.key.rpartition("/")[2] == last, file.key))
        for file in files:
            self.download(file.key, root / file.key.removeprefix(f"{key}/"))
        return len(files)

    def files(self, key: str = "") -> list[StoredFile]:
        """All files below a key, by key; [] when there is nothing."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(key), allow_not_found=True, recursive=True)
        found = self._ask(key, lambda: self._filesystem.get_file_info(selector))
        kept = (item for item in found if item.type == FileType.File and ".." not in item.path.split("/"))
        return sorted(
            (
                StoredFile(item.path.removeprefix(f"{self._root}/"), item.size, (item.mtime_ns or 0) / 1e9)
                for item in kept
            ),
            key=lambda item: item.key,
        )

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files; those that are not there do not matter."""
        for key in keys:
            try:
                self._ask(key, lambda key=key: self._filesystem.delete_file(self._path(key)))  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def delete_tree(self, key: str, *, first: str = "manifest.json") -> None:
        """Delete all files below a key; those named `first` go first, so that nothing half there looks whole."""
        files = sorted(self.files(key), key=lambda file: (file.key.rpartition("/")[2] != first, file.key))
        self.delete(file.key for file in files)

    def _path(self, key: str) -> str:
        return f"{self._root}/{key}" if key else self._root

    def _ask(self, key: str, action: Callable[[], Result]) -> Result:
        """Carry out an action, again and again while the store is out of reach."""
        give_up, pause = time.monotonic() + self.patience, 0.5
        while True:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                told = str(error).splitlines()[0][:300]
                if time.monotonic() >= give_up or any(word in told for word in _REFUSALS):
                    raise ClusterError(f"the storage fails: {told}", where=self.at(key), hint=_HINT) from None
                logger.warning("%s: %s; asking again", self.at(key), told)
            time.sleep(min(pause, max(0.0, give_up - time.monotonic())))
            pause = min(2 * pause, 10.0)


class DirectoryStorage(Storage):
    """A directory that all machines see at the same path."""

    def __init__(self, root: Path) -> None:
        from pyarrow.fs import LocalFileSystem

        super().__init__(str(root), LocalFileSystem(), str(root), patience=0.0)

    def write_bytes(self, key: str, content: bytes) -> None:
        """Write a small file, whole or not at all."""
        path = Path(self._path(key))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        partial.write_bytes(content)
        partial.replace(path)

    def upload(self, path: Path, key: str) -> None:
        """Copy a file here, whole or not at all."""
        target = Path(self._path(key))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        shutil.copyfile(path, partial)
        partial.replace(target)


def is_remote(address: str) -> bool:
    """Whether an address is on an object store."""
    return address.startswith(SCHEME)


def open_storage(address: str) -> Storage:
    """The storage at `s3://bucket/prefix` or at a local directory; nothing is asked of it yet.

    Raises:
        ClusterError: when the address is of no known kind or holds credentials.
    """
    if not is_remote(address):
        if "://" in address:
            raise ClusterError(f"{address} is no storage", hint="Name a directory or s3://bucket/prefix.")
        return DirectoryStorage(Path(address).expanduser().absolute())
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ClusterError("an address must not hold credentials", hint=_HINT)
    if not parts.netloc:
        raise ClusterError(f"{address} names no bucket", hint="It looks like s3://bucket/prefix.")
    return Storage(address, open_s3(), address.removeprefix(SCHEME))


def open_s3() -> Any:
    """The file system of the object store that the environment names."""
    from pyarrow.fs import S3FileSystem

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3FileSystem(endpoint_override=endpoint, region=region, connect_timeout=5.0, request_timeout=30.0)
