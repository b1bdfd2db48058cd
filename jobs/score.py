"""Score a file of samples with a registered model, as a task on a worker of the cluster.

    ray job submit --working-dir . -- python jobs/score.py --workspace /workspace \
        --model trained_model --data /workspace/data/new.jsonl --output /workspace/scores.parquet

The options are those of `secauditai train predict`. Paths are the worker's: use absolute ones on shared storage.
The workspace may be on an object store (`s3://…`).
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

from secauditai.cluster import ensure_ray, work_labels
from secauditai.errors import SecAuditError
from secauditai.storage import is_remote

PREDICT = "import sys; from secauditai.cli.app import main; sys.argv[:1] = ['secauditai', 'train', 'predict']; main()"


def score(arguments: list[str]) -> tuple[int, str, str]:
    """Run `secauditai train predict` here; its exit code, output and messages."""
    done = subprocess.run([sys.executable, "-c", PREDICT, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def amount(text: str) -> float:
    """A number of CPUs or GPUs; argparse tells the error."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(text)
    return value


def main() -> int:
    """Read the command line, run the task, and end as it ended."""
    parser = ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other options go to `train predict`.", allow_abbrev=False
    )
    parser.add_argument("--workspace", default=os.environ.get("SECAUDITAI_WORKSPACE", ".secauditai"))
    parser.add_argument("--output", required=True, help="absolute path of a .parquet or .jsonl file")
    parser.add_argument("--cpus", type=amount, default=1.0, help="CPUs of the task (default: 1)")
    parser.add_argument("--gpus", type=amount, default=0.0, help="GPUs of the task (default: 0)")
    known, further = parser.parse_known_args()
    for name in ("workspace", "output"):
        value = getattr(known, name)
        if not Path(value).is_absolute() and not (name == "workspace" and is_remote(value)):
            parser.error(f"--{name} must be an absolute path, on storage that the workers share")
    try:
        cluster = ensure_ray()
    except SecAuditError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    import ray

    if not any(node.cpus >= known.cpus and node.gpus >= known.gpus for node in cluster.nodes):
        need = f"{known.cpus:g} CPUs and {known.gpus:g} GPUs"
        print(f"No node has {need}: waiting until one has joined (see `ray status`).", file=sys.stderr)
    wanted = {"num_cpus": known.cpus, "num_gpus": known.gpus, "label_selector": work_labels()}
    task = ray.remote(score).options(**wanted, max_retries=1)
    arguments = [*further, "--workspace", known.workspace, "--output", known.output]
    code, out, err = ray.get(task.remote(arguments))
    sys.stdout.write(out)
    sys.stderr.write(err)
    return code


if __name__ == "__main__":
    sys.exit(main())
