"""Which devices, how many workers and threads, and which arithmetic a run uses."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from secauditai.cluster import Node, ensure_ray, most_threads
from secauditai.config.settings import ExecutionSettings

DETERMINISTIC_CUBLAS = ":4096:8"
"""Of `CUBLAS_WORKSPACE_CONFIG`: without it cuBLAS does not repeat itself bit for bit."""
SMALL_PRODUCT, LARGE_PRODUCT = (128, 256, 256), (1024, 512, 2048)
"""Rows, inner size and columns of the matrix products that choose the precision."""


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


def choose_devices(settings: ExecutionSettings, nodes: Sequence[Node] | None = None) -> Devices:
    """Resolve `gpu`, `num_workers` and `threads` on this machine, or on the nodes of a cluster that work goes to.

    `--gpu` restricts what this process and its children see; without such a device there is a warning, and the CPU.
    """
    warning = None
    if nodes is None:
        cores = float(len(os.sched_getaffinity(0)))
        nodes = [Node("", "this machine", cores, float(_local_gpus(settings.gpu)), is_head=True)]
    available = int(sum(node.gpus for node in nodes))
    if settings.gpu is not None and available < len(settings.gpu.split(",")):
        warning = f"--gpu {settings.gpu} was asked for, but there is no such CUDA device here: training runs on the CPU"
        available = 0
    fewest, world_size = settings.worker_range or (1, max(1, available))
    elastic = settings.worker_range is not None and fewest < world_size
    device = "cuda" if available and (fewest if elastic else world_size) <= available else "cpu"
    if device == "cpu" and available and settings.gpu is not None:
        few = f"--gpu {settings.gpu} gives {available} CUDA devices to {world_size} workers"
        warning = f"{few}: training runs on the CPU"
    threads = settings.threads
    if threads == "auto":
        threads = most_threads(world_size, nodes, gpus_each=int(device == "cuda"))
    return Devices(device, world_size, threads, warning, fewest if elastic else None)


def computing_address(address: str | None, settings: ExecutionSettings) -> str | None:
    """The Ray cluster that a training computes on; None for this machine.

    Without `--address` one worker computes here, and several do where Ray's own `RAY_ADDRESS` sends them.
    """
    workers = settings.worker_range
    elsewhere = os.environ.get("RAY_ADDRESS") if workers is not None and workers[1] > 1 else None
    return address or (elsewhere if elsewhere != "local" else None)


def choose_devices_at(address: str | None, settings: ExecutionSettings) -> Devices:
    """The devices of the cluster that computes, which is connected to; those of this machine without one."""
    address = computing_address(address, settings)
    if address is None:
        return choose_devices(settings)
    cluster = ensure_ray(address)
    return choose_devices(settings, cluster.nodes)


def restrict_gpus(wanted: str | None) -> None:
    """Let this process and its children see no other CUDA devices than those of `--gpu`; before any is used."""
    if wanted is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = wanted


def _local_gpus(wanted: str | None) -> int:
    restrict_gpus(wanted)
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def measure_precision(device: str) -> str:
    """Time a training-sized matrix product in fp32 and bf16 on the device and name the clearly faster one.

    bf16 must win by a fifth: less precision should buy something. Some CPUs emulate it a hundred times slower, so that
    a product of a hundredth of the size is asked first. On a CPU one thread's own time counts, which other work on the
    machine does not change.
    """
    import torch

    if device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", DETERMINISTIC_CUBLAS)  # read when cuBLAS is used first
        return "bf16" if torch.cuda.is_bf16_supported() and _speedup(device, LARGE_PRODUCT) > 1.2 else "fp32"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        slower = _speedup(device, SMALL_PRODUCT) < 0.8
        return "bf16" if not slower and _speedup(device, LARGE_PRODUCT) > 1.2 else "fp32"
    finally:
        torch.set_num_threads(before)


def measure_precision_at(address: str | None, settings: ExecutionSettings, device: str) -> str:
    """The precision on one of the nodes of the cluster that computes; on this machine without one."""
    address = computing_address(address, settings)
    if address is None:
        return measure_precision(device)
    from secauditai.cluster import call_on_worker, ensure_ray

    ensure_ray(address)
    return call_on_worker(measure_precision, device, cpus=1, gpus=int(device == "cuda"))


def _speedup(device: str, shape: tuple[int, int, int]) -> float:
    """How many times faster bf16 is than fp32."""
    import torch

    return _time_product(device, torch.float32, shape) / _time_product(device, torch.bfloat16, shape)


def _time_product(device: str, dtype: object, shape: tuple[int, int, int]) -> float:
    import torch

    clock = time.thread_time if device == "cpu" else time.perf_counter
    rows, inner, columns = shape
    left = torch.ones(rows, inner, device=device, dtype=dtype)  # type: ignore[call-overload]
    right = torch.ones(inner, columns, device=device, dtype=dtype)  # type: ignore[call-overload]
    best = float("inf")
    for _ in range(3):
        started = clock()
        float((left @ right)[0, 0])
        best = min(best, clock() - started)
    return best
