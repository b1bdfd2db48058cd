"""Windows: how code longer than one model input becomes several inputs.

Around each window go the tokenizer's `cls` and `sep`, so a window of `max_length` holds `capacity` tokens of code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windowing:
    """How tokens are cut: `windows` that overlap by `stride`, only the beginning (`truncate`), or `head-tail`."""

    max_length: int
    stride: int
    long_code: str = "windows"
    max_windows: int = 8
    """Windows of one sample that training uses per epoch; scoring uses all."""

    @property
    def capacity(self) -> int:
        """Tokens of code per window."""
        return self.max_length - 2

    @property
    def step(self) -> int:
        """Tokens between the starts of neighbouring windows."""
        return self.capacity - self.stride

    def counts(self, lengths: npt.ArrayLike) -> Int64:
        """How many windows code of these token counts has; at least one each."""
        lengths = np.asarray(lengths, dtype=np.int64)
        if self.long_code != "windows":
            return np.ones_like(lengths)
        counts: Int64 = 1 + np.maximum(0, -(-(lengths - self.capacity) // self.step))
        return counts

    def describe_loss(self, lengths: npt.ArrayLike) -> str | None:
        """What training does not see of code of these token counts, in a sentence; None when it sees all of it."""
        lengths = np.asarray(lengths, dtype=np.int64)
        if self.long_code == "windows":
            longer = int((self.counts(lengths) > self.max_windows).sum())
            return (
                f"{longer} of {lengths.size} training samples have more than {self.max_windows} windows: each epoch "
                f"draws {self.max_windows} of them (--max-windows); evaluation uses all"
                if longer
                else None
            )
        lost = np.maximum(lengths - self.capacity, 0)
        if not lost.any():
            return None
        part = "beginning" if self.long_code == "truncate" else "beginning and end"
        return (
            f"{int((lost > 0).sum())} of {lengths.size} training samples exceed {self.capacity} tokens: "
            f"--long-code {self.long_code} reads only their {part} and loses {lost.sum() / lengths.sum():.1%} "
            "of all tokens"
        )

    def cut(self, tokens: Int64) -> list[Int64]:
        """The windows of one sample's tokens, without special tokens."""
        if self.long_code == "head-tail" and len(tokens) > self.capacity:
            head = self.capacity // 2
            return [np.concatenate([tokens[:head], tokens[len(tokens) - (self.capacity - head) :]])]
        starts = range(0, int(self.counts(len(tokens))) * self.step, self.step)
        return [tokens[start : start + self.capacity] for start in starts]


def stack_windows(
    samples: Sequence[Sequence[npt.NDArray[np.int64]]], special_ids: Mapping[str, int]
) -> tuple[Int64, Int64]:
    """Pad the windows of some samples to one array.

    Args:
        samples: the windows of each sample, without special tokens.
        special_ids: token ids of `cls`, `sep` and `pad`.

    Returns:
        input_ids and attention_mask, both (batch, windows, sequence) int64; a padding window is all padding.
    """
    count = max(len(windows) for windows in samples)
    longest = max(len(window) for windows in samples for window in windows) + 2
    input_ids = np.full((len(samples), count, longest), special_ids["pad"], dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, windows in enumerate(samples):
        for column, window in enumerate(windows):
            end = len(window) + 1
            input_ids[row, column, 0], input_ids[row, column, end] = special_ids["cls"], special_ids["sep"]
            input_ids[row, column, 1:end] = window
            attention_mask[row, column, : end + 1] = 1
    return input_ids, attention_mask
