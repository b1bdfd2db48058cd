"""The door to Ray Train: one attempt at a run in a group of Ray workers (`group.py`), and what its errors mean.

Every attempt is a fresh Ray run with a name of its own; Ray never holds a checkpoint of ours.
"""

import logging
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.util
from ray import PlacementGroupID
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch.distributed import DistError

from secauditai.cluster import Cluster, cpu_share, work_labels
from secauditai.errors import ClusterError
from secauditai.runs import Run
from secauditai.training.attempt import (
    AttemptLayout,
    RankRecord,
    StoppedByError,
    end_processes,
    kernel_memory_kills,
    read_ranks,
)
from secauditai.training.elsewhere import at_run, collect, relaying
from secauditai.training.group import GroupConfig, GroupTrainer
from secauditai.training.loop import train_rank
from secauditai.training.losses import Kind, Loss, WorkersLost, find_hang, first_line
from secauditai.training.memory import is_out_of_memory
from secauditai.training.recipe import Recipe
from secauditai.training.rungs import rule_in
from secauditai.training.watchdog import collective_timeout

BROKEN_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "timed out",
    "application timeout",
    "broken pipe",
    "socket closed",
    "no route to host",
    "remote process exited",
    "communicator was aborted",
)
"""What gloo and nccl say in the surviving ranks when another rank has died."""
RAY_MEMORY_KILL = "running low on memory"
"""What Ray says of a worker that its memory monitor has killed."""
GROUP_STARTS = 5
"""Times a group gets a minute to find its resources before the run gives up."""
DEATH_PATIENCE = 15.0
"""Seconds in which killed processes must be gone."""
NODE_PATIENCE = 90.0
"""Seconds in which a node answers or is declared dead; Ray takes up to 30 to notice that one is gone."""


def run_rank(config: dict[str, str]) -> None:
    """What Ray Train calls in every worker: one rank of the run that `config` names.

    Raises:
        StoppedByError: when `failure.json` says why the run cannot go on.
    """
    context, group = ray.train.get_context(), ray.util.get_current_placement_group()
    leads = context.get_world_rank() == 0
    with at_run(config, group.id.hex() if leads and group is not None else None) as place:
        state = train_rank(
            place.root,
            context.get_world_rank(),
            context.get_world_size(),
            rule_in(config),
            node=ray.get_runtime_context().get_node_id(),
            preempted=preemption_noticed,
            pass_on=place.pass_on,
        )
    if state is None:
        raise StoppedByError("see failure.json")
    ray.train.report({"global_step": state.global_step, "finished": int(state.finished)})


def preemption_noticed() -> bool:
    """Whether Ray Train has told this worker that a node of its group will be taken away.

    The public `ray.train.get_preemption_info` is a barrier of all workers; what it broadcasts is looked at here.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None


def fit_in_workers(run: Run, recipe: Recipe, cluster: Cluster, config: dict[str, str]) -> float:
    """Make one attempt with what `run_rank` gets; return the seconds that Ray took to start the workers.

    Raises:
        WorkersLost: when ranks or the controller died; all ranks are gone by then.
        ClusterError: when the cluster has no room for the workers, or the store is out of reach.
    """
    attempt, started, name = AttemptLayout(run.layout.attempt), time.time(), f"{run.root.name}-{uuid.uuid4().hex[:8]}"
    storage, loss = run.root / "ray", None
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # how soon the controller sees an end
    try:
        with relaying(run, cluster, config) as told:
            build_trainer(recipe, cluster, told, storage, name).fit()
    except (ray.exceptions.RayError, ray.train.TrainingFailedError) as error:
        if not attempt.failure.exists():
            loss = understand(error, attempt)
    finally:
        end_ranks(attempt)
        free_reservation(attempt)
        shutil.rmtree(storage, ignore_errors=True)
    collect(run)
    if loss is not None:
        raise WorkersLost(loss)
    return max(0.0, attempt.ready.stat().st_mtime - started) if attempt.ready.exists() else 0.0


def build_trainer(recipe: Recipe, cluster: Cluster, config: dict[str, str], storage: Path, name: str) -> GroupTrainer:
    """Ray's trainer of one attempt, which by itself never tries again."""
    retries: dict[str, Any] = {
        "max_failures": 0,
        "max_preemption_failures": 0,
        "controller_failure_limit": GROUP_STARTS,
    }
    return GroupTrainer(
        run_rank,
        alone=cluster.started_here,
        train_loop_config=config,
        torch_config=GroupConfig(timeout_s=collective_timeout(recipe.hang_timeout), threads=recipe.threads),
        scaling_config=scaling(recipe, cluster.cpus),
        run_config=RunConfig(name=name, storage_path=str(storage), failure_config=FailureConfig(**retries)),
    )


def scaling(recipe: Recipe, cluster_cpus: float) -> Any:
    """Ask for the threads each worker uses, or for an even share of the CPUs when there are fewer."""
    fewest = recipe.min_workers or recipe.world_size
    workers: Any = recipe.world_size if recipe.min_workers is None else (fewest, recipe.world_size)
    return ScalingConfig(  # type: ignore[call-arg]
        num_workers=workers,
        use_gpu=recipe.device == "cuda",
        resources_per_worker={"CPU": cpu_share(recipe.threads, fewest, cluster_cpus)},
        label_selector=work_labels() or None,
    )


