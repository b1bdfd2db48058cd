"""Several machines that work in one remote workspace: each has a cache, and so a mirror, of its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_server import S3Server, s3_server
from tracking_server import Server

from secauditai.mirror import open_mirror

NO_SERVER = "http://127.0.0.1:1"
"""A tracking URI for what asks nothing of MLflow."""


class Machines:
    """Turns this process into one machine or another."""

    def __init__(self, server: S3Server, address: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.address, self._directory, self._monkeypatch = address, directory, monkeypatch
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

    def become(self, name: str) -> None:
        """From now on, this process is that machine."""
        self._monkeypatch.setenv("XDG_CACHE_HOME", str(self._directory / name))

    def open(self, name: str) -> Path:
        """Open the workspace on a machine; its mirror there."""
        self.become(name)
        return open_mirror(self.address)


@contextlib.contextmanager
def tracked_store(directory: Path) -> Iterator[tuple[S3Server, str]]:
    """A store with a bucket `models`, and the address of an MLflow server that keeps its files in a directory."""
    tracking = Server(directory)
    tracking.start()
    try:
        with s3_server() as server:
            server.create_bucket("models")
            yield server, tracking.uri
    finally:
        tracking.stop()
