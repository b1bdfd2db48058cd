"""What runs a workspace has, how much they take, which may go, and what would be lost with them.

A run that may still be going is never removed. Registered versions stay in MLflow with their artifacts in any case.
"""

import json
import os
import shutil
import socket
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.errors import RunError
from secauditai.mirror import address_of, mirror_of, withdraw
from secauditai.runs import FINISHED, RUNNING, Run, checkpoint_steps, fetch_history, list_runs

INTERRUPTED = "interrupted"
QUIET_SECONDS = 3600.0
"""A run whose process is gone may go on in another, or on another machine; silent for so long, it is over."""
_TAIL = 65536


@dataclass(frozen=True)
class RunState:
    """Where a run stands and what it takes, from its files alone."""

    run: Run
    name: str
    run_id: str
    kind: str
    status: str
    """That of `run.json`; interrupted when it says running and its process is gone, or silent on another machine."""
    step: int
    total_steps: int | None
    version: int | None
    sweep_id: str | None
    """The sweep that this is a trial of."""
    created: float
    size: int
    """Bytes of all files."""
    checkpoint_sizes: dict[int, int]
    """Bytes by step of the checkpoints."""
    best_step: int | None
    may_be_running: bool
    """It says running, and its process is there or its files have changed lately."""

    @property
    def unfinished(self) -> bool:
        """Whether `resume` could still go on with it."""
        return self.status != FINISHED and bool(self.checkpoint_sizes)

    def document(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "name": self.name,
            "run_id": self.run_id,
            "kind": self.kind,
            "status": self.status,
            "step": self.step,
            "total_steps": self.total_steps,
            "version": self.version,
            "sweep_id": self.sweep_id,
            "created": self.created,
            "age_seconds": round(time.time() - self.created),
            "bytes": self.size,
            "checkpoint_bytes": sum(self.checkpoint_sizes.values()),
            "run_dir": address_of(self.run.root),
        }


@dataclass(frozen=True)
class Selection:
    """Which runs to prune; a run must meet everything that is given."""

    name: str | None = None
    statuses: Collection[str] = ()
    older_than: float | None = None
    """Seconds since it was created."""
    keep_last: int = 0
    """The newest runs of each name that stay; a sweep's trials count when they are registered, as everywhere."""
    registered: bool = False
    """Whether runs with a registered version may go."""
    checkpoints_only: bool = False
    """Remove checkpoints, but the newest and the best of each run."""


