"""Sweeps: many trainings of one configuration with search spaces; the best model is registered.

Plan, run the trials through Ray Tune, publish the best. It can be killed at any moment and resumed from the ledger.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from secauditai import runs
from secauditai.cluster import Capacity, ensure_ray, read_capacity, start_no_idle_workers
from secauditai.config.files import parse_layer
from secauditai.doctor.preflight import check_sweep
from secauditai.errors import ClusterError, ConfigError, RunError, SecAuditError
from secauditai.export.publish import imports_ahead, publish, register
from secauditai.mirror import address_of, fetch_files, mirror_of, portable, send, withdraw
from secauditai.progress import Progress, silent
from secauditai.runs import Run, RunLayout
from secauditai.tracking.connection import load_mlflow
from secauditai.tracking.runs import create_run, finish_run, log_artifacts, log_summary, reopen_run
from secauditai.tracking.store import open_store, shared_uri
from secauditai.training.lease import leased
from secauditai.training.mirrored import fetch_inputs, fetch_run, send_ended
from secauditai.training.preparation import tokenise
from secauditai.training.tracked import is_local
from secauditai.tuning.best_config import save_best_config
from secauditai.tuning.ledger import (
    ENDED,
    FAILED,
    FINISHED,
    INTERRUPTED,
    RUNNING,
    Ledger,
    Trial,
    fetch_named,
    find_sweep,
    portable_settings,
    read_ledger,
)
from secauditai.tuning.planning import ASHA, SweepPlan, SweepRequest, plan_sweep, resume_request
from secauditai.tuning.queue import TrialQueue, Watch
from secauditai.tuning.summary import write_summary
from secauditai.tuning.trial import TrialTask, check_trial

SETTLE_SECONDS = 10.0
"""How long to wait for what an earlier sweep of this process still holds."""
Notify = Callable[[str], None]


def ignore(_ledger: Ledger, _trial: Trial | None) -> None:
    """Watch nothing."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to."""

    ledger: Ledger
    max_concurrent: int
    seconds: float
    """Without Ray's start-up."""
    ray_startup_seconds: float

    def document(self) -> dict[str, Any]:
        """The JSON document of `tune`."""
        ledger, best = self.ledger, self.ledger.best
        assert best is not None
        run_dir = best.run_dir and address_of(Path(best.run_dir))
        found = {"settings": best.settings, "value": best.value, "metric": ledger.metric, "run_dir": run_dir}
        return {
            "sweep_id": ledger.sweep_id,
            "trials": [_addressed(trial) for trial in ledger.trials],
            "best": {**found, "trial_id": best.trial_id, "config": ledger.best_config, "version": ledger.version},
            "mlflow_run_id": ledger.mlflow_run_id,
            "status": ledger.status,
            "summary": address_of(ledger.layout.summary),
            "max_concurrent": self.max_concurrent,
            "training_seconds": round(sum(trial.seconds for trial in ledger.trials), 3),
            "seconds": round(self.seconds, 3),
            "ray_startup_seconds": round(self.ray_startup_seconds, 3),
        }


def _addressed(trial: Trial) -> dict[str, Any]:
    """A trial whose runs are named as they are from anywhere."""
    document = asdict(trial)
    for run in (document, *document["seeds"]):
        run["run_dir"] = run["run_dir"] and address_of(Path(run["run_dir"]))
    return document


def run_sweep(
    request: SweepRequest,
    *,
    time_budget: float | None = None,
    progress: Progress = silent,
    notify: Notify = print,
    watch: Watch = ignore,
) -> SweepResult:
    """Run all trials, register the best model and save its configuration as `NAME-best`.

    Args:
        request: what to do.
        time_budget: seconds after which trials stop at their next validation.
        progress: told how far preparation is.
        notify: told, in sentences, what a user should know.
        watch: told about every change of a trial.

    Raises:
        PreflightError: when the cluster lacks something that trials need.
        ConfigError: when there is nothing to search, or the trials do not fit the cluster.
        RunError: when no trial came to a value, with the first one's reason.
        KeyboardInterrupt: after a clean stop that was asked for by SIGINT or SIGTERM.
    """
    started = time.monotonic()
    check_sweep(request.workspace, request.address)
    plan = plan_sweep(request, progress)
    ledger = plan.new_ledger()
    with _alone(ledger):
        return _run(plan, ledger, request, started, time_budget, progress, notify, watch)


