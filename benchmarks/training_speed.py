"""Samples per second in training, beside Hugging Face `Trainer` and a bare PyTorch loop, measured in one run.

    python benchmarks/training_speed.py juliet_c.yaml juliet_java.yaml sven.yaml mini_400.yaml

Every contender trains on the same samples of a shuffled mix, with the same tokenizer, the same architecture and
initial weights, AdamW (fused), clipping at 1, fp32, the same threads, and truncation to 512 tokens. They take turns.
The Trainers get samples that are tokenised already, held in memory, and encoders as Hugging Face loads them (sdpa, with
torch's dropout); the bare loop gets our model and our micro-batches, built beforehand. Without files the built-in
dataset is used.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from secauditai.config.files import resolve_config
from secauditai.data.plan import BatchPlan, MicroBatch
from secauditai.data.tokens import TokenStore, open_token_store
from secauditai.models.classifier import VulnerabilityClassifier
from secauditai.models.encoders import load_encoder
from secauditai.runs import Run
from secauditai.training.model import build_model
from secauditai.training.objectives import build_objective
from secauditai.training.optimizer import build_optimizer
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.rank import Rank, derive_seed
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.request import TrainRequest
from secauditai.training.step import Stepper, load_batch

BATCH = 32
TASK = "vulnerability_detection"


def prepare_speed_run(work: Path, files: list[str], settings: dict[str, object]) -> Run:
    """A prepared run over the mix of the files."""
    if files:
        (work / "mix").mkdir(parents=True, exist_ok=True)
        for path in map(Path, files):
            (work / "mix" / path.name).write_bytes(path.read_bytes())
    data = str(work / "mix") if files else "security_dataset"
    common = {"data": data, "max_length": 512, "batch_size": BATCH, "long_code": "truncate", "precision": "fp32"}
    config = resolve_config({"model": "transformer", "model_size": "tiny", **common, **settings})
    return prepare_run(plan_training(TrainRequest("finetune", "speed", config, work / "workspace")))


class Bench:
    """The contenders over the same samples; each call of one trains `steps` steps and returns the seconds."""

    def __init__(self, recipe: Recipe, work: Path, steps: int) -> None:
        self.recipe, self.work, self.steps = recipe, work, steps
        full = open_token_store(Path(recipe.train_store))
        self.samples = np.random.default_rng(0).permutation(full.n_samples)[: steps * BATCH]
        self.store = pick(full, self.samples)
        self.steps = self.store.n_samples // BATCH
        self.objective = build_objective(recipe, self.store)
        self.rank = Rank(0, 1, torch.device("cpu"), "fp32")
        self.plan = BatchPlan(self.store.lengths, recipe.windowing, recipe.seed, BATCH, recipe.micro_batch_tokens)
        self.labels = self.objective.targets[TASK]  # type: ignore[attr-defined]
        self.model = build_model(recipe).train()
        self.stepper = Stepper(recipe, self.rank, self.model, self._optimizer(self.model), self.objective, self.store)
        self.bare = build_model(recipe).train()
        self.bare_optimizer = self._optimizer(self.bare)
        self.trained = 0

    def _optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(model, self.recipe.optimization, self.recipe.learning_rate)

    def ours(self) -> float:
        """Steps as the training loop takes them."""
        started = time.perf_counter()
        for step in self._next_steps():
            self.stepper.run(self.plan, step, stop=False)
        return time.perf_counter() - started

    def bare_loop(self) -> float:
        """The same micro-batches, as tensors made beforehand, in the plainest loop; no ranks, no flat gradient."""
        steps = range(self.trained - self.steps + 1, self.trained + 1)
        return train_bare(self.stepper, self.plan, steps, self.bare, self.bare_optimizer)

    def _next_steps(self) -> Iterator[int]:
        first = self.trained + 1
        self.trained += self.steps
        return iter(range(first, self.trained + 1))

    def trainer(self, padding: str) -> Callable[[], float]:
        """A contender: `Trainer`, padding to `max_length` or the batch's longest, that also grouped by length."""
        rows = [self._row(index) for index in range(self.store.n_samples)]
        clock = StepClock()
        model = AsTrainerWants(stock_model(self.recipe))
        seeds = iter(range(1000))

        def train() -> float:
            arguments = transformers.TrainingArguments(
                output_dir=str(self.work / "trainer"),
                per_device_train_batch_size=BATCH,
                max_steps=self.steps,
                optim="adamw_torch_fused",
                learning_rate=self.recipe.learning_rate,
                weight_decay=0.01,
                max_grad_norm=1.0,
                train_sampling_strategy="group_by_length" if padding == "grouped" else "random",
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
                use_cpu=True,
                seed=next(seeds),
                dataloader_num_workers=0,
                remove_unused_columns=False,
            )
            trainer = transformers.Trainer(
                model, arguments, train_dataset=rows, data_collator=Collator(self.recipe, padding), callbacks=[clock]
            )
            trainer.train()
            return clock.seconds

        return train

    def _row(self, index: int) -> dict[str, Any]:
        special, capacity = self.recipe.special_ids, self.recipe.windowing.capacity
        tokens = self.store.row(index)[:capacity].tolist()
        return {"input_ids": [special["cls"], *tokens, special["sep"]], "labels": int(self.labels[index])}


