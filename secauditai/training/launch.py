"""Train a run to its end: in this process or in a group of workers, attempt after attempt when ranks are lost."""

import json
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from secauditai.cluster import Cluster, ensure_ray, in_ray_job
from secauditai.data.tokens import open_token_store
from secauditai.errors import ClusterError, RunError, SecAuditError
from secauditai.progress import Progress, silent
from secauditai.runs import FAILED, RUNNING, STOPPED, Run
from secauditai.training.attempt import (
    AttemptLayout,
    await_predecessor,
    end_processes,
    read_ranks,
    step_reached,
    was_validating,
)
from secauditai.training.checkpoint import TrainState, newest_checkpoint, read_state
from secauditai.training.follow import following
from secauditai.training.loop import AfterValidation, build_plan, train_rank
from secauditai.training.losses import Kind, Loss, WorkersLost, first_line
from secauditai.training.memory import (
    budget_at,
    check_divisible,
    halved,
    is_out_of_memory,
    read_budgets,
    write_budgets,
)
from secauditai.training.mirrored import BRIEF, send_begun
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.rungs import loop_config, rule_in
from secauditai.training.stopping import StoppedBeforeTraining, StopRequest, listen_in_driver, read_stop, request_stop
from secauditai.training.validation import plan_validation

logger = logging.getLogger("secauditai.training")

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Launch:
    """How the training of a run went."""

    seconds: float
    """Wall time of training, without Ray's start-up."""
    ray_startup_seconds: float
    attempts: int
    finished: bool
    """False when it was asked to stop before the end."""
    stopped_by: str | None = None
    """Who asked: `request` (a user, a scheduler) or `sweep`."""


def launch(
    run: Run,
    *,
    address: str | None = None,
    in_process: bool = False,
    after_validation: AfterValidation | None = None,
    max_failures: int = 3,
    progress: Progress = silent,
    notify: Notify = print,
) -> Launch:
    """Train a prepared run to its end, or go on with one that was interrupted.

    Args:
        run: the run; its recipe says all the rest.
        address: the Ray cluster, when it is not this machine.
        in_process: train in this process without Ray Train, as a sweep's trial does.
        after_validation: told every validation, and may end the training there; only a `RungRule` travels to workers.
        max_failures: losses of workers survived by starting again from the newest checkpoint.
        progress: told about the global step.
        notify: told, in a sentence, about each restart, request to stop and event.

    Raises:
        RunError: when the run cannot go on, for example because the loss is no longer finite.
        ClusterError: when workers died more often than `max_failures` allows.
    """
    recipe, attempt = read_recipe(run.layout.recipe), AttemptLayout(run.layout.attempt)
    await_predecessor(attempt)
    attempt.renew()
    run.update(status=RUNNING, message=None, pid=os.getpid(), host=socket.gethostname())
    send_begun(run)
    begun = time.monotonic()
    try:
        # Connecting installs Ray's own SIGTERM handler, so ours comes behind it.
        cluster = ensure_ray(address) if not in_process and uses_worker_group(recipe, address) else None
        attempts = Attempts(run, recipe, cluster, max_failures, notify)
        with listen_in_driver(attempt, notify) as asked, following(run.layout, recipe.total_steps, progress, notify):
            attempts.run(asked, in_process=in_process, after_validation=after_validation)
    except StoppedBeforeTraining:
        pass
    except SecAuditError as error:
        with suppress(OSError):  # a full disk takes not even this
            run.update(status=FAILED, message=str(error))
        raise
    except KeyboardInterrupt:
        end_processes([(rank.pid, rank.started) for rank in read_ranks(attempt) if rank.pid != os.getpid()], 5.0)
        run.update(status=STOPPED, message="interrupted")
        raise
    state, startup, request = _newest_state(run), attempts.startup_seconds, read_stop(attempt)
    if not state.finished:
        why = "stopped by request of the sweep" if state.stopped_by == "sweep" else "stopped before the end"
        message = f"asked to stop before the end ({request.reason})" if request else why
        run.update(status=STOPPED, message=message)
    stopped_by = None if state.finished else state.stopped_by or ("request" if request else None)
    return Launch(time.monotonic() - begun - startup, startup, attempts.count, state.finished, stopped_by)


def training_finished(run: Run) -> bool:
    """Whether the newest whole checkpoint is the end of training."""
    return _newest_state(run).finished


def _newest_state(run: Run) -> TrainState:
    newest = newest_checkpoint(run.layout.checkpoints, logger.warning)
    return read_state(newest) if newest else TrainState()


def uses_worker_group(recipe: Recipe, address: str | None) -> bool:
    """Whether Ray workers do the training; otherwise this process does, in Ray Train's in-process mode."""
    return recipe.world_size > 1 or address is not None or in_ray_job()


