"""One machine works on a run, a sweep or a cross-validation of a remote workspace at a time: whoever does leaves signs
of life in the store.

Clocks are not compared: a machine that finds the mark of another one waits whether it changes.
"""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from secauditai.background import repeating
from secauditai.errors import ClusterError, RunError
from secauditai.mirror import Mirror, mirror_of

BEAT = 3.0
"""Seconds between two signs of life."""
SILENCE = 15.0
"""Seconds without one after which the other machine is gone."""
TRAINS, FOLLOW = "is training this run", "`secauditai train monitor` shows it."


@contextmanager
def leased(mark: Path, what: str, hint: str = "") -> Iterator[None]:
    """As `lease`, where the workspace may be local: then the locks of this machine are enough."""
    mirror = mirror_of(mark)
    if mirror is None:
        yield
        return
    with lease(mirror, mark, what, hint):
        yield


@contextmanager
def lease(
    mirror: Mirror, mark: Path, what: str = TRAINS, hint: str = FOLLOW, *, driver: str | None = None
) -> Iterator[None]:
    """Hold what a process of this machine works on in a remote workspace; processes of one machine have file locks.

    Args:
        mirror: the workspace.
        mark: the file of the signs of life.
        what: what another machine does that holds it.
        hint: where to look then.
        driver: which process drives a training, when it may be on one machine now and on another after a restart.

    Raises:
        RunError: when another machine holds it.
        ClusterError: when the store refuses or stays out of reach.
    """
    key, mine = mirror.key(mark), {"machine": f"{socket.gethostname()} {mirror.root}"}
    if driver is not None:
        mine["driver"] = driver
    found = _read(mirror, key)
    if found is not None and found.get("machine") != mine["machine"]:
        _await_silence(mirror, key, found, what, hint, driver)

    def beat() -> None:
        mirror.storage.write_bytes(key, json.dumps({**mine, "beat": time.time()}).encode())

    def beat_on() -> None:
        with suppress(ClusterError):
            beat()

    beat()
    try:
        with repeating(beat_on, BEAT, "lease"):
            yield
    finally:
        with suppress(ClusterError):  # then whoever goes on waits a moment longer
            mirror.storage.delete([key])


def _await_silence(mirror: Mirror, key: str, found: dict[str, Any], what: str, hint: str, driver: str | None) -> None:
    """Wait until another machine is gone; one that trains for the same driver has lost its peers and will end."""
    give_up = time.monotonic() + SILENCE
    while time.monotonic() < give_up:
        time.sleep(BEAT / 2)
        now = _read(mirror, key)
        if now is None:
            return
        if now != found and driver is not None and now.get("driver") == driver:
            found, give_up = now, time.monotonic() + SILENCE
        elif now != found:
            raise RunError(
                f"another machine {what}: {str(now.get('machine')).partition(' ')[0]}",
                where=mirror.storage.at(key.rpartition("/")[0]),
                hint="; ".join(filter(None, ["Wait for it, or stop it there first", hint])).rstrip(".") + ".",
            )


def _read(mirror: Mirror, key: str) -> dict[str, Any] | None:
    try:
        found = json.loads(mirror.storage.read_bytes(key))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
