"""Samples per second of two workers with one thread each, beside one process with two threads, in one run.

    python benchmarks/workers.py juliet_c.yaml juliet_java.yaml sven.yaml mini_400.yaml

Both sides take the run's own optimizer steps (`training/step.py`) on the same global batches, from the same weights:
one process with two threads, and two processes with one thread each that reduce the gradient over gloo, as Ray's
workers do. They take turns; who waits, waits asleep. Beside the rates stands what the plan allows: micro-batches are
planned globally, and a step lasts as long as its busier rank. Then whole trainings take turns, in this process and on
two Ray workers; their rates are those of their own histories. Without files the built-in dataset is used.
"""

import argparse
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from secauditai.config.files import resolve_config
from secauditai.data.plan import BatchPlan, assign
from secauditai.data.tokens import open_token_store
from secauditai.runs import Run, read_metrics
from secauditai.training.launch import launch
from secauditai.training.loop import build_plan
from secauditai.training.model import build_model
from secauditai.training.objectives import build_objective
from secauditai.training.optimizer import build_optimizer
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.rank import Rank
from secauditai.training.recipe import Recipe, read_recipe
from secauditai.training.request import TrainRequest
from secauditai.training.step import Stepper

WORKERS = 2
WHOLE_STEPS = 60


def write_mix(work: Path, files: list[str]) -> str:
    """The data of all files."""
    if not files:
        return "security_dataset"
    (work / "mix").mkdir()
    for path in map(Path, files):
        (work / "mix" / path.name).write_bytes(path.read_bytes())
    return str(work / "mix")


def prepare_mix(work: Path, data: str, batch_size: int, **more: int) -> Run:
    """A prepared run over the data."""
    settings = {
        "data": data,
        "max_length": 512,
        "batch_size": batch_size,
        "precision": "fp32",
        "near_duplicates": False,
        **more,
    }
    config = resolve_config({"model": "transformer", "model_size": "tiny", "long_code": "truncate", **settings})
    return prepare_run(plan_training(TrainRequest("finetune", "workers", config, work / "workspace")))


class Side:
    """One rank's steps; each turn goes on where the last one ended."""

    def __init__(self, recipe: Recipe, index: int, world_size: int) -> None:
        torch.set_num_threads(WORKERS // world_size)
        store, rank = open_token_store(Path(recipe.train_store)), Rank(index, world_size, torch.device("cpu"), "fp32")
        self.plan: BatchPlan = build_plan(recipe, store, recipe.micro_batch_tokens)
        model = build_model(recipe).train()
        optimizer = build_optimizer(model, recipe.optimization, recipe.learning_rate)
        self.stepper = Stepper(recipe, rank, model, optimizer, build_objective(recipe, store), store)
        self.reduced = self.stepper.flat.buffer.nbytes
        self.done = 0

    def train(self, steps: int) -> tuple[float, int]:
        """Take steps; return the seconds, and the samples trained on."""
        started, samples = time.perf_counter(), 0
        for _ in range(steps):
            self.done += 1
            samples += self.stepper.run(self.plan, self.done, stop=False).samples
        return time.perf_counter() - started, samples


def serve(recipe_path: Path, index: int, world_size: int, port: int, orders: Connection) -> None:
    """A process that trains on demand, until it is told to train no steps."""
    if world_size > 1:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=index, world_size=world_size)
    side = Side(read_recipe(recipe_path), index, world_size)
    orders.send(side.reduced)
    while steps := orders.recv():
        orders.send(side.train(steps))
    if world_size > 1:
        dist.destroy_process_group()


