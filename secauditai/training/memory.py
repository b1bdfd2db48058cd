"""The micro-batch budget that fits into memory: out of memory halves it, from that step on, for good.

The changes are in `memory.json` of the run directory, so that a restart and a `resume` know them too.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from secauditai.data.plan import MicroBatch
from secauditai.data.tokens import TokenStore
from secauditai.errors import RunError
from secauditai.files import write_json

SMALLEST = 1
"""Tokens at which every micro-batch is a single sample."""


@dataclass(frozen=True)
class Budget:
    """From this step on, micro-batches have at most so many tokens."""

    step: int
    micro_batch_tokens: int


def read_budgets(path: Path) -> list[Budget]:
    """The changes so far."""
    try:
        return [Budget(**item) for item in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []


def budget_at(budgets: list[Budget], step: int, initial: int) -> int:
    """The budget in force at a step."""
    return min([initial, *(item.micro_batch_tokens for item in budgets if item.step <= step)])


def halved(budgets: list[Budget], step: int, initial: int) -> list[Budget]:
    """The changes with one more: half the budget from a step on."""
    return [*budgets, Budget(step, max(SMALLEST, budget_at(budgets, step, initial) // 2))]


def write_budgets(path: Path, budgets: list[Budget]) -> None:
    """Remember the changes."""
    write_json(path, [asdict(item) for item in budgets])


def check_divisible(batches: list[MicroBatch], store: TokenStore) -> None:
    """Make sure that a smaller budget can help.

    Raises:
        RunError: naming the largest sample, when every micro-batch is a single sample already.
    """
    if any(len(batch.samples) > 1 for batch in batches):
        return
    widest = max(batches, key=lambda batch: batch.cost)
    sample = store.samples.column("id")[int(widest.samples[0])].as_py()
    raise RunError(
        f"sample {sample} alone does not fit into memory",
        hint="Free memory on the machine and resume with a larger --micro-batch-tokens, or use "
        "--gradient-checkpointing, or start a new run with a lower --max-windows or --max-length.",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be allocated, on a device or on this machine."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    words = (
        "can't allocate memory",
        "Cannot allocate memory",
        "std::bad_alloc",
        "could not create a memory object",
        "CUDA error: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
    )
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
