"""Train from scratch on real labelled files and compare with the baseline; with shuffled labels nothing may be learnt.

    python benchmarks/real_data.py juliet_java.yaml sven.yaml

Prints one line per file: held-out ROC AUC with its 95 % cluster-bootstrap interval, beside the TF-IDF baseline.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
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
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def train_and_evaluate(data: Path, name: str, work: Path, epochs: int) -> dict[str, float]:
    """Held-out numbers of one training."""
    place = ["--workspace", str(work), "--json"]
    train = [*COMMAND, "finetune", "--data", str(data), "--name", name, "--epochs", str(epochs), *place]
    trained = run(train)
    root = Path(json.loads((Path(trained["run_dir"]) / "run.json").read_text())["dataset"])
    groups = [
        set(pq.read_table(root / split, columns=["cluster"])["cluster"].to_pylist()) for split in ("train", "test")
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
        "straddling_groups": len(groups[0] & groups[1]),
        "kept": open_dataset(root).manifest["kept"],
        "seconds": trained["seconds"],
    }


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
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    print(f"# python benchmarks/real_data.py {' '.join(path.name for path in options.files)} --epochs {options.epochs}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        shuffled = work / "shuffled.json"
        shuffle_labels(options.files[0], shuffled)
        for number, path in enumerate([*options.files, shuffled]):
            found = train_and_evaluate(path, f"m{number}", work / "w", 1 if path == shuffled else options.epochs)
            shown = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            print(f"{path.name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
