"""Putting what a command reads where the cluster finds it: by content hash, in the workspace's storage, once."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from secauditai.data.dataset import is_dataset
from secauditai.data.readers import existing_path
from secauditai.data.readers.registry import list_files
from secauditai.errors import ConfigError
from secauditai.files import describe_file
from secauditai.progress import Progress, silent
from secauditai.storage import Storage, is_remote

STAGED = "staged"
COMPLETE = ".complete"
"""Written last into what is staged; without it, staging starts anew."""
WILDCARDS = "*?["


@dataclass(frozen=True)
class Stager:
    """Copies local files and directories into a workspace's storage."""

    storage: Storage
    workspace: Path
    """The local workspace: what lies in it needs no staging when it is the shared one."""
    progress: Progress = silent

    def stage_data(self, spec: str) -> str:
        """Stage what `--data` names and return what the cluster's command says instead.

        The built-in dataset and addresses on an object store stay as they are.
        """
        if is_remote(spec):
            return spec
        path = existing_path(spec)
        if path is None:
            return self._stage_glob(spec) if any(sign in spec for sign in WILDCARDS) else spec
        path = path.absolute()
        if path.parent != path and path.name != "samples" and is_dataset(path.parent):
            return f"{self.stage(path.parent)}/{path.name}"
        return self.stage(path)

    def stage(self, path: Path) -> str:
        """Stage a file or a directory; its address in the storage.

        Raises:
            ConfigError: when it is neither.
        """
        path = path.absolute()
        if self.storage.address == str(self.workspace) and path.is_relative_to(self.workspace):
            return str(path)
        if not path.exists():
            raise ConfigError(f"{path} does not exist")
        return self.storage.at(self._copy(path.parent, _files_below(path), path.name))

    def _stage_glob(self, spec: str) -> str:
        """Stage all files of a glob; the address of the directory that holds them."""
        files = [path.absolute() for path in list_files(spec)]
        root = Path(os.path.commonpath([path.parent for path in files]))
        return self.storage.at(self._copy(root, files, ""))

    def _copy(self, root: Path, files: list[Path], name: str) -> str:
        """Copy files, keeping their paths below `root`, unless they are there; the key of `name` among them."""
        digest = hashlib.sha256()
        for path in files:
            digest.update(f"{path.relative_to(root)} {describe_file(path)['sha256']}\n".encode())
        key = f"{STAGED}/{digest.hexdigest()[:32]}"
        if not self.storage.exists(f"{key}/{COMPLETE}"):
            for number, path in enumerate(files):
                self.progress("Staging", number, len(files), "files")
                self.storage.upload(path, f"{key}/{path.relative_to(root).as_posix()}")
            self.storage.write_bytes(f"{key}/{COMPLETE}", b"")
        return f"{key}/{name}" if name else key


def _files_below(path: Path) -> list[Path]:
    """A file itself, or the files of a directory; links do not lead out of it."""
    if path.is_file():
        return [path]
    root = path.resolve()
    return sorted(item for item in path.rglob("*") if item.is_file() and item.resolve().is_relative_to(root))