def train_bare(
    stepper: Stepper, plan: BatchPlan, steps: range, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> float:
    """Seconds for the steps that a stepper would make, in the plainest loop and with other weights."""
    recipe, labels = stepper.recipe, stepper.objective.targets[TASK]  # type: ignore[attr-defined]
    work = []
    for step in steps:
        batches = [(b, load_batch(b, stepper.store, recipe, stepper.rank)) for b in plan.micro_batches(step)]
        work.append((step, batches, [torch.from_numpy(labels[b.samples]) for b, _ in batches]))
    started = time.perf_counter()
    for step, batches, targets in work:
        optimizer.zero_grad()
        for (planned, batch), target in zip(batches, targets, strict=True):
            torch.manual_seed(derive_seed(recipe.seed, step, planned.index))
            logits = model(batch.input_ids, batch.attention_mask)[TASK]
            (torch.nn.functional.cross_entropy(logits, target, reduction="sum") / BATCH).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return time.perf_counter() - started


def pick(store: TokenStore, samples: np.ndarray) -> TokenStore:
    """A store of some of the samples, held in memory as the Trainers' rows are."""
    rows = [store.row(int(sample)) for sample in samples]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return replace(store, tokens=np.concatenate(rows), offsets=offsets, samples=store.samples.take(samples))


def stock_model(recipe: Recipe) -> VulnerabilityClassifier:
    """The architecture of the run, with the encoder as Hugging Face loads it."""
    encoder = load_encoder(Path(recipe.initial), dropout=recipe.dropout).module
    torch.manual_seed(recipe.seed)
    return VulnerabilityClassifier(encoder, recipe.heads, recipe.dropout, recipe.pooling).train()


class AsTrainerWants(torch.nn.Module):
    """A classifier over (batch, sequence) that returns its loss."""

    def __init__(self, model: VulnerabilityClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        """Loss and logits."""
        logits = self.model(input_ids[:, None], attention_mask[:, None])[TASK]
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Collator:
    """Pads token lists to tensors."""

    def __init__(self, recipe: Recipe, padding: str) -> None:
        self.pad, self.fixed = recipe.special_ids["pad"], recipe.max_length if padding == "max_length" else None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """(batch, sequence) input_ids and attention_mask, (batch,) labels."""
        width = self.fixed or -(-max(len(row["input_ids"]) for row in rows) // 8) * 8
        ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
            mask[number, : len(row["input_ids"])] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["labels"] for row in rows])}


class StepClock(transformers.TrainerCallback):
    """Seconds from the first step's beginning to the last step's end: set-up does not count."""

    def on_train_begin(self, *_: object, **__: object) -> None:
        """Start with the first batch."""
        self.begun = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        """Note the newest step."""
        self.seconds = time.perf_counter() - self.begun


def describe(bench: Bench) -> str:
    lengths = np.minimum(bench.store.lengths[:, 0], bench.recipe.windowing.capacity) + 2
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "accelerate", "numpy"))
    return (
        f"{time.strftime('%Y-%m-%d', time.gmtime())} · {cpu_name()}, {os.cpu_count()} CPUs, "
        f"{bench.recipe.threads} threads · Python {platform.python_version()}, {libraries}\n"
        f"transformer tiny, max_length 512, batch {BATCH}, fp32, dropout {bench.recipe.dropout}, micro_batch_tokens "
        f"{bench.recipe.micro_batch_tokens}; {bench.store.n_samples} samples of mean {lengths.mean():.0f} tokens, "
        f"median {np.median(lengths):.0f}"
    )


def cpu_name() -> str:
    """As /proc/cpuinfo has it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())


def padded(batches: list[MicroBatch]) -> int:
    return sum(batch.windows.size * batch.sequence for batch in batches)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="labelled data; default the built-in dataset")
    parser.add_argument("--steps", type=int, default=25, help="optimizer steps per turn")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="directory for data and models; default a temporary one")
    parser.add_argument("--only-ours", action="store_true", help="leave the Trainers out")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as directory:
        work = options.work or Path(directory)
        recipe = read_recipe(prepare_speed_run(work, options.files, {}).layout.recipe)
        torch.set_num_threads(recipe.threads)
        bench = Bench(recipe, work, options.steps)
        contenders: dict[str, Callable[[], float]] = {"ours": bench.ours, "bare loop": bench.bare_loop}
        if not options.only_ours:
            names = {"max_length": "Trainer, max_length", "longest": "Trainer, dynamic", "grouped": "Trainer, grouped"}
            contenders |= {name: bench.trainer(padding) for padding, name in names.items()}
        print(describe(bench), flush=True)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(options.rounds):
            for name, train in contenders.items():
                times[name].append(train())
            shown = ", ".join(f"{name} {times[name][-1]:.2f} s" for name in contenders)
            print(f"turn {turn + 1}: {shown}", flush=True)
        tokens = sum(padded(bench.plan.micro_batches(step)) for step in range(1, bench.steps + 1))
        real = int((np.minimum(bench.store.lengths[:, 0], recipe.windowing.capacity) + 2).sum())
        print(f"padding in our micro-batches: {1 - real / tokens:.1%}")
        for name, seconds in times.items():
            rate = bench.steps * BATCH / statistics.median(seconds)
            ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds, times["ours"], strict=True))
            print(f"{name:22} {rate:8.1f} samples/s   ours is {ratio:.2f} x")


if __name__ == "__main__":
    main()
