"""Optimizers, the learning-rate schedule and the flat gradient."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from secauditai.config.settings import OptimizationSettings


def build_optimizer(model: nn.Module, settings: OptimizationSettings, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer; biases, norms and other vectors get no weight decay."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.dim() >= 2]
    exempt = [p for p in model.parameters() if p.requires_grad and p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    match settings.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
        case "adam":
            return torch.optim.Adam(groups, lr=learning_rate, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=True)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=learning_rate)


def learning_rate_at(step: int, settings: OptimizationSettings, peak: float, total_steps: int) -> float:
    """The learning rate of a step (from 1): a linear warm-up, then constant, or falling to 0 by line or cosine."""
    warmup = math.ceil(settings.warmup_ratio * total_steps)
    if step <= warmup:
        return peak * step / warmup
    done = (step - 1 - warmup) / max(1, total_steps - warmup)
    match settings.scheduler:
        case "constant":
            return peak
        case "linear":
            return peak * (1.0 - done)
        case "cosine":
            return peak * 0.5 * (1.0 + math.cos(math.pi * done))


class FlatGradient:
    """The gradients of all parameters as views into one buffer, in parameter order: one all-reduce per step.

    The buffer ends with `extras` more numbers that travel along.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], extras: int) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        size = sum(p.numel() for p in self.parameters)
        self.buffer = torch.zeros(size + extras, device=self.parameters[0].device)
        self.gradient, self.extras = self.buffer[:size], self.buffer[size:]
        start = 0
        for parameter in self.parameters:
            parameter.grad = self.gradient[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def zero(self) -> None:
        """Forget the last step."""
        self.buffer.zero_()

    def clip(self, largest: float) -> Tensor:
        """Scale the gradient down to a norm of at most `largest` (0: leave it) and return the norm it had."""
        norm: Tensor = torch.linalg.vector_norm(self.gradient)
        if largest > 0:
            self.gradient.mul_((largest / (norm + 1e-6)).clamp(max=1.0))
        return norm
