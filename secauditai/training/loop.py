"""The training loop: the same code in this process, in Ray workers, after a restart and on resume.

It reads the run directory, finds the newest whole checkpoint, and goes on from there to the end.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secauditai.data.plan import BatchPlan
from secauditai.data.tokens import TokenStore, open_token_store
from secauditai.errors import RunError, SecAuditError
from secauditai.runs import RunLayout
from secauditai.training.attempt import AttemptLayout, write_failure
from secauditai.training.checkpoint import TrainState, load_checkpoint, newest_checkpoint
from secauditai.training.goal import is_better, undefined_goal
from secauditai.training.health import NON_FINITE, Finding, Health, non_finite_validation
from secauditai.training.journal import Journal, open_journal
from secauditai.training.memory import budget_at, halved, read_budgets, write_budgets
from secauditai.training.model import build_model
from secauditai.training.objectives import build_objective, sampling_classes
from secauditai.training.optimizer import build_optimizer
from secauditai.training.rank import Rank, open_rank
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.recorder import Speed
from secauditai.training.step import OutOfMemory, Stepper, StepResult
from secauditai.training.stopping import StopCheck, stop_check
from secauditai.training.validation import Validator
from secauditai.training.writer import name_of_newest

logger = logging.getLogger("secauditai.training")

AfterValidation = Callable[[int, Mapping[str, float]], bool]
"""What a sweep passes to follow one of its trials: called with the global step and the validation metrics, right after
they are recorded; True asks the loop to stop there. The state is saved first, with `stopped_by` "sweep", so that the
trial can be continued. A validation that is redone after a restart is told again."""


def train_rank(
    run_root: Path,
    index: int,
    world_size: int,
    after_validation: AfterValidation | None = None,
    *,
    node: str | None = None,
    preempted: Callable[[], bool] = lambda: False,
    pass_on: Callable[[], None] = lambda: None,
) -> TrainState | None:
    """Train to the end, to early stopping or to a stop request, as one rank of the run in this directory.

    Args:
        run_root: the run directory.
        index: which rank this is.
        world_size: how many there are.
        after_validation: see `AfterValidation`; the leading rank asks it.
        node: Ray's id of this node, in a worker group.
        preempted: tells whether this process will soon be taken away.
        pass_on: see `open_rank`.

    Returns:
        The state at the end; None after a user's error, which is in the attempt's `failure.json`.
    """
    layout = RunLayout(run_root)
    recipe, attempt = read_recipe(layout.recipe), AttemptLayout(layout.attempt)
    with (
        open_rank(recipe, layout, index, world_size, node, pass_on) as rank,
        stop_check(attempt, index, preempted) as stop,
    ):
        try:
            return Loop(recipe, layout, rank, after_validation).run(stop)
        except SecAuditError as error:
            logger.error("stopped: %s", error)
            try:
                write_failure(attempt, error)
            except OSError:  # a full disk takes not even this: the error must go by itself
                raise error from None
            return None


def build_plan(recipe: Recipe, store: TokenStore, micro_batch_tokens: int) -> BatchPlan:
    """The batch plan of a run under a micro-batch budget."""
    return BatchPlan(
        lengths=store.lengths,
        windowing=recipe.windowing,
        seed=recipe.seed,
        batch_size=recipe.optimization.batch_size,
        micro_batch_tokens=micro_batch_tokens,
        classes=sampling_classes(recipe, store),
    )


class Loop:
    """One rank's walk from its newest checkpoint to the end of the run."""

    def __init__(
        self, recipe: Recipe, layout: RunLayout, rank: Rank, after_validation: AfterValidation | None = None
    ) -> None:
        self.recipe, self.layout, self.rank, self.after_validation = recipe, layout, rank, after_validation
        self.store = open_token_store(Path(recipe.train_store))
        self.model: nn.Module = build_model(recipe).to(rank.device)
        self.optimizer = build_optimizer(self.model, recipe.optimization, recipe.learning_rate)
        objective = build_objective(recipe, self.store)
        self.stepper = Stepper(recipe, rank, self.model, self.optimizer, objective, self.store, self._accepts)
        self.validator = Validator(recipe, rank, self.model)
        self.state = TrainState(micro_batch_tokens=recipe.micro_batch_tokens)
        self.budgets = read_budgets(layout.memory)
        self.health = Health(recipe.health, self.state.health)
        self.speed = Speed()
        self.journal: Journal | None = None
        """Of the leading rank."""

    def run(self, stop: StopCheck) -> TrainState:
        """Train on, and return the state at the end.

        Raises:
            RunError: when training or writing cannot go on.
        """
        with ExitStack() as stack:
            fresh = not self._continue_from_newest()
            if self.rank.leads:
                self.journal = stack.enter_context(open_journal(self.recipe, self.layout, self.state))
            self.rank.wait()  # before the first step is begun: the leading rank may have to wait for its lock
            self._note_world_size()
            if fresh:
                self._save()
            plan = self._plan()
            self.model.train()
            while not self._ended():
                step = self.state.global_step + 1
                self.rank.pulse.begin(step)
                if self._budget() != self.state.micro_batch_tokens:
                    plan = self._resize()
                try:
                    result = self.stepper.run(plan, step, stop=stop.wanted() or self._blocked())
                except OutOfMemory:
                    self._shrink()
                    continue
                self._after_step(plan, result)
            if self.state.stopped_by is not None:
                logger.info("asked to stop at step %d (%s)", self.state.global_step, self.state.stopped_by)
            if self.journal is not None:
                self.journal.settle()
        return self.state

    def _ended(self) -> bool:
        state = self.state
        return state.finished or state.stopped_by is not None or state.global_step >= self.recipe.total_steps

    def _blocked(self) -> bool:
        """Whether this rank cannot write any more; all ranks then stop together, after one more step."""
        return self.journal is not None and self.journal.failed

    def _continue_from_newest(self) -> bool:
        """Go on from the newest checkpoint; tell whether there was one."""
        newest = newest_checkpoint(self.layout.checkpoints, logger.warning)
        self._agree_on(newest.step if newest else -1)
        if newest is None:
            return False
        self.state = replace(load_checkpoint(newest, self.model, self.optimizer), stopped_by=None)
        self.validator.resize(self.state.micro_batch_tokens)
        self.health = Health(self.recipe.health, self.state.health)
        logger.info("continuing from %s", newest.root.name)
        return True

    def _agree_on(self, step: int) -> None:
        """Make sure that all ranks go on from the same step, and that none writes before all have looked."""
        sums = torch.tensor([step, step * step], dtype=torch.int64, device=self.rank.device)
        self.rank.sum(sums)
        if sums.tolist() != [step * self.rank.world_size, step * step * self.rank.world_size]:
            raise RunError(
                "the workers see different checkpoints",
                where=str(self.layout.checkpoints),
                hint="The workspace must be a directory that all nodes share, or on an object store.",
            )

    def _plan(self) -> BatchPlan:
        return build_plan(self.recipe, self.store, self.state.micro_batch_tokens)

    def _after_step(self, plan: BatchPlan, result: StepResult) -> None:
        state, recipe = self.state, self.recipe
        state.global_step += 1
        step = state.global_step
        self.speed.add(result.samples, result.tokens)
        self._judge_step(plan, step, result)
        last = step == recipe.total_steps
        if step % recipe.log_interval == 0 or step == 1 or last:
            values = {"loss": result.loss, "learning_rate": result.learning_rate, "gradient_norm": result.gradient_norm}
            self._record("train", values | self.speed.take() if result.updated else {"skipped": 1.0})
        improved = self._validate() if step % recipe.eval_interval == 0 or last else False
        state.finished = last or (0 < recipe.early_stopping <= state.stale_validations)
        if result.stop and not state.finished:
            state.stopped_by = "request"
        if improved or state.finished or state.stopped_by or (self._is_sound() and self._is_due(step)):
            self._save()

    def _is_sound(self) -> bool:
        """Whether the newest step could be made; while steps are skipped the weights may be of no use."""
        return self.health.skipped == 0

    def _is_due(self, step: int) -> bool:
        return self.journal is not None and self.journal.due(step)

    def _validate(self) -> bool:
        """Measure the validation split; tell whether it is the best so far."""
        self.rank.pulse.begin(self.state.global_step, validating=True)
        found = self.validator.run()
        self.speed.pause(found.seconds)
        if found.broken:
            self._tell(non_finite_validation(self.state.global_step, found.broken))
        metrics = found.metrics
        self._record("val", metrics | {"seconds": round(found.seconds, 3)})
        for finding in self.health.after_validation(self.state.global_step, found.decided):
            self._tell(finding)
        self.state.health = self.health.state()
        if self.after_validation is not None and self._asked_to_stop(self.after_validation, metrics):
            self.state.stopped_by = "sweep"
        goal, state = self.recipe.selection_metric, self.state
        if state.best_step is None and goal not in metrics:
            self._tell(undefined_goal(goal))
        if is_better(goal, metrics, state):
            state.best_value, state.best_loss = metrics.get(goal), metrics.get("loss")
            state.best_step, state.stale_validations = state.global_step, 0
            return True
        self.state.stale_validations += 1
        return False

    def _asked_to_stop(self, after_validation: AfterValidation, metrics: Mapping[str, float]) -> bool:
        """Ask once, on the leading rank, and tell the others."""
        answer = torch.zeros(1, device=self.rank.device)
        if self.rank.leads:
            answer += float(after_validation(self.state.global_step, metrics))
        self.rank.sum(answer)
        return bool(answer.item())

    def _accepts(self, loss: float, norm: float) -> bool:
        return self.health.accepts(loss, norm)

    def _judge_step(self, plan: BatchPlan, step: int, result: StepResult) -> None:
        def samples() -> list[str]:
            return list(self.store.samples.column("id").take(plan.samples(step)).to_pylist())

        finding = self.health.after_step(step, result.loss, result.gradient_norm, samples)
        self.state.health = self.health.state()
        if finding is not None:
            self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        """Log and record what the watch over the run's health found.

        Raises:
            RunError: when the run must not go on.
        """
        logger.warning("step %d: %s; %s", self.state.global_step, finding.message, finding.values)
        self._record("event", finding.record())
        if finding.stop is not None:
            raise finding.error(self._last_good(finding))

    def _last_good(self, finding: Finding) -> str:
        """The newest checkpoint of use, once the leading rank has written what is on its way; all ranks ask together.

        The last step that was made has shown that the loss of the weights before it is finite, not of those it left.
        """
        if self.journal is not None:
            self.journal.settle()
        self.rank.sum(torch.zeros(1, device=self.rank.device))
        made = self.state.global_step - self.health.skipped
        return name_of_newest(self.layout.checkpoints, until=max(0, made - 1) if finding.event == NON_FINITE else made)

    def _budget(self) -> int:
        """The micro-batch budget of the next step."""
        return budget_at(self.budgets, self.state.global_step + 1, self.recipe.micro_batch_tokens)

    def _shrink(self) -> None:
        """Halve the micro-batch budget from the next step on; it is redone with the same samples."""
        step, initial = self.state.global_step + 1, self.recipe.micro_batch_tokens
        self.budgets = halved(self.budgets, step, initial)
        if self.rank.leads:
            write_budgets(self.layout.memory, self.budgets)

    def _resize(self) -> BatchPlan:
        """Go over to the budget in force."""
        self.state.micro_batch_tokens = self._budget()
        why = "out of memory" if self.budgets else "as asked"
        message = f"{why}: going on with micro_batch_tokens {self.state.micro_batch_tokens}"
        logger.warning(message)
        event = {
            "event": why.replace(" ", "_"),
            "micro_batch_tokens": self.state.micro_batch_tokens,
            "message": message,
        }
        self._record("event", event)
        self.validator.resize(self.state.micro_batch_tokens)
        return self._plan()

    def _note_world_size(self) -> None:
        """Tell when the run goes on with another number of workers than before."""
        before, now = self.state.world_size, self.rank.world_size
        self.state.world_size = now
        if before not in (0, now):
            message = f"going on with {now} workers instead of {before}"
            logger.warning(message)
            self._record("event", {"event": "world_size", "before": before, "now": now, "message": message})

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.journal is not None:
            self.journal.record(kind, self.state.global_step, values)

    def _save(self) -> None:
        """Write a checkpoint; only the leading rank does, all ranks hold the same weights."""
        if self.journal is not None:
            self.journal.save(self.model, self.optimizer, self.state)
            self.rank.pulse.beat()
