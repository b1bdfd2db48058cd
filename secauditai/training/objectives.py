"""What a run learns: classification heads on an encoder, or masked tokens.

The loop knows an `Objective` only: how much a micro-batch weighs, its summed loss, and what validation says.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secauditai.data.plan import MicroBatch
from secauditai.data.schema import TASK_COLUMNS
from secauditai.data.tokens import TokenStore
from secauditai.data.windows import Windowing
from secauditai.models.classifier import score_in_chunks
from secauditai.training.rank import derive_seed
from secauditai.training.recipe import Recipe

IGNORED = -1
"""Target of a sample whose label the model does not know; it adds nothing to the loss."""
MASKED_AT_ONCE = 4_096
"""Padded tokens whose hidden ones are predicted together in validation; each takes a logit per word there is."""


@dataclass(frozen=True)
class Batch:
    """A micro-batch on the device."""

    plan: MicroBatch
    input_ids: Tensor
    """(batch, windows, sequence) int64"""
    attention_mask: Tensor
    """(batch, windows, sequence) int64"""


class Objective(Protocol):
    """One thing to learn, over one token store."""

    def weight(self, batch: MicroBatch) -> float:
        """How much the micro-batch counts; the gradient of a step is the weighted mean over its micro-batches."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The summed loss of the micro-batch, in units of `weight`."""

    def width(self) -> int:
        """Numbers that validation yields per sample."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """(batch, width) float32: what validation keeps of each sample."""


class Classification:
    """Cross entropy or focal loss (arXiv 1708.02002) of every head, averaged over heads."""

    def __init__(
        self,
        heads: Mapping[str, Sequence[str]],
        store: TokenStore,
        class_weights: Mapping[str, Sequence[float]] | None,
        focal_gamma: float = 0.0,
    ) -> None:
        self.focal_gamma = focal_gamma
        self.heads = {task: tuple(labels) for task, labels in heads.items()}
        self.targets = {task: encode_labels(store, task, labels) for task, labels in self.heads.items()}
        self.class_weights = {task: np.asarray(values) for task, values in (class_weights or {}).items()}

    def weight(self, batch: MicroBatch) -> float:
        """Samples with a known label, each counted by its class weight; the mean over heads."""
        return float(np.mean([self._weights(task, batch.samples).sum() for task in self.heads]))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum over samples of weight × (1 - p)^gamma × cross entropy, averaged over heads."""
        logits = model(batch.input_ids, batch.attention_mask)
        total = torch.zeros((), device=batch.input_ids.device)
        for task in self.heads:
            targets = torch.from_numpy(self.targets[task][batch.plan.samples]).to(batch.input_ids.device)
            weights = torch.from_numpy(self._weights(task, batch.plan.samples)).to(batch.input_ids.device)
            losses = F.cross_entropy(logits[task].float(), targets, reduction="none", ignore_index=IGNORED)
            if self.focal_gamma:
                losses = losses * (1 - torch.exp(-losses)).clamp(min=1e-8) ** self.focal_gamma
            total = total + (losses * weights.float()).sum()
        return total / len(self.heads)

    def width(self) -> int:
        """The labels of all heads."""
        return sum(len(labels) for labels in self.heads.values())

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """The logits of all heads, side by side."""
        logits = score_in_chunks(model, batch.input_ids, batch.attention_mask)
        return torch.cat([logits[task].float() for task in self.heads], dim=1)

    def split(self, outputs: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Take (samples, width) apart into each head's logits."""
        edges = np.cumsum([len(labels) for labels in self.heads.values()])[:-1]
        return dict(zip(self.heads, np.split(outputs, edges, axis=1), strict=True))

    def _weights(self, task: str, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        targets = self.targets[task][samples]
        known = targets != IGNORED
        weights: npt.NDArray[np.float64] = known.astype(np.float64)
        if task in self.class_weights:
            weights = np.where(known, self.class_weights[task][targets], 0.0)
        return weights


class MaskedLanguage:
    """Masked-language modelling (arXiv 1810.04805): hide tokens and predict them; 80 % mask, 10 % random, 10 % kept."""

    def __init__(
        self,
        store: TokenStore,
        windowing: Windowing,
        special_ids: Mapping[str, int],
        vocab_size: int,
        probability: float,
        seed: int,
    ) -> None:
        self.store, self.windowing, self.special_ids = store, windowing, special_ids
        self.vocab_size, self.probability, self.seed = vocab_size, probability, seed

    def weight(self, batch: MicroBatch) -> float:
        """Masked tokens; known from the lengths alone, so that every rank knows it for all micro-batches."""
        lengths = self.store.lengths[batch.samples, batch.variants][:, None]
        sizes = np.clip(lengths - batch.windows * self.windowing.step, 0, self.windowing.capacity)
        return float(np.where(batch.windows >= 0, masked_tokens(sizes, self.probability), 0).sum())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Summed cross entropy over masked tokens; which ones follows torch's seeded generator."""
        mask = batch.attention_mask.flatten(0, 1)
        inputs, rows, columns, targets = self._hide(batch.input_ids.flatten(0, 1), mask, torch.default_generator)
        logits = model(inputs, mask, rows, columns)
        return F.cross_entropy(logits.float(), targets, reduction="sum")

    def width(self) -> int:
        """Summed loss and masked tokens."""
        return 2

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Each sample's summed loss and number of masked tokens; its masks are its own in any micro-batch.

        Windows are read some at a time, so that a long sample takes no more memory than others.
        """
        windows, sequence = batch.input_ids.shape[1:]
        mask = batch.attention_mask.flatten(0, 1)
        inputs, rows, columns, targets = (part.to(mask.device) for part in self._hide_each(batch))
        result = torch.zeros(len(batch.plan.samples), 2, device=mask.device)
        at_once = max(1, MASKED_AT_ONCE // sequence)
        for start in range(0, len(inputs), at_once):
            here = (rows >= start) & (rows < start + at_once)
            some = slice(start, start + at_once)
            logits = model(inputs[some], mask[some], rows[here] - start, columns[here])
            losses = F.cross_entropy(logits.float(), targets[here], reduction="none")
            result.index_add_(0, rows[here] // windows, torch.stack([losses, torch.ones_like(losses)], dim=1))
        return result

    def _hide_each(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`_hide` for each sample by itself, without the padding that its neighbours cause."""
        all_ids, all_masks = batch.input_ids.cpu(), batch.attention_mask.cpu()
        inputs, found = all_ids.clone(), []
        for place, sample in enumerate(batch.plan.samples.tolist()):
            sizes = all_masks[place].sum(dim=1)
            own = int((sizes > 0).sum()), int(sizes.max())  # windows, length of the longest
            mine = (place, slice(own[0]), slice(own[1]))
            generator = torch.Generator().manual_seed(derive_seed(self.seed, sample))
            inputs[mine], rows, columns, targets = self._hide(all_ids[mine], all_masks[mine], generator)
            found.append((rows + place * all_ids.shape[1], columns, targets))
        rows, columns, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
        return inputs.flatten(0, 1), rows, columns, targets

    def _hide(
        self, input_ids: Tensor, attention_mask: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose and replace tokens of each window; random numbers come from the CPU on every device.

        Args:
            input_ids: (windows, sequence) int64.
            attention_mask: (windows, sequence) int64.
            generator: where the random numbers come from.

        Returns:
            The new ids, and of each hidden token its row, column and true id.
        """
        inputs, device = input_ids.clone(), input_ids.device
        sizes = (attention_mask.sum(dim=1) - 2).clamp(min=0).cpu()
        wanted = torch.from_numpy(masked_tokens(sizes.numpy(), self.probability))
        noise = torch.rand(inputs.shape, generator=generator)
        column = torch.arange(inputs.shape[1])
        noise[(column < 1) | (column > sizes[:, None])] = 2.0
        chosen = noise.argsort(dim=1).argsort(dim=1) < wanted[:, None]
        rows, columns = (index.to(device) for index in chosen.nonzero(as_tuple=True))
        targets = inputs[rows, columns]
        fate = torch.rand(len(rows), generator=generator).to(device)
        random_ids = torch.randint(0, self.vocab_size, (len(rows),), generator=generator).to(device)
        masked = torch.where(fate < 0.8, self.special_ids["mask"], torch.where(fate < 0.9, random_ids, targets))
        inputs[rows, columns] = masked
        return inputs, rows, columns, targets


def masked_tokens(sizes: npt.NDArray[np.int64], probability: float) -> npt.NDArray[np.int64]:
    """How many of a window's `sizes` tokens are masked: the share, rounded, but at least one."""
    counts: npt.NDArray[np.int64] = np.maximum(np.rint(sizes * probability), np.minimum(sizes, 1)).astype(np.int64)
    return counts


def encode_labels(store: TokenStore, task: str, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """(samples,) int64 label numbers; `IGNORED` where the model has no such label."""
    numbers = {label: number for number, label in enumerate(labels)}
    values = store.samples.column(TASK_COLUMNS[task]).to_pylist()
    return np.array([numbers.get(value, IGNORED) for value in values], dtype=np.int64)


def balanced_weights(targets: npt.NDArray[np.int64], n_labels: int) -> list[float]:
    """Inverse class frequency, n / (labels × count), as scikit-learn's "balanced"; 0 for absent labels."""
    counts = np.bincount(targets[targets != IGNORED], minlength=n_labels)
    present = counts > 0
    return [float(counts.sum() / (present.sum() * count)) if count else 0.0 for count in counts]


def build_objective(recipe: Recipe, store: TokenStore) -> Objective:
    """The objective that a run's recipe describes, over the given store."""
    if recipe.objective == "masked_language":
        return MaskedLanguage(
            store, recipe.windowing, recipe.special_ids, recipe.vocab_size, recipe.mlm_probability, recipe.seed
        )
    return Classification(recipe.heads, store, recipe.class_weights, recipe.focal_gamma)


def sampling_classes(recipe: Recipe, store: TokenStore) -> npt.NDArray[np.int64] | None:
    """(samples,) the classes that balanced sampling shows equally often; None when samples are shown as they come."""
    if recipe.sampling == "natural":
        return None
    task, labels = next(iter(recipe.heads.items()))
    return encode_labels(store, task, labels)
