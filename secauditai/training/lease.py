"""One machine trains a run of a remote workspace at a time: whoever does leaves signs of life in the store.

Clocks are not compared: a machine that finds the mark of another one waits whether it changes.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from secauditai.errors import ClusterError, RunError
from secauditai.mirror import Mirror
from secauditai.runs import RunLayout

BEAT = 3.0
"""Seconds between two signs of life."""
SILENCE = 15.0
"""Seconds without one after which the other machine trains no more."""


@contextmanager
def lease(mirror: Mirror, layout: RunLayout) -> Iterator[None]:
    """Hold a run of a remote workspace while this process trains it; processes of one machine have `training.lock`.

    Raises:
        RunError: when another machine trains it.
        ClusterError: when the store refuses or stays out of reach.
    """
    key, mine = mirror.key(layout.root / "lease.json"), {"machine": f"{socket.gethostname()} {mirror.root}"}
    found = _read(mirror, key)
    if found is not None and found.get("machine") != mine["machine"]:
        _await_silence(mirror, key, found)
    mirror.storage.write_bytes(key, json.dumps({**mine, "beat": time.time()}).encode())
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT):
            with suppress(ClusterError):
                mirror.storage.write_bytes(key, json.dumps({**mine, "beat": time.time()}).encode())

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(ClusterError):  # then whoever goes on waits a moment longer
            mirror.storage.delete([key])


def _await_silence(mirror: Mirror, key: str, found: dict[str, Any]) -> None:
    give_up = time.monotonic() + SILENCE
    while time.monotonic() < give_up:
        time.sleep(BEAT / 2)
        now = _read(mirror, key)
        if now is None:
            return
        if now != found:
            raise RunError(
                f"another machine is training this run: {str(now.get('machine')).partition(' ')[0]}",
                where=mirror.storage.at(key.rpartition("/")[0]),
                hint="Wait for it, or stop it there first; `secauditai train monitor` shows it.",
            )


def _read(mirror: Mirror, key: str) -> dict[str, Any] | None:
    try:
        found = json.loads(mirror.storage.read_bytes(key))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
