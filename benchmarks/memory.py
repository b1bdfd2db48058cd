"""Peak memory of one optimizer step of an encoder of CodeBERT-base size (random weights) at 512 tokens.

    python benchmarks/memory.py [--batch-size 32] [--micro-batch-tokens 2048]

Each case is a process of its own; the peak is its largest resident size. Beside it stands what `--dry-run` estimates.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import RobertaConfig, RobertaModel

from secauditai.config.files import resolve_config
from secauditai.data.plan import BatchPlan
from secauditai.data.tokens import open_token_store
from secauditai.models.encoders import save_encoder
from secauditai.models.tokenizer import train_tokenizer
from secauditai.training.estimate import estimate
from secauditai.training.model import build_model
from secauditai.training.objectives import build_objective
from secauditai.training.optimizer import build_optimizer
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.rank import Rank
from secauditai.training.recipe import read_recipe
from secauditai.training.request import TrainRequest
from secauditai.training.step import Stepper

CODEBERT_VOCABULARY = 50_265


def write_encoder(directory: Path, codes: list[str]) -> None:
    """An encoder with CodeBERT-base's shape and vocabulary size, and a small tokenizer."""
    tokenizer = train_tokenizer(codes, 1000)
    shape = {"vocab_size": CODEBERT_VOCABULARY, "max_position_embeddings": 514, "type_vocab_size": 1}
    special = {"pad_token_id": tokenizer.pad_id, "bos_token_id": tokenizer.cls_id, "eos_token_id": tokenizer.sep_id}
    save_encoder(RobertaModel(RobertaConfig(**shape, **special), add_pooling_layer=False), tokenizer, directory)


def write_data(path: Path, samples: int) -> list[str]:
    """Samples that all fill 512 tokens, half of them vulnerable."""
    codes = ["\n".join(f"int value_{n}_{k} = {k} + {n};" for k in range(90)) for n in range(samples)]
    records = [
        {"id": f"s{n}", "code": code, "label": ("safe", "vulnerability")[n % 2], "severity": "none", "category": "none"}
        for n, code in enumerate(codes)
    ]
    for record in records[1::2]:
        record |= {"severity": "high", "category": "injection"}
    path.write_text(json.dumps({"samples": records}), encoding="utf-8")
    return codes


def prepare(work: Path, options: argparse.Namespace) -> dict[str, object]:
    """Write the run's recipe; return what `--dry-run` says."""
    codes = write_data(work / "data.json", max(60, 2 * options.batch_size))
    if not (work / "encoder").exists():
        write_encoder(work / "encoder", codes)
    config = resolve_config(
        {
            "data": str(work / "data.json"),
            "model": str(work / "encoder"),
            "max_length": 512,
            "long_code": "truncate",
            "precision": "fp32",
            "near_duplicates": False,
            "batch_size": options.batch_size,
            "micro_batch_tokens": options.micro_batch_tokens,
            "gradient_checkpointing": options.gradient_checkpointing,
        }
    )
    plan = plan_training(TrainRequest("finetune", "memory", config, work / "workspace"))
    run = prepare_run(plan)
    return {"recipe": str(run.layout.recipe), "estimate": estimate(plan)["estimated_memory_mib_per_worker"]}


def measure(recipe_path: Path) -> None:
    """Take one step and print its peak, in MiB."""
    recipe = read_recipe(recipe_path)
    torch.set_num_threads(recipe.threads)
    store, rank = open_token_store(Path(recipe.train_store)), Rank(0, 1, torch.device("cpu"), "fp32")
    model = build_model(recipe).train()
    optimizer = build_optimizer(model, recipe.optimization, recipe.learning_rate)
    stepper = Stepper(recipe, rank, model, optimizer, build_objective(recipe, store), store)
    plan = BatchPlan(
        store.lengths, recipe.windowing, recipe.seed, recipe.optimization.batch_size, recipe.micro_batch_tokens
    )
    started = time.perf_counter()
    result = stepper.run(plan, 1, stop=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, "seconds": time.perf_counter() - started, "tokens": result.tokens}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-tokens", type=int, default=2048)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(
        f"{time.strftime('%Y-%m-%d', time.gmtime())} · {os.cpu_count()} CPUs · Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}\n12 layers, 768 hidden units, 512 tokens, "
        f"batch_size {options.batch_size}, micro_batch_tokens {options.micro_batch_tokens}, fp32, AdamW, truncated"
    )
    peaks = []
    with tempfile.TemporaryDirectory() as directory:
        for options.gradient_checkpointing in (False, True):
            found = prepare(Path(directory), options)
            command = [sys.executable, __file__, "--measure", str(found["recipe"])]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            peaks.append(done["peak"])
            print(
                f"gradient_checkpointing {options.gradient_checkpointing!s:5}: peak {done['peak']:.0f} MiB resident "
                f"(--dry-run: {found['estimate']} MiB), {done['tokens']} tokens in {done['seconds']:.0f} s",
                flush=True,
            )
    print(f"without / with gradient checkpointing: {peaks[0] / peaks[1]:.2f} x")


if __name__ == "__main__":
    main()
