"""From command to first optimizer step, beside what the libraries alone take in the same run.

    python benchmarks/startup.py                # three rounds, about seven minutes
    python benchmarks/startup.py --rounds 2

Every command is the real one, in a process of its own, on the built-in data, prepared and split once. It trains one
step; the time is from just before the process starts to the `time` of the first `train` record of its metrics. "Used"
is a workspace that has trained on the same data before, so that its tokens and its database are there.

Baselines: a process that imports torch, transformers, ray.train.torch and mlflow and ends; and a program whose
two-worker `TorchTrainer` writes down the time at which both workers have entered the loop.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECAUDITAI = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train"]
IMPORTS = "import torch, transformers, ray.train.torch, mlflow"
TRIVIAL_FIT = """
import sys, time
import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def loop(config):
    rank = ray.train.get_context().get_world_rank()
    with open(f"{config['output']}/entered_{rank}", "w") as file:
        file.write(repr(time.time()))

ray.init(address="local", include_dashboard=False, log_to_driver=False)
TorchTrainer(
    loop,
    train_loop_config={"output": sys.argv[1]},
    scaling_config=ScalingConfig(num_workers=2),
    run_config=RunConfig(name="trivial", storage_path=sys.argv[1]),
).fit()
"""
LIGHT = (
    ["--help"],
    ["config", "set", "measured", "epochs", "3"],
    ["monitor", "--model", "used", "--once"],
    ["validate", "--dataset", "training_data"],
)


class Bench:
    """A directory with prepared data and a used workspace, and the commands measured in it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.fresh = 0
        self.startups: list[float] = []
        self.run(["prepare", "--dataset", "security_dataset", "--output", "training_data"])
        self.run(["split", "--dataset", "training_data"])
        self.run(["config", "create", "--name", "measured", "--type", "transformer", "--workspace", "used"])
        self.first_step("used")

    def run(self, arguments: list[str], command: list[str] = SECAUDITAI) -> tuple[float, float, str]:
        """When the process started (time.time()), how long it took in seconds, and its stdout."""
        started, clock = time.time(), time.monotonic()
        done = subprocess.run([*command, *arguments], cwd=self.home, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{command} {arguments} failed:\n{done.stdout}\n{done.stderr}")
        return started, time.monotonic() - clock, done.stdout

    def first_step(self, workspace: str, *options: str) -> tuple[float, dict[str, Any]]:
        """Seconds from command to first optimizer step, and the command's document."""
        started, _, output = self.run(
            [
                *("finetune", "--model", "transformer", "--data", "training_data", "--name", "used"),
                *("--max-steps", "1", "--workspace", workspace, "--json", *options),
            ]
        )
        document: dict[str, Any] = json.loads(output)
        lines = (Path(document["run_dir"]) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        first = next(record for record in map(json.loads, lines) if record["kind"] == "train")
        return first["time"] - started, document

    def in_process(self) -> float:
        """In a used workspace, in the command's own process."""
        return self.first_step("used", "--num-workers", "1")[0]

    def two_workers(self) -> float:
        """In a used workspace, in two Ray workers."""
        seconds, document = self.first_step("used", "--num-workers", "2")
        self.startups.append(document["ray_startup_seconds"])
        return seconds

    def first_use(self) -> float:
        """In a workspace that is not there yet: tokenising, a new database."""
        self.fresh += 1
        seconds, _ = self.first_step(f"fresh_{self.fresh}", "--num-workers", "1")
        shutil.rmtree(self.home / f"fresh_{self.fresh}")
        return seconds

    def imports(self) -> float:
        """A process that imports the libraries and ends."""
        return self.run([], [sys.executable, "-c", IMPORTS])[1]

    def trivial_fit(self) -> float:
        """From command to both workers of a trivial fit being in the loop."""
        with tempfile.TemporaryDirectory(dir=self.home) as output:
            started, _, _ = self.run([output], [sys.executable, "-c", TRIVIAL_FIT])
            return max(float(path.read_text()) for path in Path(output).glob("entered_*")) - started

    def light(self, arguments: list[str]) -> float:
        """Wall time of a command that trains nothing."""
        return self.run([*arguments, "--workspace", "used"] if arguments[0] in ("config", "monitor") else arguments)[1]


def measure(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Seconds of every case, all cases once per round."""
    cases: dict[str, Callable[[], float]] = {
        "imports alone": bench.imports,
        "in-process, used workspace": bench.in_process,
        "trivial fit, two workers": bench.trivial_fit,
        "two workers, used workspace": bench.two_workers,
        "in-process, first use": bench.first_use,
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name, case in cases.items():
            found[name].append(case())
        print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return found


def report(found: dict[str, list[float]], bench: Bench) -> None:
    """Print medians, ranges and ratios."""
    medians = {name: statistics.median(values) for name, values in found.items()}
    compared = {
        "in-process, used workspace": ("imports alone", 8.0),
        "two workers, used workspace": ("trivial fit, two workers", 20.0),
        "in-process, first use": ("imports alone", 15.0),
    }
    for name, values in found.items():
        spread = f"{medians[name]:6.2f} s  ({min(values):.2f} to {max(values):.2f})"
        base, limit = compared.get(name, (None, None))
        ratio = f"  {medians[name] / medians[base]:.2f} x {base}; to be under {limit:.0f} s" if base and limit else ""
        print(f"{name:<28}{spread}{ratio}")
    print(f"ray_startup_seconds of the two-worker runs: {statistics.median(bench.startups):.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())} · {os.cpu_count()} CPUs · {options.rounds} rounds, medians")
    with tempfile.TemporaryDirectory(prefix="startup-") as directory:
        bench = Bench(Path(directory))
        report(measure(bench, options.rounds), bench)
        for arguments in LIGHT:
            seconds = statistics.median(bench.light(arguments) for _ in range(3))
            print(f"secauditai train {' '.join(arguments):<40}{seconds:6.2f} s")


if __name__ == "__main__":
    main()
