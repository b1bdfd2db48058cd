"""The whole training loop beside a bare PyTorch loop on the very same micro-batches, in turn, in one run.

    python benchmarks/bare_loop.py juliet_c.yaml juliet_java.yaml sven.yaml mini_400.yaml

A real run trains through `train_rank`, with its plan, token store, history, health watch and signs of life. Every few
steps it is held, and a bare loop makes the same steps with weights of its own: tensors made beforehand, forward,
backward, clip, step. Both have AdamW (fused), fp32 and the same threads; which of them comes first makes no difference,
as they take turns of seconds. The outcome goes to `results/bare_loop.txt`; exit code 1 below the bound.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from training_speed import BATCH, cpu_name, prepare_speed_run, train_bare

from secauditai.data.plan import BatchPlan
from secauditai.training.loop import train_rank
from secauditai.training.model import build_model
from secauditai.training.optimizer import build_optimizer
from secauditai.training.recipe import read_recipe
from secauditai.training.step import Stepper, StepResult

RESULTS = Path(__file__).parent / "results" / "bare_loop.txt"
FEWEST = 0.97
"""Of the bare loop's rate."""


class Turns:
    """Holds a run every few steps for the bare loop to make them too; the seconds of both, turn by turn."""

    def __init__(self, steps: int) -> None:
        self.steps, self.ours, self.bare = steps, list[float](), list[float]()
        self._model: torch.nn.Module | None = None
        self._begun: float | None = None

    def measure(self, run_root: Path) -> None:
        """Train the run to its end."""
        real, turns = Stepper.run, self

        def run(self: Stepper, plan: BatchPlan, step: int, *, stop: bool) -> StepResult:
            if (step - 1) % turns.steps == 0:
                turns._change(self, plan, step)
            return real(self, plan, step, stop=stop)

        Stepper.run = run  # type: ignore[method-assign]
        try:
            train_rank(run_root, 0, 1)
        finally:
            Stepper.run = real  # type: ignore[method-assign]

    def _change(self, stepper: Stepper, plan: BatchPlan, step: int) -> None:
        """A turn of ours is over; the next steps are the bare loop's first."""
        if self._begun is not None:
            self.ours.append(time.perf_counter() - self._begun)
        if step + self.steps - 1 <= stepper.recipe.total_steps:
            self.bare.append(self._train(stepper, plan, range(step, step + self.steps)))
        self._begun = time.perf_counter()

    def _train(self, stepper: Stepper, plan: BatchPlan, steps: range) -> float:
        recipe = stepper.recipe
        if self._model is None:
            self._model = build_model(recipe).train()
            self._optimizer = build_optimizer(self._model, recipe.optimization, recipe.learning_rate)
        return train_bare(stepper, plan, steps, self._model, self._optimizer)


def main() -> int:
    """Measure, print, keep the output; 1 when the bound is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="labelled data; default the built-in dataset")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps per turn")
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    few = {"max_steps": (options.turns + 1) * options.steps + 1, "eval_interval": 10**6, "checkpoint_interval": 10**6}
    with tempfile.TemporaryDirectory() as directory:
        run = prepare_speed_run(Path(directory), options.files, few)
        recipe, turns = read_recipe(run.layout.recipe), Turns(options.steps)
        turns.measure(run.root)
    # The first turn of each warms up.
    pairs = list(zip(turns.ours[1:], turns.bare[1:], strict=False))
    ratios = [bare / ours for ours, bare in pairs]
    ratio = statistics.median(ratios)
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())} · {cpu_name()}, {os.cpu_count()} CPUs, {recipe.threads} threads · "
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"transformer tiny, max_length 512, truncated, batch {BATCH}, fp32; "
        f"{len(pairs)} turns of {options.steps} steps",
        f"whole loop: {statistics.median(ours for ours, _ in pairs) / options.steps * 1000:.1f} ms per step; "
        f"bare loop: {statistics.median(bare for _, bare in pairs) / options.steps * 1000:.1f} ms",
        f"ours is {ratio:.3f} x the bare loop (median over turns; middle half {_middle(ratios)}); at least {FEWEST}",
    ]
    print("\n".join(lines))
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(ratio < FEWEST)


def _middle(values: list[float]) -> str:
    first, _, third = statistics.quantiles(values, n=4)
    return f"{first:.3f} to {third:.3f}"


if __name__ == "__main__":
    sys.exit(main())
