"""Masked-language modelling on an encoder: the head that `train base` needs, the encoder's own or a fresh one."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

HEAD_FILE = "masked_language_head.safetensors"
FRESH_HEAD = (
    "This encoder comes without a masked-language head: a fresh one is trained from scratch, "
    "so the loss starts high and falls quickly at first."
)


class MaskedLanguageModel(nn.Module):
    """Predicts hidden tokens; the output layer shares its weights with the encoder's token embeddings."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        embeddings = encoder.get_input_embeddings()  # type: ignore[operator]
        vocab_size, hidden = embeddings.weight.shape
        self.dense = nn.Linear(hidden, hidden)
        self.layer_norm = nn.LayerNorm(hidden)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Score the vocabulary at some positions.

        Args:
            input_ids: (n, sequence) int64.
            attention_mask: (n, sequence) int64.
            rows: (positions,) int64, which window.
            columns: (positions,) int64, which token of it.

        Returns:
            (positions, vocabulary) logits.
        """
        attended = torch.cat([torch.ones_like(attention_mask[:, :1]), attention_mask[:, 1:]], dim=1)
        states = self.encoder(input_ids=input_ids, attention_mask=attended).last_hidden_state[rows, columns]
        states = self.layer_norm(F.gelu(self.dense(states)))
        weights = self.encoder.get_input_embeddings().weight  # type: ignore[operator]
        return F.linear(states, weights, self.bias)

    def head_state(self) -> dict[str, Tensor]:
        """The head's own weights, without the shared ones."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("encoder.")}


def build_masked_language_model(encoder: nn.Module, directory: Path, *, seed: int) -> MaskedLanguageModel:
    """Put a masked-language head on an encoder: the one saved beside it, else a fresh one drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MaskedLanguageModel(encoder)
    if has_masked_language_head(directory):
        model.load_state_dict(load_file(str(directory / HEAD_FILE)), strict=False)
    return model


def has_masked_language_head(directory: Path) -> bool:
    """Whether a head was saved beside the encoder."""
    return (directory / HEAD_FILE).exists()


def save_masked_language_head(model: MaskedLanguageModel, directory: Path) -> None:
    """Save the head beside its encoder."""
    save_head_state(model.head_state(), directory)


def save_head_state(state: dict[str, Tensor], directory: Path) -> None:
    """Save the weights of a head beside its encoder."""
    save_file({name: value.contiguous() for name, value in state.items()}, str(directory / HEAD_FILE))


def roberta_head_state(weights: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Take the head out of a RoBERTa checkpoint's weights, if it has one; foreign names are translated here."""
    names = {
        "lm_head.dense.weight": "dense.weight",
        "lm_head.dense.bias": "dense.bias",
        "lm_head.layer_norm.weight": "layer_norm.weight",
        "lm_head.layer_norm.bias": "layer_norm.bias",
        "lm_head.bias": "bias",
    }
    if not all(name in weights for name in names):
        return None
    return {ours: weights[theirs].float() for theirs, ours in names.items()}