class Group:
    """Processes that train together."""

    def __init__(self, recipe_path: Path, world_size: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.orders: list[Connection] = []
        self.processes = []
        for index in range(world_size):
            ours, theirs = mp.Pipe()
            process = mp.get_context("spawn").Process(target=serve, args=(recipe_path, index, world_size, port, theirs))
            process.start()
            theirs.close()
            self.orders.append(ours)
            self.processes.append(process)
        reduced = [orders.recv() for orders in self.orders]
        self.reduced: int = reduced[0]

    def train(self, steps: int) -> float:
        """Samples per second over some steps."""
        for orders in self.orders:
            orders.send(steps)
        answers = [orders.recv() for orders in self.orders]
        return float(answers[0][1] / max(seconds for seconds, _ in answers))

    def close(self) -> None:
        """End the processes."""
        for orders in self.orders:
            orders.send(0)
        for process in self.processes:
            process.join()


@contextmanager
def groups(recipe_path: Path) -> Iterator[dict[int, Group]]:
    """Both sides, by number of workers."""
    found = {world_size: Group(recipe_path, world_size) for world_size in (1, WORKERS)}
    try:
        yield found
    finally:
        for group in found.values():
            group.close()


def train_whole(work: Path, data: str, batch_size: int, world_size: int) -> float:
    """Samples per second of a whole training by its own history, the median of its steps without the first ten."""
    threads = WORKERS // world_size
    run = prepare_mix(
        work, data, batch_size, num_workers=world_size, threads=threads, max_steps=WHOLE_STEPS, log_interval=1
    )
    launch(run, in_process=world_size == 1)
    records = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "train"]
    return statistics.median(record["samples_per_second"] for record in records[10:])


def compare_whole(work: Path, data: str, batch_size: int, rounds: int) -> None:
    """Print the rates of whole trainings in turn."""
    pairs = [[train_whole(work, data, batch_size, world_size) for world_size in (1, WORKERS)] for _ in range(rounds)]
    shown = ", ".join(f"{one:.0f} and {two:.0f}" for one, two in pairs)
    ratio = statistics.median(two / one for one, two in pairs)
    print(f"whole trainings of {WHOLE_STEPS} steps, in this process and on {WORKERS} Ray workers: {shown} samples/s")
    print(f"Ray workers / one process: {ratio:.1%} (median of {rounds} turns; to be at least 85 %)")


def balance(recipe: Recipe, steps: int) -> float:
    """The share of the workers' time that the plan can fill, from its own costs."""
    plan = build_plan(recipe, open_token_store(Path(recipe.train_store)), recipe.micro_batch_tokens)
    total = busiest = 0
    for step in range(1, steps + 1):
        loads = [sum(batch.cost for batch in share) for share in assign(plan.micro_batches(step), WORKERS)]
        total, busiest = total + sum(loads), busiest + max(loads)
    return total / (WORKERS * busiest)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="labelled data; default the built-in dataset")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn; few, as machines change speed")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--whole-rounds", type=int, default=5, help="turns of whole trainings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="workers-") as directory:
        work, data = Path(directory), write_mix(Path(directory), options.files)
        recipe_path = prepare_mix(work, data, options.batch_size).layout.recipe
        recipe = read_recipe(recipe_path)
        with groups(recipe_path) as sides:
            print(
                f"{time.strftime('%Y-%m-%d', time.gmtime())} · {os.cpu_count()} CPUs · Python "
                f"{platform.python_version()}, torch {version('torch')}\ntransformer tiny, max_length 512, truncated, "
                f"batch_size {options.batch_size}, fp32, micro_batch_tokens {recipe.micro_batch_tokens}; "
                f"{len(options.files) or 'built-in'} data files, {sides[1].reduced / 2**20:.1f} MiB reduced per step",
                flush=True,
            )
            rates: dict[int, list[float]] = {1: [], WORKERS: []}
            for group in sides.values():
                group.train(3)  # warms up
            for turn in range(options.rounds):
                for world_size, group in sides.items():
                    rates[world_size].append(group.train(options.steps))
                print(f"turn {turn + 1}: {rates[1][-1]:.1f} and {rates[WORKERS][-1]:.1f} samples/s", file=sys.stderr)
        ratios = [two / one for one, two in zip(rates[1], rates[WORKERS], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4)
        print(f"one process, {WORKERS} threads:       {statistics.median(rates[1]):7.1f} samples/s")
        print(f"{WORKERS} workers, one thread each:   {statistics.median(rates[WORKERS]):7.1f} samples/s")
        print(
            f"workers / one process: {ratio:.1%} (median of {options.rounds} turns, half of them between {low:.0%} and "
            f"{high:.0%}; to be at least 85 %)"
        )
        print(f"share of the workers' time that the plan fills: {balance(recipe, options.rounds * options.steps):.1%}")
        compare_whole(work, data, options.batch_size, options.whole_rounds)


if __name__ == "__main__":
    main()
