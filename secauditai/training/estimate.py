"""What a planned training would take: the answer to `--dry-run`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.data.windows import Windowing
from secauditai.training.preparation import TrainingPlan, default_learning_rate

CHARACTERS_PER_TOKEN = 3.2
"""Of source code under byte-level BPE, roughly; exact counts need the tokenizer to be trained or loaded."""
ACTIVATION_BYTES = 34
"""Bytes kept per token, layer and hidden unit for the backward pass in fp16 (arXiv 2205.05198, eq. 2,
without attention scores); twice that in fp32."""


def estimate(plan: TrainingPlan) -> dict[str, Any]:
    """Samples, steps, parameters, tokens, devices, memory and destination; estimates say so by name."""
    config = plan.request.config
    shape = _encoder_shape(plan)
    per_epoch = _tokens_per_epoch(plan)
    return {
        "model": plan.model.description,
        "model_size": plan.model_size if plan.model.kind == "scratch" else "fixed",
        "parameters": shape["parameters"],
        "train_samples": plan.train.num_rows,
        "val_samples": plan.val.num_rows,
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "batch_size": config.optimization.batch_size,
        "learning_rate": config.optimization.learning_rate
        or default_learning_rate(shape["hidden"], scratch=plan.model.kind == "scratch"),
        "estimated_tokens_per_epoch": per_epoch,
        "estimated_tokens": int(per_epoch * plan.total_steps / plan.steps_per_epoch),
        "devices": plan.devices.describe(),
        "estimated_memory_mib_per_worker": _memory(plan, shape) // 2**20,
        "writes_to": str(plan.request.workspace / "runs" / plan.request.name),
    }


def _encoder_shape(plan: TrainingPlan) -> dict[str, int]:
    """Parameters, layers and hidden units of the encoder."""
    if plan.model.kind == "scratch":
        from secauditai.models.catalogue import SIZES, estimate_parameters

        size, config = SIZES[plan.model_size], plan.request.config
        parameters = estimate_parameters(plan.model_size, config.architecture.vocab_size, config.input.max_length)
        return {"parameters": parameters, "layers": size.layers, "hidden": size.hidden}
    from secauditai.models.encoders import load_encoder

    source = plan.model.bundle / "encoder" if plan.model.bundle else plan.model.hub_id or plan.model.spec
    module: Any = load_encoder(source, revision=plan.model.revision).module
    return {
        "parameters": sum(p.numel() for p in module.parameters()),
        "layers": int(module.config.num_hidden_layers),
        "hidden": int(module.config.hidden_size),
    }


def _lengths(plan: TrainingPlan) -> npt.NDArray[np.int64]:
    """(samples,) tokens of each, roughly."""
    import pyarrow.compute as pc

    characters = pc.utf8_length(plan.train.column("code")).to_numpy()
    tokens: npt.NDArray[np.int64] = np.ceil(characters / CHARACTERS_PER_TOKEN).astype(np.int64)
    return tokens


def _windowing(plan: TrainingPlan) -> Windowing:
    config = plan.request.config
    return Windowing(config.input.max_length, config.stride, config.input.long_code, config.input.max_windows)


def _tokens_per_epoch(plan: TrainingPlan) -> int:
    windowing = _windowing(plan)
    most = windowing.max_windows * windowing.capacity if windowing.long_code == "windows" else windowing.capacity
    return int(_lengths(plan).clip(max=most).sum())


def _largest_micro_batch(plan: TrainingPlan) -> int:
    """Tokens that stand together at most: a sample of many windows is never parted, whatever the budget is."""
    config = plan.request.config
    windowing = _windowing(plan)
    windows = int(windowing.counts(_lengths(plan)).max(initial=1))
    return max(config.execution.micro_batch_tokens, min(windows, windowing.max_windows) * windowing.max_length)


def _memory(plan: TrainingPlan, shape: dict[str, int]) -> int:
    """Bytes: weights, gradient and two optimizer moments in fp32, and the activations of one micro-batch."""
    config = plan.request.config
    moments = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}[config.optimization.optimizer]
    layers = 1 if config.execution.gradient_checkpointing else shape["layers"]
    activations = _largest_micro_batch(plan) * layers * shape["hidden"] * ACTIVATION_BYTES * 2
    return shape["parameters"] * 4 * (2 + moments) + activations
