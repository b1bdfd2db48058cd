"""Run directories: `runs/<name>/<run_id>/`, what is in them and how one is found.

A run is one training of one model. `run.json` says what it is and how it went; `metrics.jsonl` is its history.
"""

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.mirror import address_of, is_busy, located, mirror_of, portable, send

_updating = threading.Lock()
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class RunLayout:
    """The file names of a run directory."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved settings, written before anything starts."""
        return self.root / "config.yaml"

    @property
    def info(self) -> Path:
        """What the run is and how it went (`RunInfo`)."""
        return self.root / "run.json"

    @property
    def recipe(self) -> Path:
        """All that the training loop needs: settings resolved, paths, label maps, what the promise depends on."""
        return self.root / "recipe.json"

    @property
    def metrics(self) -> Path:
        """One JSON record per logged step and per validation."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One directory per checkpoint."""
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """One file per rank."""
        return self.root / "logs"

    @property
    def attempt(self) -> Path:
        """Who trains, how far each rank is, requests to stop; new for every attempt."""
        return self.root / "attempt"

    @property
    def memory(self) -> Path:
        """What out of memory has changed, and from which step on."""
        return self.root / "memory.json"

    @property
    def lock(self) -> Path:
        """Held by the process of this machine that trains the run."""
        return self.root / "training.lock"

    @property
    def driver_lock(self) -> Path:
        """Held by the command that trains the run, saves its model and registers it."""
        return self.root / "driver.lock"

    @property
    def bundle(self) -> Path:
        """The saved model."""
        return self.root / "bundle"

    @property
    def initial(self) -> Path:
        """The encoder and tokenizer that training starts from."""
        return self.root / "initial"

    @property
    def evaluations(self) -> Path:
        """Stored evaluations of the run's model."""
        return self.root / "evaluations"


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: plain data that other processes read while the run goes on."""

    run_id: str
    name: str
    kind: str
    """base | finetune | start"""
    task: str
    status: str = RUNNING
    created: float = field(default_factory=time.time)
    finished: float | None = None
    pid: int | None = None
    host: str | None = None
    """The machine of that process."""
    config_name: str | None = None
    start_layer: dict[str, Any] = field(default_factory=dict)
    """Configuration and data of a `start`, without its flags: what a later bare `start` repeats."""
    parent_run_id: str | None = None
    sweep_id: str | None = None
    trial_id: str | None = None
    """The trial of that sweep whose training this is."""
    mlflow_run_id: str | None = None
    model_version: int | None = None
    total_steps: int | None = None
    steps_per_epoch: int | None = None
    dataset: str | None = None
    dataset_hash: str | None = None
    message: str | None = None
    """Why the run stopped or failed."""
    summary: dict[str, Any] = field(default_factory=dict)
    """What a finished run printed: metrics, rates, seconds."""

    def process_is_gone(self) -> bool:
        """Whether its process was one of this machine and has ended."""
        import psutil

        here = self.host in (None, socket.gethostname())
        return here and self.pid is not None and not psutil.pid_exists(self.pid)


@dataclass(frozen=True)
class Run:
    """A run directory that exists."""

    layout: RunLayout

    @property
    def root(self) -> Path:
        """The run directory."""
        return self.layout.root

    @property
    def info(self) -> RunInfo:
        """The run as its directory says it is now."""
        return read_info(self.layout)

    def update(self, **changes: Any) -> RunInfo:
        """Change fields of `run.json` and return the new state; threads of the one process that does may overlap."""
        with _updating:
            info = replace(self.info, **changes)
            write_info(self.layout, info)
        return info


def new_id() -> str:
    """An id that sorts by the microsecond it was made in: date, time, and hexadecimal fraction and chance."""
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    fraction, chance = nanoseconds * 16**5 // 10**9, secrets.randbelow(16**3)
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(seconds))}-{fraction:05x}{chance:03x}"


def create_run(workspace: Path, name: str, *, kind: str, task: str, **more: Any) -> Run:
    """Make the directory of a new run.

    Args:
        workspace: the workspace directory.
        name: the model's name; runs of one name stand side by side.
        kind: base, finetune or start.
        task: the objective's task.
        more: further fields of `RunInfo`.
    """
    run_id = new_id()
    layout = RunLayout((workspace / "runs" / name / run_id).absolute())
    for directory in (layout.checkpoints, layout.logs):
        directory.mkdir(parents=True)
    info = RunInfo(run_id=run_id, name=name, kind=kind, task=task, pid=os.getpid(), host=socket.gethostname(), **more)
    write_info(layout, info)
    send(layout.info)
    return Run(layout)


def open_run(root: Path) -> Run:
    """Open a run directory.

    Raises:
        RunError: when it is none.
    """
    run = Run(RunLayout(root.absolute()))
    read_info(run.layout)
    return run


def write_info(layout: RunLayout, info: RunInfo) -> None:
    """Write `run.json`; in a remote workspace its path holds on every machine."""
    write_json(layout.info, {**asdict(info), "dataset": portable(info.dataset, layout.info) if info.dataset else None})


def read_info(layout: RunLayout) -> RunInfo:
    """Read `run.json`.

    Raises:
        RunError: when it is missing or damaged.
    """
    try:
        raw = json.loads(layout.info.read_text(encoding="utf-8"))
        known = {item.name for item in fields(RunInfo)}
        info = RunInfo(**{key: value for key, value in raw.items() if key in known})
        return replace(info, dataset=located(info.dataset, layout.info)) if info.dataset else info
    except FileNotFoundError:
        raise RunError("this is not a run directory, it has no run.json", where=str(layout.root)) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"damaged run.json: {error}", where=str(layout.info)) from None


def list_runs(workspace: Path, name: str | None = None) -> list[Run]:
    """All runs of a workspace, or of one name, oldest first."""
    found = [Run(RunLayout(path.parent)) for path in (workspace / "runs").glob(f"{name or '*'}/*/run.json")]
    return sorted(found, key=lambda run: (run.root.name, run.root.parent.name))


def run_names(workspace: Path) -> list[str]:
    """The names that have runs."""
    return sorted({run.root.parent.name for run in list_runs(workspace)})


def newest_run(workspace: Path, name: str) -> Run:
    """The newest of `model_runs`."""
    return model_runs(workspace, name)[-1]


def model_runs(workspace: Path, name: str) -> list[Run]:
    """The runs of a model's name, oldest first; of a sweep's trials only those whose model is registered count.

    Raises:
        RunError: when there is none.
    """
    runs = [run for run in list_runs(workspace, name) if run.info.trial_id is None or run.info.model_version]
    if not runs:
        known = run_names(workspace)
        hint = f"Runs here: {', '.join(known)}." if known else "`secauditai train start` or `finetune` makes one."
        raise RunError(f"there is no run of {name!r} in {address_of(workspace)}", hint=hint)
    return runs


def find_run(workspace: Path, run_id: str) -> Run | None:
    """The run of this id, if the workspace has it."""
    return next((run for run in list_runs(workspace) if run.root.name == run_id), None)


def goes_on_from_store(layout: RunLayout) -> bool:
    """Whether a run's history begins, on this machine, with all that the store of its remote workspace has.

    Its records have times, so that no other history begins like this one. What was not sent yet is then worth keeping.
    """
    mirror = mirror_of(layout.root)
    if mirror is None or not layout.metrics.exists():
        return False
    return layout.metrics.read_bytes().startswith(mirror.read(layout.metrics) or b"")


def fetch_history(run: Run) -> None:
    """Bring `run.json` and `metrics.jsonl` as they are now, when the workspace is remote and nobody trains here."""
    mirror, layout = mirror_of(run.root), run.layout
    if mirror is None or is_busy(run.root):  # whose command may be here with its ranks elsewhere
        return
    try:
        with FileLock(layout.lock, timeout=0):
            mirror.fetch_file(layout.info)
            if not goes_on_from_store(layout):
                mirror.fetch_file(layout.metrics)
    except Timeout:
        return


def checkpoint_steps(layout: RunLayout) -> list[int]:
    """The steps that have a checkpoint, here or in the store of a remote workspace."""
    mirror = mirror_of(layout.root)
    names = {path.parent.name for path in layout.checkpoints.glob("checkpoint_*/manifest.json")}
    if mirror is not None:
        names |= mirror.trees(layout.checkpoints)
    return sorted(int(name.removeprefix("checkpoint_")) for name in names)


class MetricsTail:
    """Reads a growing `metrics.jsonl` piece by piece; a line still being written waits for the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0

    def read(self) -> list[dict[str, Any]]:
        """The records since the last call; all of them again when a restart has cut the file short."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < self._position:
                self._position = 0
            file.seek(self._position)
            lines = file.read().split(b"\n")
        try:
            records = [json.loads(line) for line in lines[:-1]]
        except ValueError:  # cut short by a restart and grown again since the last look
            if self._position == 0:
                raise
            self._position = 0
            return self.read()
        self._position += sum(len(line) + 1 for line in lines[:-1])
        return records


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All records of `metrics.jsonl`; [] when there is none yet."""
    return MetricsTail(path).read()
