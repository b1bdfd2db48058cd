"""Does `train base` help? Masked-language loss while an encoder adapts, then steps to a validation F1 with and without.

    python benchmarks/transfer.py juliet_c.yaml juliet_java.yaml sven.yaml

The first file is fine-tuned on; the base encoder sees the code of the others and of the first one's train split, no
label, and none of the code that fine-tuning is validated on. Both arms have the same size, tokenizer, learning rate,
data order and heads for a seed; "from scratch" begins with weights drawn from that seed, the other with the base
encoder. Code is cut to 256 tokens so that all of it takes about ten minutes on two cores.
Exit code 1 when the loss does not fall steadily, or the base encoder does not need fewer steps to each target, on the
average of the seeds.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from secauditai.config.files import resolve_config
from secauditai.config.settings import CleaningSettings
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.runs import Run, read_metrics
from secauditai.training.finish import save_best
from secauditai.training.launch import launch
from secauditai.training.preparation import plan_training, prepare_run
from secauditai.training.recipe import read_recipe
from secauditai.training.request import TrainRequest

NOISE = 0.02
"""Nats by which a validation may lie above the one before: masks are the same each time, dropout and order are not."""
EVAL_INTERVAL = 5
COMMON = {"max_length": 256, "long_code": "truncate", "vocab_size": 4096, "precision": "fp32", "model_size": "tiny"}
Curve = list[tuple[int, float]]
"""Steps, each with the validation F1 there."""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="labelled data to fine-tune on")
    parser.add_argument("others", type=Path, nargs="+", help="more code for the base encoder")
    parser.add_argument("--base-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=100, help="steps of each fine-tuning")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.78, 0.8], help="validation F1 to reach")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        task = split_by_group(options.task, work / "task")
        base_data = split_by_group(code_for_base(task, options.others, work / "code"), work / "base")
        base = train(work, "base", base_data, options.base_steps, options, seed=1, eval_interval=50)
        falls = show_loss(base)
        curves = list[list[Curve]]()
        for seed in range(1, options.seeds + 1):
            fresh = prepare_run(plan_training(request(work, "base", base_data, options, seed=seed, max_steps=1)))
            curves.append(compare(work, task, options, seed, fresh=fresh.layout.initial, adapted=save_encoder(base)))
    fewer = [show_steps(target, curves) for target in options.targets]
    print(f"{time.monotonic() - began:.0f} s in all")
    return 0 if falls and all(fewer) else 1


def split_by_group(data: Path, output: Path) -> Path:
    """A prepared dataset whose splits share no group; near duplicates may, as in the published numbers."""
    prepare(str(data), output, CleaningSettings(near_duplicates=False))
    split_dataset(open_dataset(output), SplitPlan(seed=1))
    return output


def code_for_base(task: Path, others: list[Path], output: Path) -> Path:
    """A directory with the other files and the train split of the task."""
    output.mkdir()
    for path in others:
        (output / path.name).write_bytes(path.read_bytes())
    with (output / "train.jsonl").open("w", encoding="utf-8") as lines:
        for row in open_dataset(task).table("train").to_pylist():
            kept = {key: row[key] for key in ("id", "code", "label", "severity", "category")}
            lines.write(json.dumps({**kept, "metadata": json.loads(row["metadata"])}) + "\n")
    return output


def request(work: Path, kind: str, data: Path, options: argparse.Namespace, **settings: Any) -> TrainRequest:
    """A training of the benchmark."""
    layer = {**COMMON, "data": str(data), "threads": options.threads, **settings}
    if "model" in layer:
        del layer["model_size"]
    return TrainRequest(kind, kind, resolve_config(layer), work / "workspace")


def train(work: Path, kind: str, data: Path, steps: int, options: argparse.Namespace, **settings: Any) -> Run:
    """Train in this process and return the run."""
    run = prepare_run(plan_training(request(work, kind, data, options, max_steps=steps, **settings)))
    launch(run, in_process=True)
    return run


def show_loss(base: Run) -> bool:
    """Print the validation curve; tell whether it falls at each validation, within noise."""
    curve = [(r["step"], r["loss"]) for r in read_metrics(base.layout.metrics) if r["kind"] == "val"]
    print("masked-language loss on validation:", ", ".join(f"{step}: {loss:.3f}" for step, loss in curve), flush=True)
    losses = [loss for _, loss in curve]
    if not losses:
        raise SystemExit("the base training has recorded no validation")
    falls = all(after < before + NOISE for before, after in itertools.pairwise(losses))
    print(f"falls at every validation: {'yes' if falls else 'NO'}", flush=True)
    return falls and losses[-1] < losses[0]


def save_encoder(base: Run) -> Path:
    """The bundle of the base run, from which `finetune` starts."""
    return base.layout.bundle if base.layout.bundle.exists() else save_best(base)[0].layout.root


def show_steps(target: float, curves: list[list[Curve]]) -> bool:
    """Print the first steps at the target, one more than all if none; tell whether the base encoder needs fewer."""
    steps = [[first_step(curve, target) for curve in pair] for pair in curves]
    scratch, adapted = (sum(pair[i] for pair in steps) / len(steps) for i in (0, 1))
    each = ", ".join(f"{fresh} against {base}" for fresh, base in steps)
    print(
        f"steps to F1 {target}: from scratch against from the base encoder, by seed: {each}; "
        f"mean {scratch:.0f} against {adapted:.0f} ({scratch / adapted:.2f} x)"
    )
    return adapted < scratch


def first_step(curve: Curve, target: float) -> int:
    """The step of the first validation at the target; one more than all steps if there is none."""
    return next((step for step, f1 in curve if f1 >= target), curve[-1][0] + 1)


def compare(
    work: Path, task: Path, options: argparse.Namespace, seed: int, *, fresh: Path, adapted: Path
) -> list[Curve]:
    """Fine-tune from both; print and return the curves of validation F1."""
    found = list[Curve]()
    for name, model in (("scratch", fresh), ("base", adapted)):
        run = train(
            work,
            "finetune",
            task,
            options.steps,
            options,
            seed=seed,
            eval_interval=EVAL_INTERVAL,
            model=str(model),
            scheduler="constant",
        )
        curve = [(r["step"], r["f1"], r["roc_auc"]) for r in read_metrics(run.layout.metrics) if r["kind"] == "val"]
        rate = read_recipe(run.layout.recipe).learning_rate
        shown = " ".join(f"{f1:.2f}" for _, f1, _ in curve)
        print(
            f"seed {seed} {name:7} learning rate {rate:g}: F1 each {EVAL_INTERVAL} steps {shown}; "
            f"best AUC {max(auc for *_, auc in curve):.3f}",
            flush=True,
        )
        found.append([(step, f1) for step, f1, _ in curve])
    return found


if __name__ == "__main__":
    sys.exit(main())
