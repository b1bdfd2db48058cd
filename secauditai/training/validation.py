"""Validation during training: all ranks score their share, all get the same metrics."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secauditai.data.plan import MicroBatch, assign, plan_evaluation
from secauditai.data.tokens import TokenStore, open_token_store
from secauditai.metrics import Scores, compute_metrics
from secauditai.models.predict import softmax
from secauditai.training.health import Decided, most_decided
from secauditai.training.memory import check_divisible, is_out_of_memory
from secauditai.training.objectives import IGNORED, Classification, build_objective
from secauditai.training.rank import Rank
from secauditai.training.recipe import Recipe
from secauditai.training.step import load_batch

METRIC_NAMES = ("accuracy", "f1", "mcc", "roc_auc", "average_precision", "loss")


@dataclass(frozen=True)
class Validation:
    """What one validation found, the same on every rank."""

    metrics: dict[str, float]
    decided: dict[str, Decided]
    """The most decided class of every head."""
    broken: list[str]
    """Ids of samples whose outputs are not finite; with any, there is nothing else."""
    seconds: float


def plan_validation(recipe: Recipe, store: TokenStore, micro_batch_tokens: int) -> list[MicroBatch]:
    """The micro-batches of the validation split."""
    return plan_evaluation(store.lengths[:, 0], recipe.windowing, micro_batch_tokens)


class Validator:
    """Scores the validation split with the weights as they are."""

    def __init__(self, recipe: Recipe, rank: Rank, model: nn.Module) -> None:
        self.recipe, self.rank, self.model = recipe, rank, model
        self.store = open_token_store(Path(recipe.val_store))
        self.objective = build_objective(recipe, self.store)
        self.plan: list[MicroBatch] = []
        self.resize(recipe.micro_batch_tokens)

    def resize(self, micro_batch_tokens: int) -> None:
        """Cut the validation split into micro-batches of this many tokens."""
        self.plan = plan_validation(self.recipe, self.store, micro_batch_tokens)

    def run(self) -> Validation:
        """Metrics of the whole validation split; undefined ones are left out."""
        started = time.monotonic()
        outputs = self.outputs()
        broken = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        if len(broken):
            ids = self.store.samples.column("id").take(broken).to_pylist()
            return Validation({}, {}, ids, time.monotonic() - started)
        decided = {}
        if isinstance(self.objective, Classification):
            metrics = classification_metrics(self.objective, outputs, self.recipe.selection_metric)
            decided = decided_classes(self.objective, outputs)
        else:
            metrics = {"loss": float(outputs[:, 0].sum() / max(outputs[:, 1].sum(), 1.0))}
        return Validation(metrics, decided, [], time.monotonic() - started)

    def outputs(self) -> npt.NDArray[np.float32]:
        """(samples, width): what the objective keeps of each sample, the same on every rank."""
        results = torch.zeros(self.store.n_samples, self.objective.width(), device=self.rank.device)
        training = self.model.training
        self.model.eval()
        with torch.inference_mode():
            for batch in assign(self.plan, self.rank.world_size)[self.rank.index]:
                results[torch.from_numpy(batch.samples).to(self.rank.device)] = self._score(batch)
                self.rank.pulse.beat()
        self.model.train(training)
        self.rank.sum(results)
        return results.cpu().numpy()

    def _score(self, batch: MicroBatch) -> torch.Tensor:
        """What the objective keeps of a micro-batch.

        Raises:
            RunError: naming the sample, when one alone does not fit into memory; a smaller budget would not help.
        """
        try:
            with self.rank.autocast():
                return self.objective.outputs(self.model, load_batch(batch, self.store, self.recipe, self.rank)).float()
        except (torch.cuda.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                check_divisible([batch], self.store)
            raise


def decided_classes(objective: Classification, outputs: npt.NDArray[np.float32]) -> dict[str, Decided]:
    """The most decided class of every head, over the samples whose label it knows."""
    found = {}
    for task, logits in objective.split(outputs).items():
        known = objective.targets[task] != IGNORED
        decisions = logits[known].argmax(axis=1)
        found[task] = most_decided(objective.targets[task][known], decisions, objective.heads[task])
    return found


def classification_metrics(
    objective: Classification, outputs: npt.NDArray[np.float32], selection_metric: str
) -> dict[str, float]:
    """Metrics of the first head by plain name, of the others as `<task>.<metric>`; the likeliest label decides."""
    names = dict.fromkeys((*METRIC_NAMES, selection_metric))
    found: dict[str, float] = {}
    for number, (task, logits) in enumerate(objective.split(outputs).items()):
        known = objective.targets[task] != IGNORED
        probabilities = softmax(logits[known])
        decisions = probabilities.argmax(axis=1)
        values = compute_metrics(Scores(objective.targets[task][known], decisions, probabilities), tuple(names))
        prefix = "" if number == 0 else f"{task}."
        found |= {prefix + name: value for name, value in values.items() if value is not None}
    return found
