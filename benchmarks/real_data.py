"""Train from scratch on real labelled files and compare with the baseline; with shuffled labels nothing may be learnt.

    python benchmarks/real_data.py juliet_java.yaml sven.yaml

Prints one line per file: held-out ROC AUC with its 95 % cluster-bootstrap interval, beside the TF-IDF baseline. All
train for `--epochs`. The model of the first file is exported, and its ONNX file compared with it.
"""

import argparse
import itertools
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from secauditai.data.dataset import open_dataset
from secauditai.data.readers import read_file

COMMAND = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train"]


def run(command: list[str]) -> dict[str, Any]:
    """The JSON document of a command; what it said when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr or done.stdout)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def train_and_evaluate(data: Path, name: str, work: Path, epochs: int) -> dict[str, float]:
    """Held-out numbers of one training."""
    place = ["--workspace", str(work), "--json"]
    train = [*COMMAND, "finetune", "--data", str(data), "--name", name, "--epochs", str(epochs), *place]
    trained = run(train)
    root = Path(json.loads((Path(trained["run_dir"]) / "run.json").read_text())["dataset"])
    groups = [
        set(pq.read_table(root / split, columns=["cluster"])["cluster"].to_pylist())
        for split in ("train", "val", "test")
    ]
    measure = [*COMMAND, "evaluate", "--model", name, *place]
    found = run(measure)
    low, high = found["intervals"]["roc_auc"]
    return {
        "test_samples": found["n"],
        "roc_auc": found["metrics"]["roc_auc"],
        "low": low,
        "high": high,
        "baseline_roc_auc": found["baselines"]["tfidf_logistic_regression"]["roc_auc"],
        "straddling_groups": len(set().union(*(one & other for one, other in itertools.combinations(groups, 2)))),
        "kept": open_dataset(root).manifest["kept"],
        "seconds": trained["seconds"],
    }


def export_and_verify(name: str, work: Path) -> str:
    """What `verify` finds of a model's exported graph; it ends the benchmark when they differ."""
    place, graph = ["--workspace", str(work), "--json"], str(work / f"{name}.onnx")
    run([*COMMAND, "export", "--model", name, "--output", graph, *place])
    found = run([*COMMAND, "verify", "--model", graph, *place])
    compared = ", ".join(f"{count} of {windows} windows" for windows, count in found["samples_by_windows"].items())
    return f"verified, max |Δlogit| {found['max_abs_diff']:.1e} on {compared}"


def shuffle_labels(source: Path, target: Path) -> None:
    """The same samples with their labels dealt out anew."""
    samples = [dict(raw.value) for raw in read_file(source) if isinstance(raw.value, dict)]
    labels = [sample["label"] for sample in samples]
    random.Random(0).shuffle(labels)
    target.write_text(json.dumps([{**sample, "label": label} for sample, label in zip(samples, labels, strict=True)]))


def main() -> None:
    """Measure every file, and the first one with shuffled labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--epochs", type=int, default=3, help="of every training, that on shuffled labels too")
    options = parser.parse_args()
    print(f"# python benchmarks/real_data.py {' '.join(path.name for path in options.files)} --epochs {options.epochs}")
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())} · {os.cpu_count()} CPUs · Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        shuffled = work / "shuffled.json"
        shuffle_labels(options.files[0], shuffled)
        for number, path in enumerate([*options.files, shuffled]):
            found = train_and_evaluate(path, f"m{number}", work / "w", options.epochs)
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{path.name}: {shown}", flush=True)
        print(f"{options.files[0].name}, exported: {export_and_verify('m0', work / 'w')}", flush=True)


if __name__ == "__main__":
    main()
