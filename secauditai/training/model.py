"""The model of a run as its recipe describes it, identical on every rank before the first step."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from secauditai.training.recipe import Recipe


def build_model(recipe: Recipe) -> nn.Module:
    """Load the initial encoder and put the objective's heads on it.

    Fresh weights follow from the recipe's seed alone; heads are taken over from the initial bundle where it has
    the same tasks and labels.
    """
    from secauditai.models.bundle import open_bundle
    from secauditai.models.classifier import VulnerabilityClassifier
    from secauditai.models.dropout import use_cpu_dropout
    from secauditai.models.encoders import load_encoder
    from secauditai.models.masked_language import build_masked_language_model

    encoder = load_encoder(Path(recipe.initial), dropout=recipe.dropout)
    torch.manual_seed(recipe.seed)
    if recipe.objective == "masked_language":
        model: nn.Module = build_masked_language_model(encoder.module, Path(recipe.initial), seed=recipe.seed)
    else:
        model = VulnerabilityClassifier(encoder.module, recipe.heads, recipe.dropout, recipe.pooling)
        if recipe.initial_bundle:
            donor = open_bundle(Path(recipe.initial_bundle)).load_model()
            model.load_state_dict(donor.state_dict())
    if recipe.device == "cpu":
        use_cpu_dropout(model, encoder.module)
    if recipe.gradient_checkpointing:
        enable_gradient_checkpointing(encoder.module)
    return model


def enable_gradient_checkpointing(encoder: Any) -> None:
    """Keep only layer inputs for the backward pass and compute the rest again, dropout included."""
    enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
    enable({"use_reentrant": False})
