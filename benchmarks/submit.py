"""What submitting a command to a cluster takes beyond imports: a fresh process, in a directory of its own, each time.

    python benchmarks/submit.py

Starts a Ray head of its own. The imports are those of the command's own modules and of Ray's job client, in a process
that does nothing else; submitting ends when the cluster has taken the job. Data is staged anew each time.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import yaml
from conftest import make_samples
from ray_head import Head, ray_head

MOST_SECONDS = 5.0
ROUNDS = 3
IMPORTS = """
import ray.job_submission
import secauditai.cli.app, secauditai.cli.data, secauditai.doctor.endpoint, secauditai.doctor.findings
import secauditai.storage, secauditai.submission.command, secauditai.submission.jobs, secauditai.submission.request
import secauditai.submission.staging, secauditai.submission.addresses
"""
COMMAND = "from secauditai.cli.app import main; main()"


def importing(head: Head, here: Path) -> float:
    """Seconds of a process that only imports."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", IMPORTS], cwd=here, env=head.environment, check=True)
    return time.monotonic() - started


def submitting(head: Head, here: Path) -> float:
    """Seconds until a command's job was taken; returns when the job is over, so that it takes no time from the next."""
    words = ["train", "prepare", "--dataset", "raw.yaml", "--output", "data", "--address", head.jobs_address]
    started = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        cwd=here,
        env=head.environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        taken, said = 0.0, list[str]()
        for line in process.stdout:
            said.append(line)
            if line.startswith("Job ") and not taken:
                taken = time.monotonic() - started
    if process.returncode != 0 or not taken:
        sys.exit(f"the job failed:\n{''.join(said)}")
    return taken


def main() -> int:
    """Measure, print, keep the output; 1 when the bound is broken."""
    imports, submits = list[float](), list[float]()
    with tempfile.TemporaryDirectory() as directory, ray_head(Path(directory)) as head:
        for number in range(ROUNDS):
            here = Path(directory) / str(number)
            here.mkdir()
            (here / "raw.yaml").write_text(yaml.safe_dump({"samples": make_samples(200, start=1000 * number)}))
            imports.append(importing(head, here))
            submits.append(submitting(head, here))
            print(f"imports {imports[-1]:.2f} s, until the job was taken {submits[-1]:.2f} s", flush=True)
    beyond = statistics.median(submits) - statistics.median(imports)
    lines = [
        f"median of {ROUNDS} submissions from directories of their own, data staged each time; "
        f"{len(os.sched_getaffinity(0))} CPUs",
        f"imports alone: {statistics.median(imports):.2f} s",
        f"until the job was taken: {statistics.median(submits):.2f} s, "
        f"{statistics.median(submits) / statistics.median(imports):.2f}x the imports",
        f"beyond imports: {beyond:.2f} s (at most {MOST_SECONDS:g})",
    ]
    print("\n".join(lines))
    (Path(__file__).parent / "results" / "submit.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(beyond > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