@dataclass(frozen=True)
class Removal:
    """One run that would be pruned."""

    state: RunState
    paths: tuple[Path, ...]
    size: int
    lost: tuple[str, ...]
    """Sentences for people."""

    def document(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {**self.state.document(), "freed_bytes": self.size, "lost": list(self.lost)}


def read_states(workspace: Path, name: str | None = None) -> list[RunState]:
    """Every run of a workspace, or of one name, oldest first."""
    return [read_state(run) for run in list_runs(workspace, name)]


def read_state(run: Run) -> RunState:
    """Look at one run.

    Raises:
        RunError: when its `run.json` is damaged.
    """
    fetch_history(run)
    info, layout = run.info, run.layout
    steps = {step: layout.checkpoints / f"checkpoint_{step}" for step in checkpoint_steps(layout)}
    newest = steps[max(steps)] if steps else None
    status = info.status
    gone = info.process_is_gone()
    alive = info.pid is not None and info.host in (None, socket.gethostname()) and not gone
    going = status == RUNNING and (alive or time.time() - _last_change(run) < QUIET_SECONDS)
    if status == RUNNING and (gone or not going):
        status = INTERRUPTED
    return RunState(
        run=run,
        name=info.name,
        run_id=info.run_id,
        kind=info.kind,
        status=status,
        step=_last_step(layout.metrics),
        total_steps=info.total_steps,
        version=info.model_version,
        sweep_id=info.sweep_id,
        created=info.created,
        size=_size(run.root),
        checkpoint_sizes={step: _size(path) for step, path in sorted(steps.items())},
        best_step=_best_step(newest) if newest else None,
        may_be_running=going,
    )


def choose(
    states: list[RunState],
    selection: Selection,
    open_sweeps: Mapping[str, str],
    needed: Mapping[str, str],
) -> tuple[list[Removal], dict[str, str]]:
    """What a selection removes, and by run id why the others that it names stay.

    Args:
        states: all runs, oldest first.
        selection: which of them.
        open_sweeps: status by id of the sweeps that can go on.
        needed: by run id, what cannot go on without this run.
    """
    by_name: dict[str, list[RunState]] = {}
    for state in states:
        if state.sweep_id is None or state.version is not None:
            by_name.setdefault(state.name, []).append(state)
    newest = {s.run_id for runs in by_name.values() for s in runs[len(runs) - min(selection.keep_last, len(runs)) :]}
    removals: list[Removal] = []
    kept: dict[str, str] = {}
    for state in [state for state in states if _named(state, selection)]:
        reason = _going(state, open_sweeps) or _wanted(state, selection, newest, needed)
        if reason:
            kept[state.run_id] = reason
            continue
        removal = _checkpoints(state) if selection.checkpoints_only else _whole(state)
        if removal.paths:
            removals.append(removal)
    return removals, kept


def remove(workspace: Path, removal: Removal) -> None:
    """Delete what a removal names: out of sight by rename first, so that a kill in between leaves no half run.

    Raises:
        RunError: when the run has begun to go on since it was looked at.
    """
    if read_state(removal.state.run).may_be_running:
        raise RunError("this run goes on again and stays", where=str(removal.state.run.root))
    bin_ = workspace / ".pruned"
    shutil.rmtree(bin_, ignore_errors=True)  # what a killed `prune` left
    bin_.mkdir(parents=True)
    for number, path in enumerate(removal.paths):
        withdraw(path)
        if path.exists():  # of a remote workspace, not all is here
            path.rename(bin_ / str(number))
    shutil.rmtree(bin_)
    parent = removal.state.run.root.parent
    if not any(parent.iterdir()):
        parent.rmdir()


def open_sweeps(workspace: Path) -> dict[str, str]:
    """The status, by id, of every sweep that is running or can be resumed.

    Raises:
        RunError: when a ledger is damaged.
    """
    return {sweep_id: str(ledger["status"]) for sweep_id, ledger in _open_ledgers(workspace).items()}


def _open_ledgers(workspace: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in (workspace / "sweeps").glob("*/*/ledger.json"):
        try:
            ledger = json.loads(path.read_text(encoding="utf-8"))
            if ledger["status"] != FINISHED:
                found[path.parent.name] = ledger
        except (ValueError, KeyError, TypeError):
            raise RunError("damaged ledger of a sweep", where=str(path)) from None
    return found


def needed_runs(workspace: Path, states: list[RunState]) -> dict[str, str]:
    """By run id, why a run stays: what can go on needs it, as a finished fold or for its model.

    Raises:
        RunError: when the ledger of a sweep or the record of a cross-validation is damaged.
    """
    found: dict[str, str] = {}
    for sweep_id, ledger in _open_ledgers(workspace).items():
        model = Path(str(ledger.get("fixed", {}).get("model", "")))
        if model.name == "bundle":
            found[model.parent.name] = f"sweep {sweep_id} begins with its model, and is not finished"
    for state in states:
        if state.status != FINISHED and (bundle := _initial_bundle(state.run)) is not None:
            reason = f"run {state.run_id} of {state.name} begins with its model, and is not finished"
            found[bundle.parent.name] = reason
    for path in (workspace / "cross_validations").glob("*/*.json"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            reason = f"a fold of cross-validation {path.stem}, which is not finished"
            if record["finished"] is None:
                found |= {Path(run_dir).name: reason for run_dir in record["runs"].values()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError("damaged record of a cross-validation", where=str(path)) from None
    return found


def _initial_bundle(run: Run) -> Path | None:
    """The model whose heads a run takes over, if there is one and the recipe is whole."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return Path(json.loads(run.layout.recipe.read_text(encoding="utf-8"))["initial_bundle"])
    return None


def tree_size(root: Path) -> int:
    """Bytes of all files under a directory; what vanishes meanwhile counts as nothing."""
    total = 0
    for directory, _, files in os.walk(root):
        for file in files:
            try:
                total += os.lstat(os.path.join(directory, file)).st_size  # noqa: PTH118 - a hundred thousand files
            except FileNotFoundError:
                continue
    return total


def _named(state: RunState, selection: Selection) -> bool:
    if selection.name is not None and state.name != selection.name:
        return False
    if selection.statuses and state.status not in selection.statuses:
        return False
    return selection.older_than is None or time.time() - state.created >= selection.older_than


def _going(state: RunState, open_sweeps: Mapping[str, str]) -> str | None:
    """Why a run may be going on, or may go on with its sweep."""
    if state.status == RUNNING:
        return "running"
    if state.may_be_running:
        return "its files changed within the hour, so it may be running elsewhere"
    if state.sweep_id is not None and state.sweep_id in open_sweeps:
        return f"a trial of sweep {state.sweep_id}, which is {open_sweeps[state.sweep_id]}"
    return None


def _wanted(state: RunState, selection: Selection, newest: Collection[str], needed: Mapping[str, str]) -> str | None:
    """Why a selection leaves a run that it names."""
    if state.run_id in newest:
        return f"one of the {selection.keep_last} newest of {state.name}"
    if selection.checkpoints_only:
        return None
    if state.run_id in needed:
        return needed[state.run_id]
    if state.version is not None and not selection.registered:
        return f"registered as {state.name}/{state.version}; --registered includes it"
    return None


def _whole(state: RunState) -> Removal:
    lost = []
    if state.version is not None:
        lost.append(
            f"{state.name}/{state.version} stays registered and loads from MLflow, "
            "but its evaluations, history and checkpoints go"
        )
    if state.unfinished:
        total = f" of {state.total_steps}" if state.total_steps else ""
        best = f", the best so far at step {state.best_step}" if state.best_step is not None else ""
        lost.append(f"it is unfinished at step {state.step}{total}{best}, and could not be resumed any more")
    if state.sweep_id is not None:
        lost.append(f"its curve in the next summary of sweep {state.sweep_id}")
    return Removal(state, (state.run.root,), state.size, tuple(lost))


def _checkpoints(state: RunState) -> Removal:
    steps = list(state.checkpoint_sizes)
    going = [step for step in steps[:-1] if step != state.best_step]
    lost = [f"branching from steps {', '.join(map(str, going))}"] if going else []
    paths = tuple(state.run.layout.checkpoints / f"checkpoint_{step}" for step in going)
    return Removal(state, paths, sum(state.checkpoint_sizes[step] for step in going), tuple(lost))


def _size(root: Path) -> int:
    """Bytes of a directory of the workspace, in its store when that is remote."""
    mirror = mirror_of(root)
    return tree_size(root) if mirror is None else sum(file.size for file in mirror.storage.files(mirror.key(root)))


def _last_change(run: Run) -> float:
    mirror = mirror_of(run.root)
    if mirror is not None:
        return max((file.changed for file in mirror.storage.files(mirror.key(run.root))), default=0.0)
    paths = (run.layout.info, run.layout.metrics, run.layout.checkpoints, run.layout.logs, *run.layout.logs.glob("*"))
    return max(path.stat().st_mtime for path in paths if path.exists())


def _last_step(metrics: Path) -> int:
    """The step of the last whole record, without reading a long history."""
    if not metrics.exists():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _best_step(checkpoint: Path) -> int | None:
    mirror, path = mirror_of(checkpoint), checkpoint / "state.json"
    try:
        text = path.read_bytes() if mirror is None or path.exists() else mirror.read(path) or b""
        best = json.loads(text)["best_step"]
        return None if best is None else int(best)
    except (OSError, ValueError, KeyError, TypeError):
        return None
