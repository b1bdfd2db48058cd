"""One process of a training run: its rank, device, threads and log file."""

import contextlib
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from secauditai.runs import RunLayout
from secauditai.training.attempt import AttemptLayout, record_rank
from secauditai.training.devices import DETERMINISTIC_CUBLAS
from secauditai.training.recipe import Recipe
from secauditai.training.watchdog import Pulse, Watchdog

logger = logging.getLogger("secauditai.training")
TRACKING_LOGGER = logging.getLogger("secauditai.tracking")


@dataclass(frozen=True)
class Rank:
    """Who this process is among the workers of a run."""

    index: int
    world_size: int
    device: torch.device
    precision: str
    pulse: Pulse = field(default_factory=Pulse)
    """Signs of life; to be beaten at least once per micro-batch."""

    @property
    def leads(self) -> bool:
        """Whether this process writes checkpoints and metrics."""
        return self.index == 0

    def sum(self, tensor: Tensor) -> None:
        """Add up a tensor over all ranks, in place."""
        if self.world_size > 1:
            with self.pulse.waiting():
                dist.all_reduce(tensor)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            with self.pulse.waiting():
                dist.barrier()

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """The arithmetic of the forward pass."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


class RankLog(logging.FileHandler):
    """The log of a rank; a disk that takes no more of it stops the run by its checkpoints, in one line."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Print no traceback of a file that cannot be written."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


@contextlib.contextmanager
def open_rank(
    recipe: Recipe,
    layout: RunLayout,
    index: int,
    world_size: int,
    node: str | None = None,
    pass_on: Callable[[], None] = lambda: None,
) -> Iterator[Rank]:
    """Set threads, determinism, the log file and the watchdog of this process for the time of the run.

    Args:
        recipe: the run's recipe.
        layout: the run directory.
        index: which rank this process is.
        world_size: how many there are.
        node: Ray's node id; None outside a worker group, where a hang is reported but nobody could restart.
        pass_on: called when what is in the attempt's files must not wait: who this is, that it hangs.
    """
    device = (
        torch.device(recipe.device, torch.cuda.current_device()) if recipe.device == "cuda" else torch.device("cpu")
    )
    threads_before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    if recipe.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_CUBLAS)
        torch.use_deterministic_algorithms(True, warn_only=True)
    layout.logs.mkdir(parents=True, exist_ok=True)
    log_path = layout.logs / f"rank_{index}.log"
    log_file = RankLog(log_path, encoding="utf-8")
    log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(log_file)
    if node is not None:  # nobody sees a worker's terminal
        TRACKING_LOGGER.addHandler(log_file)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.info(
        "rank %d of %d on %s (%s), %d threads, pid %d",
        index,
        world_size,
        device,
        platform.node(),
        torch.get_num_threads(),
        os.getpid(),
    )
    attempt = AttemptLayout(layout.attempt)
    record_rank(attempt, index, world_size, node)
    pass_on()
    pulse = Pulse(attempt.step(index))
    try:
        with Watchdog(pulse, recipe.hang_timeout, log_path, attempt, index, ends=node is not None, pass_on=pass_on):
            yield Rank(index, world_size, device, recipe.precision, pulse)
    finally:
        pulse.close()
        if node is None:  # this process lives on and trains no more; a worker ends
            attempt.rank(index).unlink(missing_ok=True)
        logger.removeHandler(log_file)
        TRACKING_LOGGER.removeHandler(log_file)
        log_file.close()
        torch.set_num_threads(threads_before)


def derive_seed(*parts: int) -> int:
    """A seed for torch from (seed, global step, micro-batch index), independent of anything that happened before."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
