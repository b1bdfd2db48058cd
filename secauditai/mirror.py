"""A workspace on an object store, as this machine works on it: a directory in the user's cache that mirrors it.

The store is the truth. `open_mirror` brings what says which runs and configurations there are; whoever needs more
brings it with `fetch` and leaves what it made there with `send`. Both do nothing in a local workspace, so that the
same code serves both. What has a `manifest.json` is whole when that file is there: it is sent and brought last.
"""

import hashlib
import json
import logging
import os
import re
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

from secauditai.errors import ClusterError
from secauditai.files import write_json
from secauditai.storage import PATIENCE, SCHEME, Storage, open_storage

logger = logging.getLogger("secauditai.storage")

MARK = ".mirror.json"
"""In a mirror's root: its address, and when each overview file that is here was changed there."""
MANIFEST = "manifest.json"
OPENING_PATIENCE = 10.0
"""Seconds that the store may be out of reach when a command begins: someone waits."""
OVERVIEW = (
    "workspace.json",
    "models.yaml",
    "clusters.yaml",
    "configs/*.yaml",
    "runs/*/*/run.json",
    "runs/*/*/config.yaml",
    "runs/*/*/recipe.json",
    "sweeps/*/*/ledger.json",
    "cross_validations/*/*.json",
)
DELETABLE = ("configs/*.yaml", "runs/*/*/run.json", "sweeps/*/*/ledger.json", "cross_validations/*/*.json")
"""Which of these go here when they have gone there."""
SETTLED = 60.0
"""Seconds after which a file is not one that is just being sent, and its time of change, which counts whole seconds,
tells one content from the next."""
FRESH = 600.0
"""Seconds for which processes that begin together, as a sweep's trials do, take an overview that is here as it is."""
BUSY = "driver.lock"
"""In a directory: held while a process of this machine works there."""


@dataclass(frozen=True)
class Mirror:
    """The directory of this machine that mirrors a remote workspace."""

    root: Path
    address: str
    """The workspace, `s3://bucket/prefix`."""

    @cached_property
    def storage(self) -> Storage:
        """Its store; opened when it is asked for the first time, as paths alone need none."""
        return open_storage(self.address)

    def key(self, path: Path) -> str:
        """What the store calls a path of the mirror."""
        return path.relative_to(self.root).as_posix()

    def portable(self, value: str) -> str:
        """A path as it is written down: relative to the workspace when that holds it."""
        return self.key(Path(value)) if Path(value).is_relative_to(self.root) else value

    def located(self, value: str) -> str:
        """The path of this machine that a portable one means."""
        return value if not value or Path(value).is_absolute() else str(self.root / value)

    def fetch_file(self, path: Path) -> bool:
        """Bring a file as it is now; whether there is one."""
        try:
            self.storage.download(self.key(path), path)
        except FileNotFoundError:
            return False
        return True

    def fetch_tree(self, root: Path) -> bool:
        """Bring a directory whose files never change, unless it is whole here; whether there is one."""
        if (root / MANIFEST).exists():
            return True
        key, files = self.key(root), self.storage.files(self.key(root))
        if any(file.key == f"{key}/{MANIFEST}" for file in files):
            return self.storage.download_tree(key, root) > 0
        for file in files:
            path = self.root / file.key
            if not path.exists() or path.stat().st_size != file.size:
                self.storage.download(file.key, path)
        return bool(files)

    def trees(self, parent: Path, *, whole: bool = True) -> set[str]:
        """Names of the directories below a path that the store has; without `whole` also those without manifest."""
        prefix = self.key(parent)
        parts = [file.key.removeprefix(f"{prefix}/").split("/") for file in self.storage.files(prefix)]
        return {names[0] for names in parts if len(names) == 2 and (not whole or names[1] == MANIFEST)}

    def send_file(self, path: Path) -> None:
        """Send a file; one that is not here is passed over."""
        if path.exists():
            self.storage.upload(path, self.key(path))

    def send_tree(self, root: Path) -> None:
        """Send a directory whose files never change, unless it is whole there; what begins with a dot stays here."""
        key, manifest = self.key(root), root / MANIFEST
        if manifest.exists():
            there = self.read(manifest)
            if there == manifest.read_bytes():
                return
            if there is not None:  # another content of this name: nothing half new may look whole
                self.storage.delete([f"{key}/{MANIFEST}"])
            self.storage.upload_tree(root, key)
            return
        sizes = {file.key: file.size for file in self.storage.files(key)}
        for path in sorted(root.rglob("*"), key=lambda path: (path.suffix == ".json", path)):  # which tells of others
            if path.is_file() and not path.name.startswith(".") and sizes.get(self.key(path)) != path.stat().st_size:
                self.send_file(path)

    def read(self, path: Path) -> bytes | None:
        """What the store has of a small file; None when it has none."""
        try:
            return self.storage.read_bytes(self.key(path))
        except FileNotFoundError:
            return None

    def refresh(self) -> None:
        """Bring the overview: configurations, and what each run is. What has gone there goes here."""
        known: dict[str, list[float]] = json.loads((self.root / MARK).read_text(encoding="utf-8")).get("files", {})
        there = {
            file.key: [file.size, file.changed]
            for file in self.storage.files()
            if any(fnmatchcase(file.key, pattern) for pattern in OVERVIEW)
        }
        busy = set[str]()
        for key, state in there.items():
            path = self.root / key
            if path.exists() and known.get(key) == state:
                continue
            if path.exists() and is_busy(path.parent):
                busy.add(key)
            else:
                self.fetch_file(path)
        now = time.time()
        for pattern in DELETABLE:
            for path in self.root.glob(pattern):
                if self.key(path) not in there and now - path.stat().st_mtime > SETTLED:
                    path.unlink(missing_ok=True)
        settled = {key for key, state in there.items() if now - state[1] > SETTLED} - busy
        files = {key: state if key in settled else [0, 0] for key, state in there.items()}
        write_json(self.root / MARK, {"address": self.address, "files": files})


