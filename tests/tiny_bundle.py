"""A saved model with random weights, for tests that need no training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_hub import LINES

from secauditai.models.bundle import Bundle, BundleCard, save_bundle
from secauditai.models.classifier import Embedder, VulnerabilityClassifier
from secauditai.models.encoders import build_encoder
from secauditai.models.tokenizer import train_tokenizer

HEADS = {"vulnerability_detection": ["safe", "vulnerability"]}


def make_bundle(
    directory: Path,
    *,
    kind: str = "classifier",
    seed: int = 0,
    heads: dict[str, list[str]] = HEADS,
    lines: Sequence[str] = LINES,
    **more: Any,
) -> Bundle:
    """A tiny classifier or encoder of four windows of 64 tokens, with `more` in its card."""
    encoder = build_encoder("tiny", tokenizer=train_tokenizer(lines, 350), max_length=64, dropout=0.1, seed=seed)
    torch.manual_seed(seed)
    classifier = kind == "classifier"
    model = VulnerabilityClassifier(encoder.module, heads, 0.1) if classifier else Embedder(encoder.module)
    card = BundleCard(
        kind="classifier" if classifier else "encoder",
        task=next(iter(heads)) if classifier else "",
        heads=heads if classifier else {},
        max_length=64,
        stride=8,
        long_code="windows",
        max_windows=4,
        pooling="mean_max",
        special_ids=encoder.tokenizer.special_ids,
        provenance={"run_id": "r1"},
        **more,
    )
    return save_bundle(directory, model=model, tokenizer=encoder.tokenizer, card=card)