class Attempts:
    """The attempts at one run, until it is finished, stopped, or not to be helped."""

    def __init__(self, run: Run, recipe: Recipe, cluster: Cluster | None, max_failures: int, notify: Notify) -> None:
        self._run, self._recipe, self._cluster = run, recipe, cluster
        self._max_failures, self._notify = max_failures, notify
        self._layout = AttemptLayout(run.layout.attempt)
        self.count = self._failures = 0
        self.startup_seconds = cluster.startup_seconds if cluster else 0.0

    def run(self, asked: list[StopRequest], *, in_process: bool, after_validation: AfterValidation | None) -> None:
        """Attempt until training is over or asked to stop.

        Args:
            asked: the driver's own requests, which outlive an attempt.
            in_process: see `launch`.
            after_validation: see `launch`.
        """
        while not asked:
            self.count += 1
            try:
                if in_process:
                    self._fit_here(lambda: train_rank(self._run.root, 0, 1, after_validation))
                elif self._cluster is None:
                    self._fit_here(lambda: fit_in_this_process(self._run, after_validation))
                else:
                    self._fit_in_workers(self._cluster, after_validation)
                return
            except WorkersLost as lost:
                self.restart_after(lost.loss)
                self._leave_what_is_here()
                self._layout.renew()
        request_stop(self._layout, asked[0])  # asked while ranks were lost

    def _leave_what_is_here(self) -> None:
        """Where ranks may be elsewhere, leave in the store what they go on from next; it may be away for a while."""
        if self._layout.driver.exists():
            try:
                send_begun(self._run, BRIEF)
            except ClusterError as error:
                self._notify(f"{error}; trying on")

    def _fit_in_workers(self, cluster: Cluster, after_validation: AfterValidation | None) -> None:
        from secauditai.training.workers import fit_in_workers

        config = loop_config(self._run.root, after_validation)
        self.startup_seconds += fit_in_workers(self._run, self._recipe, cluster, config)
        self._check_failure()
        stop = read_stop(self._layout)
        if stop is not None and stop.preempted and not training_finished(self._run):
            raise WorkersLost(Loss(Kind.PREEMPTED, f"{stop.reason}; a checkpoint was written first"))

    def _fit_here(self, fit: Callable[[], object]) -> None:
        try:
            fit()  # not through Ray Train in a trial of Ray Tune, where it does not run
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._check_failure()
            raise WorkersLost(Loss(Kind.OUT_OF_MEMORY, first_line(error), 0)) from None
        self._check_failure()

    def _check_failure(self) -> None:
        """Raise the error that a rank wrote down."""
        if self._layout.failure.exists():
            raise RunError(**json.loads(self._layout.failure.read_text(encoding="utf-8")))

    def restart_after(self, loss: Loss) -> None:
        """Count the loss, mend what can be mended, and say how training goes on.

        Raises:
            ClusterError: when the budget is used up.
            RunError: when a single sample does not fit into memory.
        """
        run = self._run
        if loss.kind is Kind.OUT_OF_MEMORY:
            how = f"restart with micro_batch_tokens {self._halve()}"
        elif not loss.counts:
            how = "restart elsewhere"
        else:
            self._failures += 1
            if self._failures > self._max_failures:
                raise ClusterError(
                    f"workers were lost in {self.count} attempts, the last time: {loss}",
                    where=str(run.root),
                    hint=f"See {run.layout.logs}; `secauditai train resume --model {run.info.name}` goes on.",
                )
            how = f"restart {self._failures} of {self._max_failures}"
        newest = newest_checkpoint(run.layout.checkpoints, self._notify)
        self._notify(f"{loss}; {how} from step {newest.step if newest else 0}")

    def _halve(self) -> int:
        """Halve the micro-batch budget from the step on that the ranks died in, and return it."""
        recipe, path = self._recipe, self._run.layout.memory
        step = min(step_reached(self._layout) or 1, recipe.total_steps)
        budgets = read_budgets(path)
        tokens = budget_at(budgets, step, recipe.micro_batch_tokens)
        if was_validating(self._layout):
            store = open_token_store(Path(recipe.val_store))
            check_divisible(plan_validation(recipe, store, tokens), store)
        else:
            store = open_token_store(Path(recipe.train_store))
            check_divisible(build_plan(recipe, store, tokens).micro_batches(step), store)
        write_budgets(path, halved(budgets, step, recipe.micro_batch_tokens))
        return budget_at(read_budgets(path), step, recipe.micro_batch_tokens)


def fit_in_this_process(run: Run, after_validation: AfterValidation | None) -> None:
    """One attempt in Ray Train's in-process mode."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    here = ScalingConfig(num_workers=0)
    config = loop_config(run.root, after_validation)
    TorchTrainer(_run_here, train_loop_config=config, scaling_config=here).fit()


def _run_here(config: dict[str, str]) -> None:
    import ray.train

    state = train_rank(Path(config["run_root"]), 0, 1, rule_in(config))
    if state is not None:
        ray.train.report({"global_step": state.global_step, "finished": int(state.finished)})
