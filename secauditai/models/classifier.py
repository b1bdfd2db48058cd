"""The classifier: an encoder, pooling over tokens and windows, and a linear head per task."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

POOLINGS = ("mean_max", "cls")
TOKENS_AT_ONCE = 16_384
"""Padded tokens that are encoded together where no gradients are wanted."""


class VulnerabilityClassifier(nn.Module):
    """Scores samples of several windows each.

    Tokens of a window are pooled to a vector, window vectors of a sample by learned attention (arXiv 1703.03130),
    and each head reads the result. Padding, of tokens or of whole windows, does not change it.
    """

    def __init__(
        self, encoder: nn.Module, heads: Mapping[str, Sequence[str]], dropout: float, pooling: str = "mean_max"
    ) -> None:
        """Put fresh heads on an encoder.

        Args:
            encoder: Hugging Face encoder with `config.hidden_size`.
            heads: task name to its labels.
            dropout: share of the pooled vector dropped in training.
            pooling: `mean_max` (mean and maximum over tokens, side by side) or `cls` (the first token).
        """
        super().__init__()
        self.encoder = encoder
        self.pooling = pooling
        hidden = int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        width = 2 * hidden if pooling == "mean_max" else hidden
        self.window_attention = nn.Linear(width, 1)
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({task: nn.Linear(width, len(labels)) for task, labels in heads.items()})

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Score samples.

        Args:
            input_ids: (batch, windows, sequence) int64.
            attention_mask: (batch, windows, sequence) int64; all 0 for a window that only pads.

        Returns:
            Logits of each task, (batch, labels).
        """
        batch, windows, sequence = input_ids.shape
        vectors = self.encode_windows(
            input_ids.reshape(batch * windows, sequence), attention_mask.reshape(batch * windows, sequence)
        )
        return self.classify(vectors.reshape(batch, windows, -1), attention_mask[:, :, 0])

    def encode_windows(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, sequence) int64 each -> (n, width): one vector per window."""
        return pool_tokens(self.encoder, input_ids, attention_mask, self.pooling)

    def classify(self, vectors: Tensor, window_mask: Tensor) -> dict[str, Tensor]:
        """(batch, windows, width) vectors and (batch, windows) mask -> logits of each task, (batch, labels)."""
        scores = self.window_attention(vectors).squeeze(-1).masked_fill(window_mask == 0, -1e4)
        weights = torch.softmax(scores.float(), dim=1).to(vectors.dtype)
        pooled = self.dropout((weights.unsqueeze(-1) * vectors).sum(dim=1))
        return {task: head(pooled) for task, head in self.heads.items()}


class Embedder(nn.Module):
    """An encoder without heads: the mean vector of a sample's tokens over all its windows."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """(batch, windows, sequence) int64 each -> `sample_embedding`, (batch, hidden)."""
        batch, windows, sequence = input_ids.shape
        vectors = self.encode_windows(
            input_ids.reshape(batch * windows, sequence), attention_mask.reshape(batch * windows, sequence)
        )
        return self.classify(vectors.reshape(batch, windows, -1), attention_mask[:, :, 0])

    def encode_windows(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, sequence) int64 each -> (n, hidden): the mean over each window's tokens."""
        return pool_tokens(self.encoder, input_ids, attention_mask, "mean")

    def classify(self, vectors: Tensor, window_mask: Tensor) -> dict[str, Tensor]:
        """(batch, windows, hidden), (batch, windows) -> `sample_embedding` (batch, hidden): the mean over windows."""
        mask = window_mask.to(vectors.dtype).unsqueeze(-1)
        return {"sample_embedding": (vectors * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)}


def score_in_chunks(model: Any, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
    """What a model's `forward` returns, without gradients, in memory that the number of windows does not change."""
    batch, windows, sequence = input_ids.shape
    rows = max(1, TOKENS_AT_ONCE // sequence)
    ids, mask = input_ids.reshape(-1, sequence), attention_mask.reshape(-1, sequence)
    with torch.inference_mode():
        chunks = [
            model.encode_windows(ids[start : start + rows], mask[start : start + rows])
            for start in range(0, batch * windows, rows)
        ]
        outputs: dict[str, Tensor] = model.classify(
            torch.cat(chunks).reshape(batch, windows, -1), attention_mask[:, :, 0]
        )
    return outputs


def pool_tokens(encoder: nn.Module, input_ids: Tensor, attention_mask: Tensor, pooling: str) -> Tensor:
    """Encode windows, (n, sequence) int64 each, and pool each one's tokens to a vector."""
    # A window that only pads attends to its first token, so that no softmax is over nothing.
    attended = torch.cat([torch.ones_like(attention_mask[:, :1]), attention_mask[:, 1:]], dim=1)
    states: Tensor = encoder(input_ids=input_ids, attention_mask=attended).last_hidden_state
    if pooling == "cls":
        return states[:, 0]
    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    mean = (states * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1.0)
    if pooling == "mean":
        return mean
    highest = states.masked_fill(mask == 0, -1e4).amax(dim=1)
    return torch.cat([mean, highest], dim=1)
