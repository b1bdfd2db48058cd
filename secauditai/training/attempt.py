"""One attempt at a run: which processes are its ranks, how far each came, how it ended.

The files of the attempt in progress, or of the last one, are in `attempt/` of the run directory.
"""

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from secauditai.errors import RunError, SecAuditError
from secauditai.files import write_json

VALIDATING = "validating"
"""What stands behind the step of a rank that is through with it."""
CLOCK_SLACK = 2.0
"""Seconds by which two readings of one process's start may differ."""


@dataclass(frozen=True)
class AttemptLayout:
    """The file names of an attempt."""

    root: Path

    @property
    def ready(self) -> Path:
        """Exists as soon as a rank runs: Ray has started up."""
        return self.root / "ready"

    @property
    def failure(self) -> Path:
        """The user's error that ended it."""
        return self.root / "failure.json"

    @property
    def stop(self) -> Path:
        """Exists when training should stop after the step; says why."""
        return self.root / "stop.json"

    @property
    def reservation(self) -> Path:
        """Id of the workers' placement group, which a dead controller leaves behind."""
        return self.root / "placement_group"

    @property
    def driver(self) -> Path:
        """Which process drives the attempt, where ranks may be elsewhere (`elsewhere.py`); the same on every node."""
        return self.root / "driver"

    @property
    def brought(self) -> Path:
        """For which group of workers the run was brought to this node."""
        return self.root / "brought"

    def rank(self, index: int) -> Path:
        """Who a rank is (`RankRecord`)."""
        return self.root / f"rank_{index}.json"

    def step(self, index: int) -> Path:
        """The step that a rank works on, and whether it validates after it."""
        return self.root / f"rank_{index}.step"

    def hang(self, index: int) -> Path:
        """Where a rank stood when it made no progress any more (`Hang`)."""
        return self.root / f"hang_{index}.json"

    def renew(self) -> None:
        """Forget the last attempt."""
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)


class StoppedByError(Exception):
    """The rank ended with a user's error, which is in `failure.json`: the group must end, or its peers wait forever."""


@contextlib.contextmanager
def held(lock_file: Path, patience: float = 0.0) -> Iterator[None]:
    """Be the only process that does with a run what a lock file in its directory stands for, until it ends or dies.

    Raises:
        RunError: when another process still does after `patience` seconds.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=patience)
    except Timeout:
        where, hint = str(lock_file.parent), "`secauditai train monitor` shows it."
        raise RunError("another process is training this run", where=where, hint=hint) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class RankRecord:
    """One process of an attempt."""

    index: int
    world_size: int
    pid: int
    started: float
    """Start of the process, seconds since the epoch: a pid alone may be somebody else's by now."""
    host: str
    node: str | None
    """Ray's node id, in a worker group."""
    kernel_kills: int
    """Processes that this machine's kernel had killed for want of memory before."""

    def describe(self) -> str:
        """In words, for messages."""
        return f"rank {self.index} (pid {self.pid} on {self.host})"

    @property
    def is_here(self) -> bool:
        """Whether it runs, or ran, on this machine."""
        return self.host == socket.gethostname()


@dataclass(frozen=True)
class Hang:
    """A rank that made no progress for too long."""

    index: int
    step: int
    seconds: float
    waiting: bool
    """Whether it was waiting for other ranks, so that it is not the one to blame."""
    frames: tuple[str, ...]
    """`file:line in function` of the training thread, innermost first."""


def write_failure(layout: AttemptLayout, error: SecAuditError) -> None:
    """Note the user's error that ends an attempt, for `launch` to raise."""
    write_json(layout.failure, {"message": error.message, "where": error.where, "hint": error.hint})


def record_rank(layout: AttemptLayout, index: int, world_size: int, node: str | None) -> RankRecord:
    """Write down who this process is in the attempt."""
    process = psutil.Process()
    record = RankRecord(
        index, world_size, process.pid, process.create_time(), socket.gethostname(), node, kernel_memory_kills()
    )
    layout.root.mkdir(parents=True, exist_ok=True)
    write_json(layout.rank(index), asdict(record))
    if not layout.ready.exists():  # ranks of a group that grows later are no start of training
        layout.ready.touch()
    return record


def read_ranks(layout: AttemptLayout) -> list[RankRecord]:
    """The ranks that have begun, by index."""
    return [RankRecord(**record) for record in _read_all(layout.root, "rank_*.json")]


def read_hangs(layout: AttemptLayout) -> list[Hang]:
    """The ranks that found themselves without progress, by index."""
    return [Hang(**{**record, "frames": tuple(record["frames"])}) for record in _read_all(layout.root, "hang_*.json")]


def _read_all(root: Path, pattern: str) -> list[dict[str, Any]]:
    records = []
    for path in root.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # a new attempt has just begun
            records.append(json.loads(path.read_text(encoding="utf-8")))
    return sorted(records, key=lambda record: record["index"])


def step_reached(layout: AttemptLayout) -> int | None:
    """The step that the ranks were working on last; None before the first."""
    return max((step for step, _ in _places(layout)), default=None)


def was_validating(layout: AttemptLayout) -> bool:
    """Whether the last that the ranks were working on was a validation."""
    return max(_places(layout), default=(0, False))[1]


def _places(layout: AttemptLayout) -> list[tuple[int, bool]]:
    """The step of each rank, and whether it was validating after it."""
    places = []
    for path in layout.root.glob("rank_*.step"):
        with contextlib.suppress(FileNotFoundError):  # a new attempt has just begun
            match path.read_text(encoding="ascii").split():
                case [step, *doing] if step.isdigit():
                    places.append((int(step), doing == [VALIDATING]))
    return places


def running_here(ranks: list[RankRecord]) -> list[RankRecord]:
    """Those ranks whose process still runs on this machine."""
    return [rank for rank in ranks if rank.is_here and _process(rank.pid, rank.started) is not None]


def end_processes(processes: list[tuple[int, float]], patience: float) -> list[int]:
    """Kill processes of this machine, given by pid and start; return the pids that are still there after `patience`."""
    found = [process for pid, started in processes if (process := _process(pid, started)) is not None]
    for process in found:
        process.kill()
    _, alive = psutil.wait_procs(found, timeout=patience)
    return [process.pid for process in alive]


def await_predecessor(layout: AttemptLayout, patience: float = 15.0) -> None:
    """Wait until the ranks of an earlier driver are gone: they die a few seconds after it.

    Raises:
        RunError: when they stay, so that somebody else is training this run.
    """
    deadline = time.monotonic() + patience
    while alive := [rank for rank in running_here(read_ranks(layout)) if rank.pid != psutil.Process().pid]:
        if time.monotonic() > deadline:
            raise RunError(
                f"this run is being trained by another process: {alive[0].describe()}",
                where=str(layout.root.parent),
                hint="Wait for it, or stop it first.",
            )
        time.sleep(0.1)


def _process(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < CLOCK_SLACK and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def kernel_memory_kills() -> int:
    """Processes that this machine's kernel has killed for want of memory since it started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
