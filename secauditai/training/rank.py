"""One process of a training run: its rank, device, threads and log file."""

import contextlib
import hashlib
import logging
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from secauditai.training.recipe import Recipe

logger = logging.getLogger("secauditai.training")


@dataclass(frozen=True)
class Rank:
    """Who this process is among the workers of a run."""

    index: int
    world_size: int
    device: torch.device
    precision: str

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and metrics."""
        return self.index == 0

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of the forward pass."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


@contextlib.contextmanager
def open_rank(recipe: Recipe, logs: Path, index: int, world_size: int) -> Iterator[Rank]:
    """Set threads, determinism and the log file of this process for the time of the run."""
    device = (
        torch.device(recipe.device, torch.cuda.current_device()) if recipe.device == "cuda" else torch.device("cpu")
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    if recipe.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    logs.mkdir(parents=True, exist_ok=True)
    log_file = logging.FileHandler(logs / f"rank_{index}.log", encoding="utf-8")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(log_file)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.info(
        "rank %d of %d on %s (%s), %d threads, pid %d",
        index,
        world_size,
        device,
        platform.node(),
        recipe.threads,
        os.getpid(),
    )
    try:
        yield Rank(index, world_size, device, recipe.precision)
    finally:
        logger.removeHandler(log_file)
        log_file.close()
        torch.set_num_threads(threads_before)


def derive_seed(*parts: int) -> int:
    """A seed for torch from (seed, global step, micro-batch index), independent of anything that happened before."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
