"""A control group with a limit on memory: the kernel kills who goes beyond it, as it does when a machine is full."""

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

CONTROL_GROUPS = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(mebibytes: int) -> Iterator[Path]:
    """Make a control group; a process joins by writing its pid to the path yielded. Needs root, as small disks do.

    Memory that a process has when it joins does not count.
    """
    if os.geteuid() != 0:
        pytest.skip("making a control group needs root")
    unified = (CONTROL_GROUPS / "cgroup.controllers").exists()
    parent = CONTROL_GROUPS if unified else CONTROL_GROUPS / "memory"
    if unified:
        (parent / "cgroup.subtree_control").write_text("+memory")
    group = parent / f"test-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        (group / ("memory.max" if unified else "memory.limit_in_bytes")).write_text(str(mebibytes * 2**20))
        swap = group / "memory.swap.max"
        if swap.exists():
            swap.write_text("0")
        yield group / "cgroup.procs"
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):  # it has just ended
                (parent / "cgroup.procs").write_text(pid)
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a control group; a process that has just left or ended keeps it busy for a moment."""
    give_up = time.monotonic() + 30
    while True:
        try:
            group.rmdir()
            break
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > give_up:
                raise
        time.sleep(0.1)