def resume_sweep(
    changes: SweepRequest,
    sweep_id: str | None,
    *,
    time_budget: float | None = None,
    progress: Progress = silent,
    notify: Notify = print,
    watch: Watch = ignore,
) -> SweepResult:
    """Go on with a sweep that was interrupted, or add trials to one; trials that ended are not run again.

    Args:
        changes: of the request: name ("" for any), workspace, number of samples and concurrency, address.
        sweep_id: None for the newest.
        time_budget: as in `run_sweep`, counted anew.
        progress: as in `run_sweep`.
        notify: as in `run_sweep`.
        watch: as in `run_sweep`.

    Raises:
        RunError: when there is no such sweep, another process runs it, or trials would go on with other code or data.
    """
    started = time.monotonic()
    ledger = find_sweep(changes.workspace, changes.name or None, sweep_id)
    request = resume_request(ledger, changes.workspace, changes)
    more = request.num_samples is not None and request.num_samples > ledger.num_samples
    if ledger.status == FINISHED and ledger.all_ended and not more:
        notify(f"Sweep {ledger.sweep_id} is complete: {len(ledger.trials)} trials, nothing is left to do")
        fetch_files(ledger.layout.summary)
        return SweepResult(ledger, 0, time.monotonic() - started, 0.0)
    with _alone(ledger):
        fetch_files(ledger.path)  # another machine may just have left it
        ledger = read_ledger(ledger.path) if ledger.path.exists() else ledger
        fetch_named(ledger.fixed)
        for trial in ledger.trials:
            if trial.status not in ENDED:
                check_trial(ledger.layout, trial.trial_id)
        check_sweep(request.workspace, request.address)
        planned = replace(request, layer={**ledger.fixed, **ledger.spaces})
        plan = replace(plan_sweep(planned, progress), fixed=ledger.fixed)
        plan.check_data(ledger)
        ledger.num_samples = plan.trials
        return _run(plan, ledger, request, started, time_budget, progress, notify, watch)


def _run(
    plan: SweepPlan,
    ledger: Ledger,
    request: SweepRequest,
    started: float,
    time_budget: float | None,
    progress: Progress,
    notify: Notify,
    watch: Watch,
) -> SweepResult:
    start_no_idle_workers()
    with _opening_tracking(request.workspace):
        cluster = ensure_ray(request.address)
    max_concurrent = _max_concurrent(plan)
    _begin(plan, ledger, request.workspace, progress)
    notify(_opening(ledger, max_concurrent))
    queue = TrialQueue(
        ledger,
        max_concurrent=max_concurrent,
        max_failures=plan.training.request.config.execution.max_failures,
        deadline=None if time_budget is None else started + time_budget,
        watch=watch,
    )
    try:
        with _stop_on_signals(queue):
            _run_trials(plan, queue, request.workspace)
        if queue.stopped_for in SIGNALS.values():
            ledger.update(status=INTERRUPTED)
            again = f"`secauditai train tune --resume {ledger.sweep_id}` goes on"
            notify(f"Stopped after {ledger.ended} of {ledger.num_samples} trials; {again}")
            raise KeyboardInterrupt
        _finish(ledger, request.workspace, queue.stopped_for, progress, notify)
    finally:
        if ledger.status == RUNNING:
            with suppress(ClusterError):  # what went wrong first is what is told
                ledger.update(status=FAILED)
        finish_run(request.workspace, ledger.mlflow_run_id, _run_status(ledger.status))
    seconds = time.monotonic() - started - cluster.startup_seconds
    return SweepResult(ledger, max_concurrent, seconds, cluster.startup_seconds)


