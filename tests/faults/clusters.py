"""Faults that need a Ray cluster of their own, each run by a test in a fresh process: `python clusters.py CASE DATA DIRECTORY`.

Prints one JSON document as its last line.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from fault_runs import at_steps, sabotage, start, wait_for_step, wait_until

HEADROOM = 3 * 2**30
"""Bytes that may still be used before Ray's memory monitor kills."""
MICRO_BATCH_TOKENS = 256
PIECE = 2**28
MOST_PIECES = 4 * HEADROOM // PIECE
"""After so many pieces of memory the monitor is found not to work."""


class Patch:
    """Stands for pytest's fixture."""

    def setattr(self, target: Any, name: str, value: object) -> None:
        setattr(target, name, value)


def report(run: Any, result: Any, said: list[str]) -> None:
    from secauditai.runs import read_metrics

    events = [record for record in read_metrics(run.layout.metrics) if record["kind"] == "event"]
    print(json.dumps({"attempts": result.attempts, "finished": result.finished, "said": said, "events": events}))


def preemption(data: Path, directory: Path) -> None:
    """Two nodes with a worker each, of which one is drained; the run goes on with one worker."""
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    from secauditai.training.launch import launch

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    run, said = start(data, directory, "1-2"), list[str]()

    def drain() -> None:
        wait_for_step(run, 40)
        deadline = (time.time_ns() // 1_000_000) + 15_000
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, _ = ray._raylet.GcsClient(address=cluster.address).drain_node(
            second.node_id, reason, "the cloud wants it back", deadline
        )
        assert accepted
        while not any("node preempted" in text for text in said):
            time.sleep(0.05)
        cluster.remove_node(second)

    threading.Thread(target=drain, daemon=True).start()
    report(run, launch(run, notify=said.append), said)
    ray.shutdown()
    cluster.shutdown()


def hold(config: dict[str, str]) -> None:
    """Let no rank begin step 45 before the node is dead: Ray takes longer to notice than these steps."""
    import time
    from pathlib import Path

    from secauditai.training.step import Stepper

    real, mark = Stepper.run, Path(config["run_root"]) / "node_died"

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        while step >= 45 and not mark.exists():
            time.sleep(0.05)
        return real(self, plan, step, stop=stop)  # type: ignore[arg-type]

    Stepper.run = run  # type: ignore[assignment]


@contextmanager
def joining(cluster: Any, **environment: str) -> Iterator[Callable[[], None]]:
    """What starts another node with one CPU, which ends with the context."""
    words = ["start", "--address", cluster.address, "--num-cpus", "1", "--block"]
    joined = list[subprocess.Popen[bytes]]()

    def join() -> None:
        ray, surroundings = Path(sys.executable).with_name("ray"), {**os.environ, **environment}
        joined.append(subprocess.Popen([str(ray), *words], env=surroundings, stdout=subprocess.DEVNULL))

    try:
        yield join
    finally:
        for process in joined:
            process.terminate()
            process.wait(60)


def raylet(data: Path, workspace: Path, *firsts: Callable[[Any], str], **environment: str) -> None:
    """Two nodes with a worker each; the raylet of one is killed in the middle of an epoch, and another node comes.

    Args:
        data: what is trained on.
        workspace: where.
        firsts: what is tried with the run before, and is reported with what is said.
        environment: of the nodes that are not the driver's.
    """
    import ray
    from ray.cluster_utils import Cluster

    from secauditai.training.launch import launch

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1, env_vars=environment)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    run = start(data, workspace)
    said = [first(run) for first in firsts]
    sabotage(Patch(), sys.modules[__name__], hold)  # type: ignore[arg-type]

    def kill_and_join() -> None:
        (process,) = second.all_processes["raylet"]
        process.process.kill()
        wait_until(lambda: len([node for node in ray.nodes() if node["Alive"]]) == 1, "the death of the node", 120)
        (run.root / "node_died").touch()
        join()

    with joining(cluster, **environment) as join:
        villain = at_steps(run, (40, kill_and_join))
        result = launch(run, notify=said.append)
        villain.join()
    report(run, result, said)
    ray.shutdown()
    cluster.shutdown()


