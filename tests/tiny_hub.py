"""A Hugging Face cache as the hub fills it, with tiny encoders: what tests load instead of downloading."""

import json
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaForMaskedLM, RobertaModel

from secauditai.models.tokenizer import train_tokenizer

COMMIT = "3b0952feddeffad0063f274080e3c23d75e7eb39"
LINES = [
    "def f(x):\n    return x + 1\n",
    "int main(void) { return 0; }\n",
    "String s = request.getParameter(name);\n",
] * 4


def write_tiny_hub(cache: Path, hub_id: str = "microsoft/codebert-base", *, with_head: bool = False) -> Path:
    """Write an encoder as `pytorch_model.bin`, vocab.json and merges.txt; return its snapshot directory."""
    root = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)
    tokenizer = json.loads(train_tokenizer(LINES, 400)._serialised)
    vocab, merges = tokenizer["model"]["vocab"], tokenizer["model"]["merges"]
    (snapshot / "vocab.json").write_text(json.dumps(vocab))
    pairs = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
    (snapshot / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    config = RobertaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        architectures=["RobertaModel"],
    )
    torch.manual_seed(0)
    model = RobertaForMaskedLM(config) if with_head else RobertaModel(config)
    torch.save(model.state_dict(), snapshot / "pytorch_model.bin")
    (snapshot / "config.json").write_text(json.dumps({**config.to_dict(), "model_type": "roberta"}))
    return snapshot
