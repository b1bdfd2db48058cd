"""What checkpoints cost: step time with one every 50 steps against none, in one run, epoch by epoch in turn.

Every epoch has 50 steps over the same samples, so epochs are alike but for the checkpoint in every other one. The
outcome goes to `results/checkpoint_cost.txt`.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from secauditai.config.files import resolve_config
from secauditai.training.journal import Journal
from secauditai.training.loop import train_rank
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.request import TrainRequest
from secauditai.training.step import Stepper

HERE = Path(__file__).parent
STEPS, BATCH = 50, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10, help="epochs with and without a checkpoint")
    pairs = parser.parse_args().pairs
    ends: list[tuple[float, float]] = []
    holds: list[float] = []
    _measure(ends, holds)
    with tempfile.TemporaryDirectory() as directory:
        run = _prepare(Path(directory), epochs=1 + 2 * pairs)
        assert run.info.steps_per_epoch == STEPS
        state = train_rank(run.root, 0, 1)
        assert state is not None
        assert state.finished
    without, with_one, ratios = _compare([wall for wall, _ in ends])
    computed_without, computed_with, computed = _compare([processor for _, processor in ends])
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())} · Python {platform.python_version()} · {os.cpu_count()} CPUs",
        "transformer tiny, max_length 512, batch 32, epochs of 50 steps in turn without and with a checkpoint",
        "",
        f"without: {statistics.median(without) / STEPS * 1000:.1f} ms per step (median of {pairs} epochs)",
        f"with one every {STEPS} steps: {statistics.median(with_one) / STEPS * 1000:.1f} ms per step",
        f"cost: {statistics.median(ratios):+.2%} (median over pairs; each {', '.join(f'{r:+.1%}' for r in ratios)})",
        f"processor time of all threads, which other work on the machine hardly changes: "
        f"{statistics.median(computed_without) / STEPS * 1000:.1f} and "
        f"{statistics.median(computed_with) / STEPS * 1000:.1f} ms per step, {statistics.median(computed):+.2%} "
        f"(each {', '.join(f'{r:+.1%}' for r in computed)})",
        f"the loop itself is held up {statistics.median(holds) * 1000:.1f} ms by a checkpoint, "
        f"{statistics.median(holds) / statistics.median(without):.2%} of an epoch",
    ]
    print("\n".join(lines))
    (HERE / "results" / "checkpoint_cost.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _compare(ends: list[float]) -> tuple[list[float], list[float], list[float]]:
    """Epochs without and with a checkpoint by a clock, and what the latter took more; the first epoch warms up."""
    epochs = [ends[start + STEPS - 1] - ends[start - 1] for start in range(STEPS, len(ends), STEPS)]
    without, with_one = epochs[0::2], epochs[1::2]
    return without, with_one, [one / none - 1 for one, none in zip(with_one, without, strict=True)]


def _prepare(directory: Path, *, epochs: int) -> Any:
    settings = {
        "data": "security_dataset",
        "max_length": 512,
        "batch_size": BATCH,
        "epochs": epochs,
        "eval_interval": 10**6,
        "checkpoint_interval": 10**6,
        "precision": "fp32",
    }
    return prepare_run(plan_training(TrainRequest("finetune", "m", resolve_config(settings), directory)))


def _measure(ends: list[tuple[float, float]], holds: list[float]) -> None:
    """Note when each step ends; have a checkpoint written early in every other epoch, and note how long that takes."""
    run, save = Stepper.run, Journal.save

    def timed_run(self: Stepper, *arguments: Any, **options: Any) -> Any:
        result = run(self, *arguments, **options)
        ends.append((time.monotonic(), time.process_time()))
        return result

    def due(self: Journal, step: int) -> bool:  # noqa: ARG001
        epoch, within = divmod(step - 1, STEPS)
        return within == 9 and epoch > 0 and epoch % 2 == 0

    def timed_save(self: Journal, *arguments: Any) -> None:
        started = time.monotonic()
        save(self, *arguments)
        if len(ends) > STEPS:
            holds.append(time.monotonic() - started)

    Stepper.run, Journal.due, Journal.save = timed_run, due, timed_save  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
