"""One optimizer step: forward and backward over this rank's micro-batches, one all-reduce, clip, update."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secauditai.data.inputs import build_inputs
from secauditai.data.plan import BatchPlan, MicroBatch, assign
from secauditai.data.tokens import TokenStore
from secauditai.training.memory import check_divisible, is_out_of_memory
from secauditai.training.objectives import Batch, Objective
from secauditai.training.optimizer import FlatGradient, learning_rate_at
from secauditai.training.rank import Rank, derive_seed
from secauditai.training.recipe import Recipe

logger = logging.getLogger("secauditai.training")

# What travels behind the gradient in the one all-reduce of a step.
_LOSS, _STOP, _OUT_OF_MEMORY = range(3)
N_EXTRAS = 3

Accepts = Callable[[float, float], bool]
"""(loss, gradient norm before clipping) -> whether the step may change the weights; the same on every rank."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, the same on every rank."""

    loss: float
    """Weighted mean over the global batch."""
    gradient_norm: float
    """Before clipping."""
    learning_rate: float
    stop: bool
    """Whether some rank was asked to stop."""
    updated: bool
    """False when the step was not accepted and the weights were left alone."""
    samples: int
    tokens: int


class OutOfMemory(Exception):
    """Some rank ran out of memory in this step; nothing was changed."""


def _finite(loss: float, norm: float) -> bool:
    return math.isfinite(loss) and math.isfinite(norm)


class Stepper:
    """Carries out optimizer steps of one run on one rank."""

    def __init__(
        self,
        recipe: Recipe,
        rank: Rank,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        store: TokenStore,
        accepts: Accepts = _finite,
    ) -> None:
        self.recipe, self.rank, self.model, self.optimizer = recipe, rank, model, optimizer
        self.objective, self.store, self.accepts = objective, store, accepts
        self.flat = FlatGradient(model.parameters(), N_EXTRAS)

    def run(self, plan: BatchPlan, step: int, *, stop: bool) -> StepResult:
        """Carry out a step (from 1).

        Args:
            plan: the batch plan.
            step: the global step.
            stop: whether this rank wants the run to stop after the step.

        Raises:
            OutOfMemory: on all ranks, when one of them could not hold a micro-batch.
            RunError: when a single sample does not fit into memory.
        """
        batches = plan.micro_batches(step)
        normaliser = max(sum(self.objective.weight(batch) for batch in batches), 1e-12)
        self.flat.zero()
        try:
            for batch in assign(batches, self.rank.world_size)[self.rank.index]:
                self._accumulate(batch, step, normaliser)
        except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._note_out_of_memory(batches, error)
        self.flat.extras[_STOP] = float(stop)
        self.rank.sum(self.flat.buffer)
        loss, stopping, out_of_memory = self.flat.extras.tolist()
        if out_of_memory:
            raise OutOfMemory
        norm = float(self.flat.clip(self.recipe.optimization.gradient_clip))
        learning_rate = learning_rate_at(
            step, self.recipe.optimization, self.recipe.learning_rate, self.recipe.total_steps
        )
        accepted = self.accepts(loss, norm)
        if accepted:
            self._update(learning_rate)
        samples = sum(len(batch.samples) for batch in batches)
        tokens = sum(batch.windows.size * batch.sequence for batch in batches)
        return StepResult(loss, norm, learning_rate, stopping > 0, accepted, samples, tokens)

    def _accumulate(self, batch: MicroBatch, step: int, normaliser: float) -> None:
        torch.manual_seed(derive_seed(self.recipe.seed, step, batch.index))
        with self.rank.autocast():
            loss: Tensor = self.objective.loss(self.model, load_batch(batch, self.store, self.recipe, self.rank))
        scaled = loss.float() / normaliser
        torch.autograd.backward(scaled)
        self.flat.extras[_LOSS] += scaled.detach()
        self.rank.pulse.beat()

    def _update(self, learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def _note_out_of_memory(self, batches: list[MicroBatch], error: Exception) -> None:
        """Tell the other ranks; a micro-batch of one sample cannot be cut smaller, so it ends the run."""
        check_divisible(batches, self.store)
        logger.warning("out of memory: %s", error)
        self.flat.zero()
        self.flat.extras[_OUT_OF_MEMORY] = 1.0


def load_batch(batch: MicroBatch, store: TokenStore, recipe: Recipe, rank: Rank) -> Batch:
    """Gather a micro-batch from the store onto the device."""
    input_ids, attention_mask = build_inputs(store, batch, recipe.windowing, recipe.special_ids)
    return Batch(
        batch,
        torch.from_numpy(input_ids).to(rank.device, non_blocking=True),
        torch.from_numpy(attention_mask).to(rank.device, non_blocking=True),
    )
