"""Dropout for training on CPUs: torch's distribution, to 16 bits of the probability, at about a sixth of the time.

Torch draws one number per element in one thread, a fifth of a tiny encoder's step. Here one 64-bit number decides four
elements. Every mask is seeded by one draw from torch's generator, so seeding torch decides everything, and gradient
checkpointing, which restores that generator, computes the same masks again. Other devices and arithmetic use torch's.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NAME = "secauditai_dropout"
LEVELS = 2**16
"""Values that one element's random number has; a dropout of 0.1 becomes 6554 / 65536."""


def draw_kept(shape: torch.Size, probability: float) -> Tensor:
    """A boolean mask of this shape, false with the given probability; follows torch's generator."""
    seed = int(torch.randint(2**63 - 1, ()))
    count = shape.numel()
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    numbers = torch.from_numpy(words.view(np.int16)[:count])
    return (numbers >= _dropped_levels(probability) - LEVELS // 2).view(shape)


def _dropped_levels(probability: float) -> int:
    return round(probability * LEVELS)


def _scale(probability: float) -> float:
    """What keeps the mean where it was, for the probability as it is drawn."""
    return LEVELS / (LEVELS - _dropped_levels(probability))


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        kept = draw_kept(values.shape, probability)
        ctx.save_for_backward(kept)
        ctx.scale = _scale(probability)
        return values.mul(kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return gradient.mul(kept).mul_(ctx.scale), None


class CpuDropout(nn.Dropout):
    """`nn.Dropout` whose masks are cheap on CPUs."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements at random in training, and scale up the others."""
        if not self.training or self.p == 0.0 or input.device.type != "cpu":
            return super().forward(input)
        dropped: Tensor = _Drop.apply(input, self.p)  # type: ignore[no-untyped-call]
        return dropped


class _Attend(torch.autograd.Function):
    """Softmax of query · key with dropout, times value; all (batch · heads, sequence, head size), query is scaled."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, probability: float) -> Tensor:
        scores = torch.bmm(query, key.transpose(1, 2))
        if bias is not None:
            scores.view(len(bias), -1, *scores.shape[1:]).add_(bias)
        weights = torch.softmax(scores, dim=-1, out=scores)
        kept = draw_kept(weights.shape, probability)
        ctx.save_for_backward(query, key, value, weights, kept)
        ctx.scale = _scale(probability)
        return torch.bmm(weights * kept, value).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, weights, kept = ctx.saved_tensors
        scaled = gradient * ctx.scale
        for_value = torch.bmm((weights * kept).transpose(1, 2), scaled)
        for_weights = torch.bmm(scaled, value.transpose(1, 2)).mul_(kept)
        for_scores = torch.ops.aten._softmax_backward_data(for_weights, weights, -1, torch.float32)
        return torch.bmm(for_scores, key), torch.bmm(for_scores.transpose(1, 2), query), for_value, None, None


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as Hugging Face encoders call it: torch's own kernels, except with dropout in fp32 on a CPU.

    Args:
        module: the attention layer.
        query: (batch, heads, sequence, head size), as are `key` and `value`.
        key: see `query`.
        value: see `query`.
        attention_mask: broadcastable to (batch, heads, sequence, sequence); true, or 0, where attention is allowed.
        dropout: share of attention weights that are dropped.
        scaling: factor of the scores; default 1 / √head size.
        options: what else the encoder passes on.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    plain = query.dtype == torch.float32 and query.device.type == "cpu" and query.shape == key.shape == value.shape
    if dropout == 0.0 or not plain or options.get("position_bias") is not None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    batch, heads, sequence, size = query.shape
    scale = size**-0.5 if scaling is None else scaling
    flat = (batch * heads, sequence, size)
    inputs = ((query * scale).reshape(flat), key.reshape(flat), value.reshape(flat))
    found: Tensor = _Attend.apply(*inputs, _as_bias(attention_mask, batch, query.dtype), dropout)  # type: ignore[no-untyped-call]
    return found.view(batch, heads, sequence, size).transpose(1, 2), None


def _as_bias(mask: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    return mask.expand(batch, *mask.shape[1:])


def use_cpu_dropout(model: nn.Module, encoder: Any) -> None:
    """Give a model that trains on a CPU the cheap masks, in its dropout layers and in the encoder's attention."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, CpuDropout(child.p).train(child.training))
    if getattr(encoder.config, "_attn_implementation", None) == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        encoder.set_attn_implementation(NAME)