@contextmanager
def _opening_tracking(workspace: Path) -> Iterator[None]:
    """Import MLflow and build a new workspace's database while Ray's processes start; errors are left for later."""

    def load() -> None:
        load_mlflow()
        with suppress(SecAuditError):
            if is_local(workspace):
                open_store(workspace)

    thread = threading.Thread(target=load, name="tracking")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _run_status(status: str) -> str:
    return {FINISHED: runs.FINISHED, INTERRUPTED: runs.STOPPED}.get(status, runs.FAILED)


@contextmanager
def _alone(ledger: Ledger) -> Iterator[None]:
    ledger.layout.root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(ledger.layout.lock, timeout=0), leased(ledger.layout.lease, "runs this sweep"):
            yield
    except Timeout:
        raise RunError("another process runs this sweep", where=str(ledger.layout.root), hint="Wait for it.") from None


def _max_concurrent(plan: SweepPlan) -> int:
    """Trials at a time, once the cluster has settled."""
    give_up = time.monotonic() + SETTLE_SECONDS
    while True:
        capacity: Capacity = read_capacity()
        try:
            if capacity.used_cpus == capacity.used_gpus == 0 or time.monotonic() > give_up:
                return plan.max_concurrent(capacity)
        except ConfigError:
            if time.monotonic() > give_up:
                raise
        time.sleep(0.25)


def _begin(plan: SweepPlan, ledger: Ledger, workspace: Path, progress: Progress) -> None:
    """Tokenise once for all trials, open the MLflow run above theirs, and write the ledger."""
    layout = ledger.layout
    layout.trials.mkdir(parents=True, exist_ok=True)
    layout.stop.unlink(missing_ok=True)
    withdraw(layout.stop)
    for seed in range(ledger.seeds_per_trial if plan.training.request.config.input.augment else 1):
        config = plan.training.request.config
        execution = config.execution.model_copy(update={"seed": config.execution.seed + seed})
        fixed = replace(plan.training.request, config=config.model_copy(update={"execution": execution}))
        tokenise(replace(plan.training, request=fixed), progress)
    if ledger.mlflow_run_id is None:
        kept = ("num_samples", "sampler", "scheduler", "metric", "seeds_per_trial")
        spaces = {name: str(space.plain()) for name, space in plan.spaces.items()}
        ledger.mlflow_run_id = create_run(
            workspace,
            name=f"sweep {ledger.name} {ledger.sweep_id}",
            params={**{key: getattr(ledger, key) for key in kept}, **spaces},
            tags={
                "sweep_id": ledger.sweep_id,
                "kind": "sweep",
                "dataset_hash": plan.training.dataset.content_hash,
            },
        )
    else:
        reopen_run(workspace, ledger.mlflow_run_id)
    ledger.update(status=RUNNING)


def _opening(ledger: Ledger, max_concurrent: int) -> str:
    begun = f", {ledger.ended} of them ended before" if ledger.trials else ""
    seeds = f" of {ledger.seeds_per_trial} seeds each" if ledger.seeds_per_trial > 1 else ""
    return (
        f"Sweep {ledger.sweep_id} over {', '.join(ledger.spaces)}: {ledger.num_samples} trials{seeds}{begun}, "
        f"{max_concurrent} at a time, for the best validation {ledger.metric}"
    )