def open_mirror(address: str, patience: float | None = None) -> Path:
    """The local directory of the workspace `s3://bucket/prefix`, with its overview up to date.

    Args:
        address: the workspace.
        patience: seconds that the store may be out of reach; None: as long as a command waits that begins.

    Raises:
        ClusterError: when there is no such bucket, the store refuses, or it is out of reach.
    """
    mirror = make_mirror(address, patience)
    mirror.refresh()
    return mirror.root


def make_mirror(address: str, patience: float | None = None) -> Mirror:
    """The mirror of the workspace `s3://bucket/prefix`, which may be empty.

    Args:
        address: the workspace.
        patience: as `open_mirror` has it.

    Raises:
        ClusterError: as `open_mirror`.
    """
    address = SCHEME + address.removeprefix(SCHEME).rstrip("/")
    mirror = Mirror(mirror_directory(address), address)
    mirror.storage.patience = OPENING_PATIENCE if patience is None else patience
    mirror.storage.check_bucket()
    mirror.root.mkdir(parents=True, exist_ok=True)
    if not (mirror.root / MARK).exists():
        write_json(mirror.root / MARK, {"address": address})
    return mirror


def open_mirror_once(address: str) -> Path:
    """As `open_mirror`, for processes of one machine that begin together: one of them brings the overview for all."""
    from filelock import FileLock

    root = mirror_directory(address.rstrip("/"))
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".opening.lock"):
        mark = root / MARK
        if mark.exists() and time.time() - mark.stat().st_mtime < FRESH and "files" in _read_mark(mark):
            return root
        return open_mirror(address, PATIENCE)


def mirror_directory(address: str) -> Path:
    """Where this machine mirrors a workspace: in XDG_CACHE_HOME or ~/.cache, by endpoint and address."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser().absolute()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    digest = hashlib.sha256(f"{endpoint} {address}".encode()).hexdigest()[:12]
    readable = re.sub(r"[^\w.-]+", "-", address.partition("://")[2]).strip("-")[:60]
    return cache / "secauditai" / "workspaces" / f"{readable}-{digest}"


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that a path lies in; None when it is in a local workspace."""
    for directory in (path, *path.parents):
        mark = directory / MARK
        if mark.is_file():
            return Mirror(directory, str(_read_mark(mark)["address"]))
    return None


def _read_mark(mark: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8"))
        if not isinstance(found["address"], str):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        hint = "Delete its directory; it is made anew."
        raise ClusterError("a damaged mirror of a workspace", where=str(mark), hint=hint) from None
    return found


def is_busy(directory: Path) -> bool:
    """Whether a process of this machine works in a directory, so that what is here is newer than in the store."""
    from filelock import FileLock, Timeout

    if not (directory / BUSY).exists():
        return False
    try:
        with FileLock(directory / BUSY, timeout=0):
            return False
    except Timeout:
        return True


def fetch(path: Path) -> None:
    """Bring a directory whose files never change, when the workspace is remote and it is not here yet.

    Raises:
        ClusterError: when the store refuses or stays out of reach; so do the others.
    """
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.fetch_tree(path)


def fetch_once(root: Path) -> None:
    """As `fetch`, for what several processes of this machine may want at the same time."""
    mirror = mirror_of(root)
    if mirror is None:
        return
    from filelock import FileLock

    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{root}.lock"):
        mirror.fetch_tree(root)


def fetch_files(*paths: Path, patience: float = PATIENCE) -> None:
    """Bring files as they are now, when the workspace is remote."""
    mirror = mirror_of(paths[0])
    if mirror is not None:
        mirror.storage.patience = patience
        for path in paths:
            mirror.fetch_file(path)


def send(*paths: Path, patience: float = PATIENCE) -> None:
    """Leave files and directories in the workspace's store, in this order, when it is remote."""
    mirror = mirror_of(paths[0])
    if mirror is not None:
        mirror.storage.patience = patience
        for path in paths:
            if path.is_dir():
                mirror.send_tree(path)
            else:
                mirror.send_file(path)


def try_send(path: Path, patience: float = 0.0) -> bool:
    """As `send`, for what is sent again later if the store does not take it now; whether it did."""
    try:
        send(path, patience=patience)
    except ClusterError as error:
        logger.warning("%s; it is tried again", error)
        return False
    return True


def withdraw(path: Path) -> None:
    """Delete a file or a directory from the workspace's store too, when it is remote."""
    mirror = mirror_of(path)
    if mirror is not None:
        mirror.storage.delete([mirror.key(path)])
        mirror.storage.delete_tree(mirror.key(path))


def address_of(path: Path) -> str:
    """What a path of the workspace is called wherever one is: its address there when the workspace is remote."""
    mirror = mirror_of(path)
    if mirror is None:
        return str(path)
    return mirror.address if path == mirror.root else mirror.storage.at(mirror.key(path))


def portable(value: str, home: Path) -> str:
    """A path as a file at `home` writes it down: relative to the workspace when that is remote and holds both."""
    mirror = mirror_of(home)
    return value if mirror is None else mirror.portable(value)


def located(value: str, home: Path) -> str:
    """The path that a file at `home` means; the reverse of `portable`."""
    mirror = None if not value or Path(value).is_absolute() else mirror_of(home)
    return value if mirror is None else mirror.located(value)
