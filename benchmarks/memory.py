"""Peak memory of one optimizer step of an encoder of CodeBERT-base size (random weights) at 512 tokens.

    python benchmarks/memory.py [--batch-size 32] [--micro-batch-tokens 2048] [sven.yaml]

Each case is a process of its own; the peak is its largest resident size. Beside it stands what `--dry-run` estimates.
With labelled data, one more step trains on its longest sample, cut into windows, alone in a batch.
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
from secauditai.data.dataset import open_dataset
from secauditai.data.plan import BatchPlan
from secauditai.data.prepare import prepare as prepare_dataset
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


def filled(samples: int) -> list[str]:
    """Code that fills 512 tokens, each another."""
    return ["\n".join(f"int value_{n}_{k} = {k} + {n};" for k in range(90)) for n in range(samples)]


def longest(data: Path, work: Path) -> str:
    """The longest code of labelled data."""
    prepare_dataset(str(data), work / "prepared")
    codes: list[str] = open_dataset(work / "prepared").table().column("code").to_pylist()
    return max(codes, key=len)


def write_data(path: Path, codes: list[str]) -> None:
    """Samples of these codes, half of them vulnerable."""
    records = [
        {"id": f"s{n}", "code": code, "label": ("safe", "vulnerability")[n % 2], "severity": "none", "category": "none"}
        for n, code in enumerate(codes)
    ]
    for record in records[1::2]:
        record |= {"severity": "high", "category": "injection"}
    path.write_text(json.dumps({"samples": records}), encoding="utf-8")


def prepare(work: Path, codes: list[str], options: argparse.Namespace, **settings: object) -> dict[str, object]:
    """Write the run's recipe; return what `--dry-run` says."""
    write_data(work / "data.json", codes)
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
            **settings,
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


def run_case(found: dict[str, object], name: str) -> float:
    """Measure a prepared case in a process of its own, print it, and return its peak in MiB."""
    command = [sys.executable, __file__, "--measure", str(found["recipe"])]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(
        f"{name}: peak {done['peak']:.0f} MiB resident (--dry-run: {found['estimate']} MiB), "
        f"{done['tokens']} tokens in {done['seconds']:.0f} s",
        flush=True,
    )
    return float(done["peak"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, help="labelled data whose longest sample is to be trained on")
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
        work = Path(directory)
        for options.gradient_checkpointing in (False, True):
            found = prepare(work, filled(max(60, 2 * options.batch_size)), options)
            peaks.append(run_case(found, f"gradient_checkpointing {options.gradient_checkpointing!s:5}"))
        if options.data is not None:
            code = longest(options.data, work)
            copies = [f"{code}\nint copy_{n} = {n};\n" for n in range(60)]
            for options.gradient_checkpointing in (False, True):
                found = prepare(work, copies, options, long_code="windows", batch_size=1)
                name = f"the longest of {options.data.name}, {len(code)} characters, in windows"
                run_case(found, f"{name}, gradient_checkpointing {options.gradient_checkpointing!s:5}")
    print(f"without / with gradient checkpointing: {peaks[0] / peaks[1]:.2f} x")


if __name__ == "__main__":
    main()