def _run_trials(plan: SweepPlan, queue: TrialQueue, workspace: Path) -> None:
    ledger, distributed, mirror = queue.ledger, plan.resources.workers > 1, mirror_of(workspace)

    def build_task(trial: Trial) -> TrialTask:
        settings = {**ledger.fixed, **trial.settings}
        first = settings.get("seed", ledger.seed)
        return TrialTask(
            sweep=portable(str(ledger.layout.root), workspace),
            sweep_id=ledger.sweep_id,
            trial_id=trial.trial_id,
            name=ledger.name,
            workspace=address_of(workspace),
            tracking_uri=shared_uri(workspace) if mirror else None,
            settings=portable_settings(settings, mirror) if mirror else settings,
            seeds=[first + place for place in range(ledger.seeds_per_trial)],
            chosen=dict(trial.settings),
            metric=ledger.metric,
            higher_is_better=ledger.higher_is_better,
            grace_samples=ledger.grace_samples,
            factor=ledger.reduction_factor if ledger.scheduler == ASHA else None,
            distributed=distributed,
            parent=ledger.mlflow_run_id,
        )

    queue.look()
    if not queue.exhausted:
        from secauditai.tuning.ray_tune import run_trials

        run_trials(queue, build_task, plan.resources, imports_ahead(), distributed=distributed)


SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "asked to end"}


@contextmanager
def _stop_on_signals(queue: TrialQueue) -> Iterator[None]:
    """The first SIGINT or SIGTERM stops the trials after their next validation, the second takes its usual effect."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[signal.Signals(number)])
        queue.stop(SIGNALS[signal.Signals(number)])

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def _finish(ledger: Ledger, workspace: Path, stopped_for: str | None, progress: Progress, notify: Notify) -> None:
    """Publish the best trial's model with the sweep as its lineage, save its configuration, write the summary."""
    best = ledger.best
    reason = None if ledger.all_ended else stopped_for or "trials were interrupted too often"
    if reason is not None:
        notify(f"The sweep ends after {ledger.ended} of {ledger.num_samples} trials: {reason}")
        ledger.update(status=INTERRUPTED)
    if best is None or best.run_dir is None:
        raise _nothing_found(ledger, reason)
    run = Run(RunLayout(Path(best.run_dir)))
    trained = next(known for known in best.seeds if known.run_dir == best.run_dir)
    if ledger.published != f"{trained.run_dir}@{trained.step}":  # a trial that went on may have become better
        fetch_run(run)
        fetch_inputs(run)
        published = publish(run, workspace, register_model=False, progress=progress)
        lineage = {"sweep_id": ledger.sweep_id, "trial_id": best.trial_id, "trials": str(len(ledger.trials))}
        version = register(run, workspace, tags=lineage)
        run.update(model_version=version, summary={**run.info.summary, "metrics": published.metrics})
        send_ended(run)
        layer = parse_layer(ledger.layer, where=str(ledger.path))
        chosen = {**layer, **best.settings, "seed": trained.seed, "selection_metric": ledger.metric}
        kept = save_best_config(workspace, ledger, chosen)
        if kept is not None:
            notify(f"{ledger.best_config} was not as a sweep had left it; that one is now called {kept}")
        ledger.update(version=version, published=f"{trained.run_dir}@{trained.step}")
    progress("Writing the summary", 0, None)
    send(write_summary(ledger))
    if ledger.mlflow_run_id is not None:
        values = {f"best/{ledger.metric}": best.value, "trials": len(ledger.trials)}
        log_summary(workspace, ledger.mlflow_run_id, values, step=ledger.ended)
        log_artifacts(workspace, ledger.mlflow_run_id, [ledger.layout.summary, ledger.path])
    if reason is None:
        ledger.update(status=FINISHED)


def _nothing_found(ledger: Ledger, stopped_for: str | None) -> RunError:
    where = str(ledger.path)
    if stopped_for is not None:
        hint = f"`secauditai train tune --resume {ledger.sweep_id}` goes on."
        return RunError(f"no trial came so far that its model can be saved: {stopped_for}", where=where, hint=hint)
    reason = next((trial.error for trial in ledger.trials if trial.error), "no trial has the goal metric")
    return RunError(f"none of the {len(ledger.trials)} trials succeeded: {reason}", where=where)
