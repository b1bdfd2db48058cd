"""A job's files when the workspace is on an object store: brought to the machine that computes, and sent back."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from secauditai.storage import Storage, is_remote
from secauditai.submission.command import CHANGES_ITS_DATA, DATA, OUTPUT
from secauditai.submission.request import job_key
from secauditai.submission.staging import STAGED


@dataclass
class Brought:
    """A command line whose files are on this machine."""

    storage: Storage
    job_id: str
    root: Path
    arguments: list[str] = field(default_factory=list)
    outputs: dict[str, Path] = field(default_factory=dict)
    """Key in the storage to the place here that the command writes to."""

    def add(self, flag: str, word: str, *, changes: bool) -> None:
        """Take the next word of a command line.

        Args:
            flag: the word before it.
            word: an address in the storage becomes a path here; anything else stays.
            changes: whether the command writes into the data it is given.
        """
        key = word.removeprefix(self.storage.at(""))
        if is_remote(word) and key != word:
            parts = PurePosixPath(key).parts
            if parts[0] == STAGED:
                word = str(self._input("/".join(parts[:2])).joinpath(*parts[2:]))
            elif key.startswith(f"{job_key(self.job_id)}/") and (flag in OUTPUT or (changes and flag in DATA)):
                word = str(self._output(key, holds_data=flag in DATA))
        self.arguments.append(word)

    def said(self, document: str) -> str:
        """A JSON document with the addresses of outputs in place of the paths here."""
        for key, path in self.outputs.items():
            document = document.replace(str(path), self.storage.at(key))
        return document

    def send(self) -> None:
        """Send what the command wrote, and the list of what it refused beside it."""
        for key, path in self.outputs.items():
            for written in sorted(path.parent.iterdir()):
                there = f"{key.rpartition('/')[0]}/{written.name}"
                if written.is_dir():
                    self.storage.delete_tree(there)
                    self.storage.upload_tree(written, there)
                else:
                    self.storage.upload(written, there)

    def _input(self, key: str) -> Path:
        root = self.root / key
        if not root.exists():
            self.storage.download_tree(key, root)
        return root

    def _output(self, key: str, *, holds_data: bool) -> Path:
        path = self.root / "output" / str(len(self.outputs)) / PurePosixPath(key).name
        path.parent.mkdir(parents=True)
        if holds_data:
            self.storage.download_tree(key, path)
        self.outputs[key] = path
        return path


@contextmanager
def bring(storage: Storage, job_id: str, arguments: list[str]) -> Iterator[Brought]:
    """The command line of a job with its files on this machine; what it wrote is sent when the block ends."""
    with tempfile.TemporaryDirectory(prefix="secauditai_job_") as directory:
        brought = Brought(storage, job_id, Path(directory))
        changes = not CHANGES_ITS_DATA.isdisjoint(arguments[:2])
        for flag, word in zip(["", *arguments], arguments, strict=False):
            brought.add(flag, word, changes=changes)
        yield brought
        brought.send()
