"""The ledger of a sweep: our own JSON record of what it is and of every trial, which outlives Ray.

It is written before a trial starts and after it ends. `--resume` needs nothing else but the trials' own directories.
In a remote workspace each change is sent, and paths are relative to the workspace.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from secauditai.config.files import parse_layer, spaces_of
from secauditai.config.spaces import Space
from secauditai.errors import RunError
from secauditai.files import write_json
from secauditai.mirror import Mirror, address_of, fetch_once, mirror_of, send, try_send

VERSION = 2
RUNNING, FINISHED, STOPPED, INTERRUPTED, FAILED = "running", "finished", "stopped", "interrupted", "failed"
ENDED = (FINISHED, STOPPED, FAILED)
"""Trials that are never run again."""
PATHS = ("data", "model")
"""Settings that may name a directory."""
KEPT = ("cache/", "runs/")
"""What a portable path of the workspace begins with, and nothing else that these settings may name."""


@dataclass(frozen=True)
class SweepLayout:
    """The file names of a sweep directory, `sweeps/<name>/<sweep_id>/`."""

    root: Path

    @property
    def ledger(self) -> Path:
        """What the sweep is, and every trial."""
        return self.root / "ledger.json"

    @property
    def lock(self) -> Path:
        """Held by the process that runs the sweep."""
        return self.root / ".lock"

    @property
    def lease(self) -> Path:
        """In a remote workspace: signs of life of the machine that runs the sweep."""
        return self.root / "lease.json"

    @property
    def stop(self) -> Path:
        """While it exists, every trial stops after its next validation."""
        return self.root / "stop"

    @property
    def rungs(self) -> Path:
        """What ASHA decided, one file per rung and trial."""
        return self.root / "rungs"

    @property
    def trials(self) -> Path:
        """Which runs belong to which trial, one file per trial."""
        return self.root / "trials"

    @property
    def ray(self) -> Path:
        """Ray Tune's own files, while the sweep runs."""
        return self.root / "ray"

    @property
    def summary(self) -> Path:
        """The page about the sweep."""
        return self.root / "summary.html"


@dataclass(frozen=True)
class TrialRun:
    """One training of a trial: one seed."""

    seed: int
    run_dir: str
    value: float | None = None
    step: int = 0
    """Global steps trained."""


@dataclass(frozen=True)
class Trial:
    """One trial, running or ended."""

    trial_id: str
    settings: dict[str, Any]
    """What the sweep chose."""
    value: float | None = None
    """The goal metric on the validation split, at the best checkpoint; the mean over seeds. None when undefined."""
    run_dir: str | None = None
    """The run with the best value."""
    error: str | None = None
    seconds: float = 0.0
    """Spent in training and validation."""
    status: str = RUNNING
    """running | finished | stopped (by ASHA) | interrupted (can go on) | failed"""
    error_kind: str | None = None
    """ConfigError, DataError, …; `TrialDied` when its process did, `TrialStopped` when that was asked to stop."""
    deaths: int = 0
    """How often its process died, or ended it though the sweep went on."""
    step: int = 0
    """Global steps of its first seed."""
    rung: int | None = None
    """Where ASHA stopped it, from 0."""
    seeds: tuple[TrialRun, ...] = ()

    @property
    def number(self) -> int:
        """Its place in the sweep, from 0."""
        return int(self.trial_id)


