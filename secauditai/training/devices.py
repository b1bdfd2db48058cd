"""Which devices, how many workers and threads, and which arithmetic a run uses."""

import os
import time
import warnings
from dataclasses import dataclass

from secauditai.config.settings import ExecutionSettings


@dataclass(frozen=True)
class Devices:
    """Where a run computes."""

    device: str
    """cpu | cuda"""
    world_size: int
    threads: int
    warning: str | None = None
    min_workers: int | None = None
    """Fewest workers of an elastic range; `world_size` is its most."""

    def describe(self) -> str:
        """In words, for the plan and the summary."""
        few = "" if self.min_workers is None else f"{self.min_workers} to "
        workers = "in this process" if self.world_size == 1 else f"{few}{self.world_size} workers"
        return f"{self.device}, {workers}, {self.threads} thread{'s' if self.threads > 1 else ''} each"


def choose_devices(settings: ExecutionSettings, *, cpus: float | None = None, gpus: float | None = None) -> Devices:
    """Resolve `gpu`, `num_workers` and `threads` on this machine, or on a cluster with the given resources.

    `--gpu` restricts what this process and its children see; without such a device there is a warning, and the CPU.
    """
    warning = None
    available = int(gpus) if gpus is not None else _local_gpus(settings.gpu)
    if settings.gpu is not None and available < len(settings.gpu.split(",")):
        warning = f"--gpu {settings.gpu} was asked for, but there is no such CUDA device here: training runs on the CPU"
        available = 0
    fewest, world_size = settings.worker_range or (1, max(1, available))
    cores = int(cpus) if cpus is not None else len(os.sched_getaffinity(0))
    threads = settings.threads if isinstance(settings.threads, int) else max(1, cores // world_size)
    elastic = settings.worker_range is not None and fewest < world_size
    device = "cuda" if available and (fewest if elastic else world_size) <= available else "cpu"
    return Devices(device, world_size, threads, warning, fewest if elastic else None)


def _local_gpus(wanted: str | None) -> int:
    if wanted is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = wanted
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def measure_precision(device: str, threads: int) -> str:
    """Time a training-sized matrix product in fp32 and bf16 on the device and name the clearly faster one.

    bf16 must win by a fifth: some CPUs emulate it, and less precision should buy something.
    """
    import torch

    if device == "cuda" and not torch.cuda.is_bf16_supported():
        return "fp32"
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with warnings.catch_warnings():
            times = {dtype: _time_product(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    finally:
        torch.set_num_threads(before)
    return "bf16" if times[torch.bfloat16] * 1.2 < times[torch.float32] else "fp32"


def _time_product(device: str, dtype: object) -> float:
    import torch

    left = torch.ones(1024, 512, device=device, dtype=dtype)  # type: ignore[call-overload]
    right = torch.ones(512, 2048, device=device, dtype=dtype)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        float((left @ right)[0, 0])
        best = min(best, time.perf_counter() - started)
    return best
