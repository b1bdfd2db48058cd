"""What a planned training would take: the answer to `--dry-run`."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.data.tokens import TokenStore, open_token_store
from secauditai.data.windows import Windowing
from secauditai.errors import DataError
from secauditai.models.encoders import load_encoder
from secauditai.training.devices import Devices
from secauditai.training.memory import budget_at, read_budgets
from secauditai.training.preparation import TrainingPlan, default_learning_rate, encoder_directory
from secauditai.training.resume import Resumption

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


def estimate_rest(found: Resumption) -> dict[str, Any]:
    """The same for the rest of a run, from its own recipe; token counts are exact, and None while a store is lost."""
    assert found.changes is not None
    recipe, run = found.changes.recipe, found.run
    train, val = _store(recipe.train_store), _store(recipe.val_store)
    encoder: Any = load_encoder(Path(recipe.initial)).module
    shape = _shape_of(encoder)
    lengths = train.lengths[:, 0] if train else np.zeros(0, np.int64)
    per_epoch = _tokens(lengths, recipe.windowing) if train else None
    left = recipe.total_steps - found.step
    budgets = [] if found.changes.forgets_memory else read_budgets(run.layout.memory)
    budget = budget_at(budgets, found.step + 1, recipe.micro_batch_tokens)
    micro_batch = _largest(lengths, recipe.windowing, budget)
    memory = _bytes(shape, micro_batch, recipe.optimization.optimizer, checkpointing=recipe.gradient_checkpointing)
    return {
        "model": f"{run.info.name}, from step {found.step}",
        "parameters": shape["parameters"],
        "train_samples": train.n_samples if train else None,
        "val_samples": val.n_samples if val else None,
        "steps_per_epoch": recipe.steps_per_epoch,
        "total_steps": recipe.total_steps,
        "left": left,
        "batch_size": recipe.optimization.batch_size,
        "learning_rate": recipe.learning_rate,
        "tokens_per_epoch": per_epoch,
        "tokens_left": None if per_epoch is None else int(per_epoch * left / recipe.steps_per_epoch),
        "devices": Devices(recipe.device, recipe.world_size, recipe.threads, min_workers=recipe.min_workers).describe(),
        "estimated_memory_mib_per_worker": memory // 2**20,
        "writes_to": str(run.root.parent if found.branches else run.root),
    }


def _store(path: str) -> TokenStore | None:
    """A token store; None when it is lost or damaged, so that going on builds it again."""
    try:
        return open_token_store(Path(path))
    except DataError:
        return None


def _encoder_shape(plan: TrainingPlan) -> dict[str, int]:
    """Parameters, layers and hidden units of the encoder."""
    if plan.model.kind == "scratch":
        from secauditai.models.catalogue import SIZES, estimate_parameters

        size, config = SIZES[plan.model_size], plan.request.config
        parameters = estimate_parameters(plan.model_size, config.architecture.vocab_size, config.input.max_length)
        return {"parameters": parameters, "layers": size.layers, "hidden": size.hidden}
    return _shape_of(load_encoder(encoder_directory(plan.model)).module)


def _shape_of(module: Any) -> dict[str, int]:
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
    return _tokens(_lengths(plan), _windowing(plan))


def _tokens(lengths: npt.NDArray[np.int64], windowing: Windowing) -> int:
    most = windowing.max_windows * windowing.capacity if windowing.long_code == "windows" else windowing.capacity
    return int(lengths.clip(max=most).sum())


def _memory(plan: TrainingPlan, shape: dict[str, int]) -> int:
    config = plan.request.config
    micro_batch = _largest(_lengths(plan), _windowing(plan), config.execution.micro_batch_tokens)
    checkpointing = config.execution.gradient_checkpointing
    return _bytes(shape, micro_batch, config.optimization.optimizer, checkpointing=checkpointing)


def _largest(lengths: npt.NDArray[np.int64], windowing: Windowing, micro_batch_tokens: int) -> int:
    """Tokens that stand together at most: a sample of many windows is never parted, whatever the budget is."""
    windows = int(windowing.counts(lengths).max(initial=1))
    return max(micro_batch_tokens, min(windows, windowing.max_windows) * windowing.max_length)


def _bytes(shape: dict[str, int], micro_batch: int, optimizer: str, *, checkpointing: bool) -> int:
    """Weights, gradient and two optimizer moments in fp32, and the activations of one micro-batch."""
    moments = {"adamw": 2, "adam": 2, "sgd": 1, "adafactor": 0}[optimizer]
    layers = 1 if checkpointing else shape["layers"]
    activations = micro_batch * layers * shape["hidden"] * ACTIVATION_BYTES * 2
    return shape["parameters"] * 4 * (2 + moments) + activations