def lead_elsewhere(run: Any) -> str:
    """Let the leading rank be on the node that is not the driver's, as long as that node lives."""
    import ray

    from secauditai.training import workers

    mine, scaling = ray.get_runtime_context().get_node_id(), workers.scaling
    (other,) = [node["NodeID"] for node in ray.nodes() if node["NodeID"] != mine]

    def placed(recipe: Any, cpus: float) -> Any:
        config = scaling(recipe, cpus)
        if any(node["NodeID"] == other and node["Alive"] for node in ray.nodes()):
            config.label_selector = [{"ray.io/node-id": node} for node in (other, mine)]
        return config

    Patch().setattr(workers, "scaling", placed)
    return f"{other} leads"


def remote(data: Path, directory: Path) -> None:
    """The same in a workspace on an object store, of which each node has a mirror; the one that dies has led."""
    from secauditai.mirror import open_mirror

    os.environ["MLFLOW_TRACKING_URI"] = os.environ["REMOTE_TRACKING"]
    os.environ["XDG_CACHE_HOME"] = str(directory / "driver")
    workspace = open_mirror(os.environ["REMOTE_WORKSPACE"])
    raylet(data, workspace, lead_elsewhere, XDG_CACHE_HOME=str(directory / "other"))


def wait_alone(_config: dict[str, str]) -> None:
    """Let a rank without company not begin step 45: Ray looks for more room only now and then."""
    import time

    import ray.train

    from secauditai.training.step import Stepper

    real = Stepper.run

    def run(self: Stepper, plan: object, step: int, *, stop: bool) -> object:
        while step >= 45 and ray.train.get_context().get_world_size() == 1:
            time.sleep(0.05)
        return real(self, plan, step, stop=stop)  # type: ignore[arg-type]

    Stepper.run = run  # type: ignore[assignment]


def growth(data: Path, directory: Path) -> None:
    """A node with room for one worker of an elastic range; another one comes in the middle of an epoch."""
    import ray
    from ray.cluster_utils import Cluster

    from secauditai.training import workers
    from secauditai.training.launch import launch

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    run, said, scaling = start(data, directory, "1-2"), list[str](), workers.scaling

    def often(recipe: Any, cpus: float) -> Any:
        config = scaling(recipe, cpus)
        config.elastic_resize_monitor_interval_s = 3.0
        return config

    Patch().setattr(workers, "scaling", often)
    sabotage(Patch(), sys.modules[__name__], wait_alone)  # type: ignore[arg-type]
    with joining(cluster) as join:
        at_steps(run, (40, join))
        result = launch(run, notify=said.append)
    report(run, result, said)
    ray.shutdown()
    cluster.shutdown()


def eat(config: dict[str, str]) -> None:
    """Let a micro-batch of more than half the tokens take memory until its worker is killed for it."""
    import time

    import ray.train
    import torch

    from secauditai.training.objectives import Classification

    if ray.train.get_context().get_world_rank() != 0:
        return
    real = Classification.loss

    def loss(self: Classification, model: torch.nn.Module, batch: object) -> torch.Tensor:
        ballast = list[torch.Tensor]()
        while batch.input_ids.numel() > MICRO_BATCH_TOKENS // 2 and len(ballast) < MOST_PIECES:  # type: ignore[attr-defined]
            ballast.append(torch.ones(PIECE, dtype=torch.uint8))
            time.sleep(0.3)  # the monitor looks a few times a second
        return real(self, model, batch)  # type: ignore[arg-type]

    Classification.loss = loss  # type: ignore[method-assign, assignment]


def memory(data: Path, directory: Path) -> None:
    """Ray's memory monitor kills a worker."""
    import ray

    from secauditai.training.launch import launch

    used = psutil.virtual_memory().total - psutil.virtual_memory().available
    allowed = used + HEADROOM
    ray.init(
        address="local",
        log_to_driver=False,
        logging_level="ERROR",
        include_dashboard=False,
        _system_config={
            "memory_usage_threshold": allowed / psutil.virtual_memory().total,
            "memory_monitor_refresh_ms": 100,
        },
    )
    run, said = (
        start(data, directory, 2, max_steps=3, micro_batch_tokens=MICRO_BATCH_TOKENS, checkpoint_interval=1),
        list[str](),
    )
    sabotage(Patch(), sys.modules[__name__], eat)  # type: ignore[arg-type]
    report(run, launch(run, notify=said.append), said)
    ray.shutdown()


if __name__ == "__main__":
    cases = {"preemption": preemption, "raylet": raylet, "remote": remote, "growth": growth, "memory": memory}
    cases[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
