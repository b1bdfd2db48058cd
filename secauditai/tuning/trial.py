"""What one trial does, in a process of its own: train the chosen settings with each seed, until it is told to stop.

All that it gets and gives is plain data. It leaves its runs in the workspace and `trials/<id>.json` in the sweep, from
which another attempt goes on. In a remote workspace it works in the mirror of its own machine.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from secauditai import runs
from secauditai.config.files import resolve_config
from secauditai.errors import ClusterError, RunError, SecAuditError
from secauditai.files import write_json
from secauditai.mirror import Mirror, fetch, fetch_files, located, mirror_of, open_mirror_once, portable, send, withdraw
from secauditai.runs import Run, RunLayout, list_runs, open_run
from secauditai.storage import PATIENCE, is_remote
from secauditai.tracking.connection import PATIENT, OutOfReachError
from secauditai.tracking.runs import create_run as create_mlflow_run
from secauditai.tracking.runs import finish_run as finish_mlflow_run
from secauditai.tracking.runs import reopen_run as reopen_mlflow_run
from secauditai.tracking.store import VARIABLE, open_store
from secauditai.training.attempt import held
from secauditai.training.checkpoint import newest_checkpoint, read_state
from secauditai.training.launch import Launch, launch
from secauditai.training.lease import leased
from secauditai.training.mirrored import BRIEF, fetch_inputs, fetch_run, send_begun, send_ended
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.request import START, TrainRequest
from secauditai.training.resume import check_versions
from secauditai.training.rungs import RungRule, asked_to_end
from secauditai.training.tracked import Tracking, is_local
from secauditai.tuning.ledger import (
    FAILED,
    FINISHED,
    INTERRUPTED,
    STOPPED,
    SweepLayout,
    TrialRun,
    fetch_named,
    settings_here,
)

logger = logging.getLogger("secauditai.tuning")

PREDECESSOR_SECONDS = 60.0
"""How long a process of the same trial may go on after whoever started it has died."""


class TrialBusyError(RunError):
    """Another process still trains this trial."""


@dataclass(frozen=True)
class TrialTask:
    """One trial to do; paths in a remote workspace are relative to it."""

    sweep: str
    """The sweep's directory."""
    sweep_id: str
    trial_id: str
    name: str
    workspace: str
    """A directory, or the address of a remote workspace."""
    settings: dict[str, Any]
    """All settings that are not the default."""
    seeds: list[int]
    chosen: dict[str, Any]
    """What the sweep chose."""
    metric: str
    higher_is_better: bool
    grace_samples: int
    factor: int | None
    """ASHA's reduction factor; None without ASHA."""
    distributed: bool
    parent: str | None
    """MLflow run of the sweep."""
    tracking_uri: str | None = None
    """Of a remote workspace, without credentials: for a machine that has none of its own."""

    def here(self) -> "TrialTask":
        """The task with paths of this machine, and what its settings name brought here.

        Raises:
            ClusterError: when the store of a remote workspace refuses or stays out of reach.
        """
        if not is_remote(self.workspace):
            return self
        if self.tracking_uri is not None:
            os.environ.setdefault(VARIABLE, self.tracking_uri)
        mirror = Mirror(open_mirror_once(self.workspace), self.workspace)
        settings = settings_here(self.settings, mirror)
        fetch_named(settings)
        return replace(self, sweep=mirror.located(self.sweep), workspace=str(mirror.root), settings=settings)

    def rule(self, batch_size: int, *, first: bool) -> RungRule:
        """When to stop; ASHA judges a trial by its first seed."""
        mirror = mirror_of(Path(self.sweep))
        return RungRule(
            self.sweep if mirror is None else mirror.portable(self.sweep),
            self.trial_id,
            self.metric,
            self.higher_is_better,
            batch_size,
            self.grace_samples,
            self.factor if first else None,
            None if mirror is None else mirror.address,
        )


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial ended; plain data."""

    status: str
    seconds: float
    """Spent in training and validation."""
    seeds: list[dict[str, Any]]
    """`TrialRun` of each seed that was trained."""
    rung: int | None = None
    error: str | None = None
    error_kind: str | None = None


def run_trial(task: TrialTask) -> TrialOutcome:
    """Train a trial, or go on with one whose process died.

    A user's error comes back in the outcome, so that it reaches the ledger as one line; what may pass by itself leaves
    the trial interrupted.
    """
    seconds, done = 0.0, list[TrialRun]()
    try:
        task = task.here()
        layout = SweepLayout(Path(task.sweep))
        with _alone(layout, task.trial_id):
            _await_tracking(Path(task.workspace))
            folder = _mlflow_folder(task)
            status, rung = FINISHED, None
            for place, seed in enumerate(task.seeds):
                if asked_to_end(layout.stop):
                    status = INTERRUPTED
                    break
                status, rung, spent, run = _run_seed(task, seed, folder, first=place == 0)
                seconds += spent
                done.append(run)
                if status != FINISHED:
                    break
            if folder != task.parent:
                finish_mlflow_run(Path(task.workspace), folder, _run_status(status))
    except SecAuditError as error:
        status = INTERRUPTED if _may_pass(error) else FAILED
        return TrialOutcome(status, seconds, _portable(done), None, str(error), type(error).__name__)
    return TrialOutcome(status, seconds, _portable(done), rung)


def _may_pass(error: SecAuditError) -> bool:
    """Whether the trial is not to blame: a server or another process is, or the store, which is where it happened."""
    return isinstance(error, OutOfReachError | TrialBusyError) or is_remote(error.where or "")


def _portable(done: list[TrialRun]) -> list[dict[str, Any]]:
    return [{**asdict(run), "run_dir": portable(run.run_dir, Path(run.run_dir))} for run in done]


def check_trial(layout: SweepLayout, trial_id: str) -> None:
    """Make sure that a trial can go on from what it has, before anything is written.

    Raises:
        RunError: when another process still trains it, or it began with other code.
    """
    with _alone(layout, trial_id):
        for run in map(_run_at, fetch_trial_runs(layout, trial_id).values()):
            if run.layout.info.exists():
                fetch(run.layout.initial)
                check_versions(open_run(run.root))


def _run_seed(
    task: TrialTask, seed: int, parent: str | None, *, first: bool
) -> tuple[str, int | None, float, TrialRun]:
    """Train one seed; return its status, the rung it was stopped at, the seconds in training, and its run."""
    config = resolve_config({**task.settings, "seed": seed})
    mark = SweepLayout(Path(task.sweep)).trials / f"{task.trial_id}.lease"
    with leased(mark, f"prepares trial {task.trial_id}"):  # what it leaves is then trained under its own
        run = _open_or_prepare(task, seed, config)
    rule = task.rule(config.optimization.batch_size, first=first)
    with held(run.layout.driver_lock):
        status, rung, seconds = _train(task, run, config.execution.max_failures, rule, parent)
    value, step = read_value(run)
    return status, rung, seconds, TrialRun(seed, str(run.root), value, step)


def _train(
    task: TrialTask, run: Run, max_failures: int, rule: RungRule, parent: str | None
) -> tuple[str, int | None, float]:
    """Train a run to its end or to where the rule stops it; its status, that rung, and the seconds in training."""
    tracking = Tracking(run, Path(task.workspace), logger.warning, parent=parent)
    if not is_local(Path(task.workspace)):
        tracking.open(PATIENT)
    started = time.monotonic()
    try:
        tracking.start()
        rule.exchange()
        if _was_stopped(run, rule):
            result = Launch(0.0, 0.0, 0, finished=False, stopped_by="sweep")
        else:
            result = launch(
                run,
                in_process=not task.distributed,
                address="auto" if task.distributed else None,
                after_validation=rule,
                max_failures=max_failures,
                notify=lambda _text: None,
            )
        seconds = time.monotonic() - started - result.ray_startup_seconds if result.attempts else 0.0
        tracking.catch_up()
        rule.exchange()
        rung = None if result.finished else rule.stopped_at()
        status = FINISHED if result.finished else INTERRUPTED if rung is None else STOPPED
        run.update(status=_run_status(status), finished=time.time())
        if result.attempts:
            run.update(summary={"seconds": seconds, "ray_startup_seconds": result.ray_startup_seconds})
        send_ended(run)
    except SecAuditError:
        with suppress(ClusterError):  # what went wrong first is what is told
            send_ended(run, BRIEF)
        raise
    finally:
        tracking.close()
        finish_mlflow_run(Path(task.workspace), run.info.mlflow_run_id, run.info.status)
    return status, rung, seconds


def _was_stopped(run: Run, rule: RungRule) -> bool:
    """Whether the rule stopped this run already, in a process that died before it could say so."""
    rung, newest = rule.stopped_at(), newest_checkpoint(run.layout.checkpoints, logger.warning)
    if rung is None or rule.factor is None or newest is None:
        return False
    state = read_state(newest)
    came_to_it = state.global_step * rule.batch_size >= rule.grace_samples * rule.factor**rung
    return state.stopped_by == "sweep" and came_to_it


def _run_status(status: str) -> str:
    """The run's word for how its trial ended."""
    return runs.FINISHED if status == FINISHED else runs.STOPPED