def understand(error: Exception, attempt: AttemptLayout) -> Loss:
    """What an error of `fit` means.

    Raises:
        ClusterError: when the workers found no room.
        Exception: the error itself, or the worker's own, when it is a bug of ours.
    """
    if (hang := find_hang(attempt)) is not None:
        return hang
    if isinstance(error, ray.train.PreemptionError):
        return Loss(Kind.PREEMPTED, first_line(error))
    if RAY_MEMORY_KILL in str(error) and not isinstance(error, ray.train.WorkerGroupError):
        # Ray kills what began last, which may be the controller; the memory is still the ranks'.
        return Loss(Kind.OUT_OF_MEMORY, f"Ray Train's controller: {reason_of(error)}")
    if isinstance(error, ray.exceptions.RayError):
        return Loss(Kind.CONTROLLER, f"Ray Train's controller died ({reason_of(error)})")
    if isinstance(error, ray.train.ControllerError):
        if "Startup" in type(error.controller_failure).__name__:
            raise ClusterError(
                f"the workers did not start: {first_line(error.controller_failure)}",
                hint="See `ray status`; ask for fewer with --num-workers.",
            ) from None
        raise error
    return _worker_loss(error, attempt)


def _worker_loss(error: Any, attempt: AttemptLayout) -> Loss:
    ranks = {rank.index: rank for rank in read_ranks(attempt)}
    causes = {index: _cause(failure) for index, failure in getattr(error, "worker_failures", {}).items()}
    deaths = {index: cause for index, cause in causes.items() if isinstance(cause, ray.exceptions.RayError)}
    for index, cause in causes.items():
        if is_out_of_memory(cause) or RAY_MEMORY_KILL in str(cause):
            return Loss(Kind.OUT_OF_MEMORY, f"{_who(ranks, index)}: {reason_of(cause)}", index)
    bugs = [cause for index, cause in causes.items() if index not in deaths and not _lost_its_peer(cause)]
    if bugs and not deaths:  # whatever else a rank says that has lost another
        raise bugs[0] from error
    if not deaths:
        return Loss(Kind.WORKER, f"a rank lost its connection to another ({first_line(error)})")
    index, cause = next(iter(deaths.items()))
    who = _who(ranks, index)
    if getattr(cause, "preempted", False):
        return Loss(Kind.PREEMPTED, f"{who} went away with its node", index)
    if index in ranks and _killed_by_kernel(ranks[index]):
        return Loss(Kind.OUT_OF_MEMORY, f"{who}: the kernel killed it for want of memory", index)
    if index in ranks and ranks[index].node not in _alive_nodes():
        return Loss(Kind.NODE, f"the node of {who} is gone", index)
    return Loss(Kind.WORKER, f"{who} died ({reason_of(cause)})", index)


def _cause(failure: Any) -> BaseException:
    failure = getattr(failure, "_base_exc", failure)
    cause: BaseException = getattr(failure, "health_check_failure", failure)
    return cause


def _lost_its_peer(error: BaseException) -> bool:
    return isinstance(error, DistError) or any(word in str(error).lower() for word in BROKEN_PEER)


def _who(ranks: dict[int, RankRecord], index: int) -> str:
    return ranks[index].describe() if index in ranks else f"rank {index}"


def _alive_nodes() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _killed_by_kernel(rank: RankRecord) -> bool:
    """Whether the kernel of the rank's machine has killed processes for want of memory since the rank began."""
    if rank.is_here:
        return kernel_memory_kills() > rank.kernel_kills
    kills = _ask_node(rank.node, kernel_memory_kills)
    return kills is not None and kills > rank.kernel_kills


def end_ranks(attempt: AttemptLayout) -> None:
    """Make sure that no rank of the attempt runs any more, on whichever node, before another one begins.

    Raises:
        ClusterError: when one cannot be ended.
    """
    places: dict[str | None, list[tuple[int, float]]] = {}
    for rank in read_ranks(attempt):
        places.setdefault(None if rank.is_here else rank.node, []).append((rank.pid, rank.started))
    left = end_processes(places.pop(None, []), DEATH_PATIENCE)
    for node, them in places.items():
        left += _ask_node(node, end_processes, them, DEATH_PATIENCE) or []
    if left:
        raise ClusterError(
            f"worker processes cannot be ended: pids {', '.join(map(str, left))}", where=str(attempt.root)
        )


def free_reservation(attempt: AttemptLayout) -> None:
    """Give back the resources of the workers, so that the next ones find room.

    Ray Train's own cleaner asks Ray's dashboard whether the controller has died, and fails where there is none.
    """
    if attempt.reservation.exists():
        identity = PlacementGroupID(bytes.fromhex(attempt.reservation.read_text(encoding="ascii")))
        remove_placement_group(PlacementGroup(identity))


def _ask_node(node: str | None, function: Any, *arguments: Any) -> Any:
    """What a function returns on a node; None when the node is gone, whose processes went with it.

    Raises:
        ClusterError: when the node neither answers nor is declared dead.
    """
    there = NodeAffinitySchedulingStrategy(node_id=str(node), soft=False)
    give_up = time.monotonic() + NODE_PATIENCE
    if node not in _alive_nodes():
        return None
    answer = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*arguments)
    while True:
        try:
            return ray.get(answer, timeout=1.0)
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:  # lost with its node, or not there yet
            if node not in _alive_nodes():
                return None
            if time.monotonic() > give_up:
                hint = "See `ray status` and the logs of Ray there."
                raise ClusterError(f"node {node} does not answer: {first_line(error)}", hint=hint) from None
            time.sleep(0.2)


def reason_of(error: BaseException) -> str:
    """The telling part of Ray's description of a death."""
    for line in str(error).splitlines():
        for mark in ("Worker exit detail:", RAY_MEMORY_KILL, "The actor is dead because"):
            if mark in line:
                return line[line.index(mark) :].removeprefix("Worker exit detail:").strip().split(". ")[0][:160]
    return first_line(error)
