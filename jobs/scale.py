"""Ask an autoscaled cluster for workers and wait until they are there; with 0, let them go again.

    ray job submit --working-dir . -- python jobs/scale.py --gpus 4

A training plans with the GPUs that exist when it starts, so ask first. What was asked for stays until it is changed.
"""

import sys
import time
from argparse import ArgumentParser

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


def main() -> int:
    """Ask, then wait; 1 when the cluster has not grown so far in time."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpus", type=number, default=0, help="GPUs that should be there")
    parser.add_argument("--cpus", type=number, default=0, help="CPUs that should be there")
    parser.add_argument("--minutes", type=minutes, default=20.0, help="how long to wait (default: 20)")
    known = parser.parse_args()
    try:
        ensure_ray()
    except SecAuditError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    import ray
    from ray.autoscaler.sdk import request_resources

    wanted = {"GPU": known.gpus, "CPU": known.cpus}
    request_resources(bundles=[{kind: 1} for kind, count in wanted.items() for _ in range(count)])
    give_up = time.monotonic() + known.minutes * 60
    while True:
        there = ray.cluster_resources()
        missing = {kind: count for kind, count in wanted.items() if there.get(kind, 0.0) < count}
        if not missing:
            print("The cluster has " + ", ".join(f"{there.get(kind, 0.0):g} {kind}" for kind in wanted))
            return 0
        if time.monotonic() > give_up:
            print(f"Error: still missing {missing} after {known.minutes:g} minutes; see `ray status`", file=sys.stderr)
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
