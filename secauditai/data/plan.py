"""The batch plan: which samples, variants and windows form each optimizer step, cut into micro-batches.

Everything follows from (seed, epoch, global step), so a run continues exactly wherever it stopped, and the
number of workers changes who computes a micro-batch, never what is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from secauditai.data.windows import Windowing

Int64 = npt.NDArray[np.int64]

PLAN_VERSION = 2
"""Changes whenever the same seed and lengths would give other micro-batches or dropout masks; runs record it."""
MICRO_BATCH_OVERHEAD = 256
"""Tokens whose computing time equals the fixed cost of one more micro-batch; measured on the tiny model."""
SEQUENCE_MULTIPLE = 8
"""Padded sequence lengths are multiples of this, which matrix units like."""

# Streams of random numbers; each is seeded with (seed, epoch, stream, …).
_ORDER, _VARIANT, _WINDOWS = range(3)


@dataclass(frozen=True)
class MicroBatch:
    """The unit of work: a few samples of similar size, forward and backward in one go."""

    index: int
    """Position within its optimizer step; with (seed, global step) it seeds dropout and masking."""
    samples: Int64
    """(batch,) sample indices."""
    variants: Int64
    """(batch,) augmentation variant of each sample; 0 is the code as it is."""
    windows: Int64
    """(batch, windows) window numbers of each sample; -1 pads."""
    sequence: int
    """Padded tokens per window, special tokens included."""

    @property
    def cost(self) -> int:
        """Padded tokens plus the fixed overhead."""
        return self.windows.size * self.sequence + MICRO_BATCH_OVERHEAD


@dataclass(frozen=True)
class BatchPlan:
    """All optimizer steps of a run over one token store."""

    lengths: Int64
    """(samples, 1 + variants) token counts."""
    windowing: Windowing
    seed: int
    batch_size: int
    micro_batch_tokens: int
    classes: Int64 | None = None
    """(samples,) class of each sample, to show every class equally often; None shows every sample once per epoch."""

    @property
    def n_samples(self) -> int:
        """Samples per epoch."""
        return int(self.lengths.shape[0])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps per epoch; the last one of an epoch may be smaller."""
        return steps_per_epoch(self.n_samples, self.batch_size)

    def epoch(self, step: int) -> int:
        """The epoch (from 0) that a step (from 1) belongs to."""
        return (step - 1) // self.steps_per_epoch

    def samples(self, step: int) -> Int64:
        """The samples of a step (from 1), in shuffled order."""
        position = (step - 1) % self.steps_per_epoch * self.batch_size
        return self._order(self.epoch(step))[position : position + self.batch_size]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Cut the samples of a step into micro-batches of at most `micro_batch_tokens` padded tokens.

        A single sample may exceed the budget; it then stands alone.
        """
        samples, epoch = self.samples(step), self.epoch(step)
        variants = self._variants(epoch)[samples]
        lengths = self.lengths[samples, variants]
        windows = [
            self._draw(int(s), int(n), epoch) for s, n in zip(samples, self.windowing.counts(lengths), strict=True)
        ]
        return cut_micro_batches(samples, variants, windows, lengths, self.windowing, self.micro_batch_tokens)

    def _order(self, epoch: int) -> Int64:
        if self.classes is None:
            return epoch_order(self.n_samples, self.seed, epoch)
        return balanced_order(self.classes.tobytes(), self.seed, epoch)

    def _variants(self, epoch: int) -> Int64:
        return epoch_variants(self.n_samples, self.lengths.shape[1], self.seed, epoch)

    def _draw(self, sample: int, count: int, epoch: int) -> Int64:
        """The windows of a sample used in this epoch: all, or `max_windows` drawn without replacement."""
        if count <= self.windowing.max_windows:
            return np.arange(count)
        random = np.random.default_rng([self.seed, epoch, _WINDOWS, sample])
        return np.sort(random.choice(count, self.windowing.max_windows, replace=False))


def plan_evaluation(
    lengths: Int64, windowing: Windowing, micro_batch_tokens: int, batch_size: int = 256
) -> list[MicroBatch]:
    """Cut all samples, in order of size and with all their windows, into micro-batches.

    Args:
        lengths: (samples,) token counts.
        windowing: how code becomes windows; `max_windows` does not apply.
        micro_batch_tokens: padded tokens per forward pass.
        batch_size: samples considered together when cutting.
    """
    counts = windowing.counts(lengths)
    order = np.lexsort((np.arange(len(lengths)), lengths))
    found: list[MicroBatch] = []
    for start in range(0, len(order), batch_size):
        samples = order[start : start + batch_size]
        windows = [np.arange(counts[sample]) for sample in samples]
        zeros = np.zeros(len(samples), dtype=np.int64)
        found += cut_micro_batches(
            samples, zeros, windows, lengths[samples], windowing, micro_batch_tokens, first=len(found)
        )
    return found


def steps_per_epoch(n_samples: int, batch_size: int) -> int:
    """Optimizer steps that show every sample once."""
    return -(-n_samples // batch_size)


@lru_cache(maxsize=2)
def epoch_order(n_samples: int, seed: int, epoch: int) -> Int64:
    """The order of all samples in an epoch."""
    order: Int64 = np.random.default_rng([seed, epoch, _ORDER]).permutation(n_samples)
    return order


@lru_cache(maxsize=2)
def balanced_order(classes: bytes, seed: int, epoch: int) -> Int64:
    """As many samples as there are, from every class equally many: those of a rare class come again, in new order.

    Args:
        classes: (samples,) int64 class of each sample, as bytes.
        seed: of the run.
        epoch: from 0.
    """
    of_sample = np.frombuffer(classes, dtype=np.int64)
    random = np.random.default_rng([seed, epoch, _ORDER])
    names = np.unique(of_sample)
    shares = np.full(len(names), len(of_sample) // len(names))
    shares[random.permutation(len(names))[: len(of_sample) % len(names)]] += 1
    drawn = []
    for name, share in zip(names, shares, strict=True):
        members = np.flatnonzero(of_sample == name)
        rounds = [random.permutation(members) for _ in range(-(-int(share) // len(members)))]
        drawn += [np.concatenate(rounds)[:share]] if rounds else []
    order: Int64 = random.permutation(np.concatenate(drawn))
    return order


@lru_cache(maxsize=2)
def epoch_variants(n_samples: int, choices: int, seed: int, epoch: int) -> Int64:
    """The augmentation variant of each sample in an epoch, evenly among all choices."""
    return np.random.default_rng([seed, epoch, _VARIANT]).integers(0, choices, n_samples)


def cut_micro_batches(
    samples: Int64,
    variants: Int64,
    windows: Sequence[Int64],
    lengths: Int64,
    windowing: Windowing,
    budget: int,
    *,
    first: int = 0,
) -> list[MicroBatch]:
    """Sort samples by size and cut where the sum of padded tokens and overheads is smallest.

    Args:
        samples: (n,) sample indices.
        variants: (n,) variant of each.
        windows: the window numbers of each.
        lengths: (n,) token counts.
        windowing: how code becomes windows.
        budget: padded tokens a micro-batch of more than one sample may have.
        first: index of the first micro-batch.
    """
    counts = np.array([len(drawn) for drawn in windows])
    longest = np.minimum(lengths, windowing.capacity) + 2
    order = np.lexsort((samples, longest, counts))
    cuts = _best_cuts(counts[order], longest[order], budget)
    found: list[MicroBatch] = []
    for start, stop in pairwise(cuts):
        chosen = order[start:stop]
        drawn = np.full((len(chosen), counts[chosen].max()), -1, dtype=np.int64)
        for row, index in enumerate(chosen):
            drawn[row, : counts[index]] = windows[index]
        sequence = min(_padded(int(longest[chosen].max())), windowing.max_length)
        found.append(MicroBatch(first + len(found), samples[chosen], variants[chosen], drawn, sequence))
    return found


def _padded(sequence: int) -> int:
    return -(-sequence // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE


def _best_cuts(counts: Int64, longest: Int64, budget: int) -> list[int]:
    """Cut points of the cheapest partition into runs, by dynamic programming over the sorted samples."""
    n = len(counts)
    best = np.full(n + 1, np.iinfo(np.int64).max)
    best[0] = 0
    origin = np.zeros(n + 1, dtype=np.int64)
    most = max(1, budget // SEQUENCE_MULTIPLE)
    for stop in range(1, n + 1):
        first = max(0, stop - most)
        rows = np.arange(stop - first, 0, -1)  # a run from `start` to `stop` has this many rows
        widest = np.maximum.accumulate(longest[first:stop][::-1])[::-1]
        padded = rows * counts[stop - 1] * (-(-widest // SEQUENCE_MULTIPLE) * SEQUENCE_MULTIPLE)
        cost = np.where((padded <= budget) | (rows == 1), best[first:stop] + padded + MICRO_BATCH_OVERHEAD, best[n])
        cheapest = int(np.argmin(cost))
        origin[stop], best[stop] = first + cheapest, cost[cheapest]
    cuts = [n]
    while cuts[-1]:
        cuts.append(int(origin[cuts[-1]]))
    return cuts[::-1]


def assign(micro_batches: Sequence[MicroBatch], world_size: int) -> list[list[MicroBatch]]:
    """Hand micro-batches to ranks, most expensive first, each to the rank with the least to do."""
    ranks: list[list[MicroBatch]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for batch in sorted(micro_batches, key=lambda item: (-item.cost, item.index)):
        rank = load.index(min(load))
        ranks[rank].append(batch)
        load[rank] += batch.cost
    return [sorted(work, key=lambda item: item.index) for work in ranks]