def read_value(run: Run) -> tuple[float | None, int]:
    """The goal metric at the best checkpoint so far, and the global step reached."""
    newest = newest_checkpoint(run.layout.checkpoints, logger.warning)
    if newest is None:
        return None, 0
    state = read_state(newest)
    return state.best_value, state.global_step


def _open_or_prepare(task: TrialTask, seed: int, config: Any) -> Run:
    """The run that an earlier attempt began and nobody has removed, or a new one."""
    known = fetch_trial_runs(SweepLayout(Path(task.sweep)), task.trial_id)
    if seed in known:
        run = _run_at(known[seed])
        fetch_run(run)
        if run.layout.info.exists():
            fetch_inputs(run)
            check_versions(run)
            return run
    _remove_half_prepared(task, known)
    request = TrainRequest(
        START,
        task.name,
        config,
        Path(task.workspace),
        task.name,
        address="auto" if task.distributed else None,
        in_process=not task.distributed,
        sweep_id=task.sweep_id,
        trial_id=task.trial_id,
    )
    run = prepare_run(plan_training(request))
    send_begun(run)  # whoever is told of it finds it whole
    path = _runs_file(SweepLayout(Path(task.sweep)), task.trial_id)
    runs_by_seed = {**known, seed: str(run.root)}
    write_json(path, {key: portable(run_dir, path) for key, run_dir in runs_by_seed.items()})
    send(path)
    return run