@dataclass
class Ledger:
    """A sweep, saved after each change."""

    path: Path
    sweep_id: str
    name: str
    """Configuration, and the name its best model is registered by."""
    metric: str
    higher_is_better: bool
    layer: dict[str, Any] = field(default_factory=dict)
    """Settings as the user gave them, spaces as they stand in a file."""
    fixed: dict[str, Any] = field(default_factory=dict)
    """Settings that all trials share, resolved once."""
    data: dict[str, str] = field(default_factory=dict)
    """Digests of the samples and the splits that trials train on; {} in ledgers from before they were noted."""
    num_samples: int = 0
    sampler: str = "random"
    scheduler: str = "none"
    reduction_factor: int = 3
    grace_samples: int = 0
    """Samples seen by the first rung."""
    seeds_per_trial: int = 1
    seed: int = 0
    created: float = field(default_factory=time.time)
    status: str = RUNNING
    """running | finished | interrupted | failed"""
    mlflow_run_id: str | None = None
    best_config: str | None = None
    best_digest: str | None = None
    """Of that configuration's file as the sweep wrote it."""
    version: int | None = None
    """Registered version of the best model."""
    published: str | None = None
    """`<run directory>@<global step>` that version was made from."""
    trials: list[Trial] = field(default_factory=list)
    unsent: bool = field(default=False, compare=False, repr=False)
    """Whether the store of a remote workspace lacks the last change; no part of the file."""

    @property
    def layout(self) -> SweepLayout:
        """The sweep's directory."""
        return SweepLayout(self.path.parent)

    @property
    def spaces(self) -> dict[str, Space]:
        """The search spaces."""
        return spaces_of(parse_layer(self.layer, where=str(self.path)))

    def put(self, trial: Trial) -> Trial:
        """Add a trial, or replace the one of its id, and save; the next change makes up for a store that is away."""
        others = [known for known in self.trials if known.trial_id != trial.trial_id]
        self.trials = sorted([*others, trial], key=lambda known: known.trial_id)
        self._write()
        self.unsent = not try_send(self.path)
        return trial

    def trial(self, trial_id: str) -> Trial:
        """The trial of this id."""
        return next(trial for trial in self.trials if trial.trial_id == trial_id)

    def update(self, **changes: Any) -> None:
        """Change fields and save."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.save()

    def save(self) -> None:
        """Write the ledger, whole or not at all, and leave it in the store of a remote workspace.

        Raises:
            ClusterError: when the store refuses or stays out of reach.
        """
        self._write()
        send(self.path)
        self.unsent = False

    def _write(self) -> None:
        document, mirror = {"version_of_format": VERSION, **asdict(self)}, mirror_of(self.path)
        del document["path"], document["unsent"]
        if mirror is not None:
            document = _with_paths(document, mirror.portable)
            document["fixed"] = portable_settings(document["fixed"], mirror)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, document)

    @property
    def ended(self) -> int:
        """Trials that will not run again."""
        return sum(trial.status in ENDED for trial in self.trials)

    @property
    def all_ended(self) -> bool:
        """Whether no trial is left to run."""
        return self.ended >= self.num_samples

    @property
    def best(self) -> Trial | None:
        """The trial with the best value, among those that came to their end if any did; the earlier of equals.

        One that was cut off in the middle of its training has no model to save.
        """
        known = [trial for trial in self.trials if trial.value is not None and trial.run_dir is not None]
        known = [trial for trial in known if trial.status != INTERRUPTED or trial.error is None]
        known = [trial for trial in known if trial.status == FINISHED] or known
        sign = 1.0 if self.higher_is_better else -1.0
        return max(known, key=lambda trial: sign * (trial.value or 0.0), default=None)


def read_ledger(path: Path) -> Ledger:
    """Open a saved ledger.

    Raises:
        RunError: when it is missing, damaged or of another version.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("version_of_format") != VERSION:
            raise ValueError("another version of SecAuditAI wrote it")
        if (mirror := mirror_of(path)) is not None:
            document = _with_paths(document, mirror.located)
            document["fixed"] = settings_here(document["fixed"], mirror)
        document["trials"] = [_read_trial(trial) for trial in document["trials"]]
        return Ledger(path=path, **document)
    except FileNotFoundError:
        raise RunError("this is not a sweep directory, it has no ledger.json", where=str(path.parent)) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"damaged ledger: {error}", where=str(path)) from None


def _with_paths(document: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A ledger's document with the directories of runs changed."""

    def in_run(run: dict[str, Any]) -> dict[str, Any]:
        return {**run, "run_dir": change(run["run_dir"])} if run["run_dir"] else run

    trials = [{**in_run(trial), "seeds": [in_run(run) for run in trial["seeds"]]} for trial in document["trials"]]
    run_dir, at, step = (document["published"] or "").rpartition("@")
    return {**document, "trials": trials, "published": f"{change(run_dir)}{at}{step}" or None}


def portable_settings(settings: Mapping[str, Any], mirror: Mirror) -> dict[str, Any]:
    """Settings that another machine can take: what they name in the workspace is relative to it."""
    return {key: mirror.portable(value) if _is_path(key, value) else value for key, value in settings.items()}


def settings_here(settings: Mapping[str, Any], mirror: Mirror) -> dict[str, Any]:
    """The reverse of `portable_settings`."""
    return {
        key: mirror.located(value) if _is_path(key, value) and value.startswith(KEPT) else value
        for key, value in settings.items()
    }


def fetch_named(settings: Mapping[str, Any]) -> None:
    """Bring the data and the model that settings name, when they lie in a remote workspace."""
    for key, value in settings.items():
        if _is_path(key, value):
            fetch_once(Path(value))


def _is_path(key: str, value: Any) -> bool:
    return key in PATHS and isinstance(value, str)


def _read_trial(raw: Mapping[str, Any]) -> Trial:
    known = {item.name for item in fields(Trial)}
    trial = Trial(**{key: value for key, value in raw.items() if key in known})
    return replace(trial, seeds=tuple(TrialRun(**run) for run in raw.get("seeds", ())))


def list_sweeps(workspace: Path, name: str | None = None) -> list[Path]:
    """The directories of all sweeps, or of those of one configuration, oldest first."""
    found = (workspace / "sweeps").glob(f"{name or '*'}/*/ledger.json")
    return sorted((path.parent for path in found), key=lambda root: root.name)


def find_sweep(workspace: Path, name: str | None, sweep_id: str | None) -> Ledger:
    """The sweep of this id, or the newest.

    Raises:
        RunError: when there is none.
    """
    roots = list_sweeps(workspace, name)
    chosen = [root for root in roots if sweep_id in (None, root.name)]
    if not chosen:
        what = f"sweep {sweep_id!r}" if sweep_id else "sweep"
        of = f" of {name}" if name else ""
        known = ", ".join(root.name for root in roots[-3:])
        hint = f"The newest here: {known}." if known else "`secauditai train tune --config NAME` starts one."
        raise RunError(f"there is no {what}{of} in {address_of(workspace)}", hint=hint)
    return read_ledger(chosen[-1] / "ledger.json")
