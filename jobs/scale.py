"""Ask an autoscaled cluster for workers and wait until they are there; with 0, let them go again.

    ray job submit --working-dir . -- python jobs/scale.py --gpus 4
    ray job submit --working-dir . -- python jobs/scale.py --gpus 4 python jobs/train.py --config jobs/smoke.yaml

A training plans with the nodes that exist when it starts, so ask first. What was asked for stays until it is changed.
With a command, it runs when the workers are there, they are let go when it has ended, and its exit code is this one's.
"""

import subprocess
import sys
import time
from argparse import REMAINDER, ArgumentParser

from secauditai.cluster import ensure_ray
from secauditai.errors import SecAuditError


def number(text: str) -> int:
    """How many; argparse tells the error."""
    if int(text) < 0:
        raise ValueError(text)
    return int(text)


def minutes(text: str) -> float:
    """How long; argparse tells the error."""
    if not float(text) >= 0:
        raise ValueError(text)
    return float(text)


def scale(wanted: dict[str, int], give_up: float) -> str | None:
    """Ask, and wait until that time at most; what went wrong."""
    try:
        ensure_ray()
    except SecAuditError as error:
        return str(error)
    import ray
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{kind: 1} for kind, count in wanted.items() for _ in range(count)])
    while True:
        there = ray.cluster_resources()
        missing = {kind: count for kind, count in wanted.items() if there.get(kind, 0.0) < count}
        if not missing:
            print("The cluster has " + ", ".join(f"{there.get(kind, 0.0):g} {kind}" for kind in wanted), flush=True)
            return None
        if time.monotonic() > give_up:
            return f"still missing {missing}; see `ray status`"
        time.sleep(2)


def run(command: list[str]) -> int:
    """Run a command without a connection of ours beside its own, then let the workers go; its exit code."""
    import ray

    ray.shutdown()
    try:
        code = subprocess.run(command, check=False).returncode
    except OSError as error:
        print(f"Error: {command[0]}: {error.strerror}", file=sys.stderr)
        code = 127
    if problem := scale({"GPU": 0, "CPU": 0}, time.monotonic()):
        print(f"Error: the workers could not be let go: {problem}", file=sys.stderr)
    return code if code >= 0 else 128 - code


def main() -> int:
    """Ask, then wait, then run the command; 1 when the cluster has not grown so far in time."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=number, default=0, help="GPUs that should be there")
    parser.add_argument("--cpus", type=number, default=0, help="CPUs that should be there")
    parser.add_argument("--minutes", type=minutes, default=20.0, help="how long to wait (default: 20)")
    parser.add_argument("command", nargs=REMAINDER, help="what runs then, with its arguments")
    known = parser.parse_args()
    problem = scale({"GPU": known.gpus, "CPU": known.cpus}, time.monotonic() + known.minutes * 60)
    if problem:
        print(f"Error: {problem}", file=sys.stderr)
        return 1
    return run(known.command) if known.command else 0


if __name__ == "__main__":
    sys.exit(main())