def _run_at(run_dir: str) -> Run:
    return Run(RunLayout(Path(run_dir)))


def fetch_trial_runs(layout: SweepLayout, trial_id: str, patience: float = PATIENCE) -> dict[int, str]:
    """As `read_trial_runs`, as the store of a remote workspace has it.

    Raises:
        ClusterError: when it refuses or stays out of reach for `patience` seconds.
    """
    fetch_files(_runs_file(layout, trial_id), patience=patience)
    return read_trial_runs(layout, trial_id)


def read_trial_runs(layout: SweepLayout, trial_id: str) -> dict[int, str]:
    """The run directory of each seed that a trial has begun to train."""
    path = _runs_file(layout, trial_id)
    try:
        raw: Mapping[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {int(seed): located(run_dir, path) for seed, run_dir in raw.items()}


def _runs_file(layout: SweepLayout, trial_id: str) -> Path:
    return layout.trials / f"{trial_id}.json"


def _remove_half_prepared(task: TrialTask, known: Mapping[int, str]) -> None:
    """Clear away what a process left that died before its run was ready."""
    for run in list_runs(Path(task.workspace), task.name):
        info = run.info
        if (info.sweep_id, info.trial_id) == (task.sweep_id, task.trial_id) and str(run.root) not in known.values():
            withdraw(run.root)
            shutil.rmtree(run.root)


def _await_tracking(workspace: Path) -> None:
    """Wait for a tracking server that is down: other trials are not to fail because it was restarted."""
    if not is_local(workspace):
        open_store(workspace, patience=PATIENT)


def _mlflow_folder(task: TrialTask) -> str | None:
    """The MLflow run above those of the seeds: the sweep's own, or one for the trial when it has several seeds."""
    if len(task.seeds) == 1 or task.parent is None:
        return task.parent
    path = SweepLayout(Path(task.sweep)).trials / f"{task.trial_id}.mlflow.json"
    fetch_files(path)
    if path.exists():
        folder = str(json.loads(path.read_text(encoding="utf-8"))["mlflow_run_id"])
        reopen_mlflow_run(Path(task.workspace), folder)
        return folder
    folder = create_mlflow_run(
        Path(task.workspace),
        name=f"{task.name} trial {task.trial_id}",
        params=task.chosen,
        tags={"sweep_id": task.sweep_id, "trial_id": task.trial_id, "kind": "trial"},
        parent=task.parent,
    )
    write_json(path, {"mlflow_run_id": folder})
    send(path)
    return folder


@contextmanager
def _alone(layout: SweepLayout, trial_id: str) -> Iterator[None]:
    """Wait until no other process works on this trial: one may outlive the sweep that started it for some seconds."""
    layout.trials.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(layout.trials / f"{trial_id}.lock", timeout=PREDECESSOR_SECONDS):
            yield
    except Timeout:
        raise TrialBusyError(
            f"another process still trains trial {trial_id}", where=str(layout.root), hint="End it, then resume."
        ) from None
