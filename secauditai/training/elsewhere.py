"""Ranks on other nodes than their driver, when the workspace is on an object store and its mirrors are all they have.

Such a rank trains in its own node's mirror. The run is brought there before any rank begins, from where the leading
rank goes on; checkpoints go to the store as ever, and what else a rank writes goes to the driver (`relay.py`).
"""

import json
import logging
import secrets
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import torch
import torch.distributed as dist
from filelock import FileLock
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from secauditai.cluster import Cluster
from secauditai.errors import ClusterError, SecAuditError
from secauditai.mirror import fetch_once, make_mirror, mirror_of
from secauditai.runs import Run, RunLayout
from secauditai.training.attempt import AttemptLayout, StoppedByError, held, read_ranks
from secauditai.training.checkpoint import newest_checkpoint
from secauditai.training.journal import LOCK_SECONDS
from secauditai.training.losses import first_line
from secauditai.training.mirrored import BRIEF, fetch_made, fetch_plan, fetch_start, send_start
from secauditai.training.recipe import read_recipe
from secauditai.training.relay import Courier, Link, Piece, Relay

logger = logging.getLogger("secauditai.training")

DRIVER = uuid.uuid4().hex
"""This process, if it drives a training."""
ANSWER_SECONDS = 120.0
"""In which the relay answers, its start included."""


@contextmanager
def relaying(run: Run, cluster: Cluster, config: dict[str, str]) -> Iterator[dict[str, str]]:
    """What workers get to know in an attempt; where some may be on other nodes, with a relay that listens to them.

    Args:
        run: the run.
        cluster: where they train; nothing is needed when it is this machine alone.
        config: what they get anyway.
    """
    mirror = mirror_of(run.root)
    if mirror is None or cluster.started_here:
        yield config
        return
    name, node = f"relay-{uuid.uuid4().hex}", ray.get_runtime_context().get_node_id()
    AttemptLayout(run.layout.attempt).driver.write_text(DRIVER, encoding="ascii")
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    actor: Any = ray.remote(Relay).options(name=name, num_cpus=0, max_restarts=-1, scheduling_strategy=here)
    relay = actor.remote(str(run.root))
    key = mirror.key(run.root)
    try:
        yield {**config, "relay": name, "node": node, "driver": DRIVER, "workspace": mirror.address, "key": key}
    finally:
        ray.kill(relay)


def collect(run: Run) -> None:
    """After an attempt: bring what a leading rank elsewhere has made, and leave the logs of all ranks in the store.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
    """
    attempt, mirror = AttemptLayout(run.layout.attempt), mirror_of(run.root)
    if mirror is None or not attempt.driver.exists():
        return
    leading = [rank.node for rank in read_ranks(attempt) if rank.index == 0]
    if leading not in ([], [ray.get_runtime_context().get_node_id()]) and not attempt.failure.exists():
        fetch_made(run.layout)
    mirror.storage.patience = BRIEF
    with suppress(ClusterError):
        for path in sorted(run.layout.logs.glob("*.log")):
            mirror.send_file(path)


@dataclass(frozen=True)
class Place:
    """Where a rank trains."""

    root: Path
    """The run directory: the driver's, or that of this node's own mirror."""
    pass_on: Callable[[], None] = lambda: None
    """Passes on at once what is written there."""


@contextmanager
def at_run(config: Mapping[str, str], reservation: str | None) -> Iterator[Place]:
    """The place of this rank; the run is there, as on all other nodes.

    Args:
        config: what `relaying` made.
        reservation: id of the workers' placement group, for the driver to know; None when another rank tells it.

    Raises:
        StoppedByError: when this node or the store does not let it; `failure.json` says why.
        ClusterError: when the driver's node does not answer, so that it cannot be told.
    """
    home, away = Path(config["run_root"]), config.get("node") not in (None, ray.get_runtime_context().get_node_id())
    link: Link = RelayLink(config["relay"]) if away else Relay(str(home))
    if reservation is not None:
        link.exchange([Piece("attempt/placement_group", 0, reservation.encode("ascii"))])
    if "relay" not in config:
        yield Place(home)
        return
    try:
        if away:
            home = make_mirror(config["workspace"]).root / config["key"]
            away = not is_shared(home, link)
        bring(RunLayout(home), config["driver"], away=away)
    except SecAuditError as error:
        failure = {"message": f"on {socket.gethostname()}: {error.message}", "where": error.where, "hint": error.hint}
        link.exchange([Piece("attempt/failure.json", 0, json.dumps(failure).encode())])
        raise StoppedByError("see failure.json") from None
    if not away:
        yield Place(home)
        return
    with Courier(RunLayout(home), ray.train.get_context().get_world_rank(), link) as courier:
        yield Place(home, courier.pass_on)


class RelayLink:
    """The relay of this attempt, as a rank on another node asks it."""

    def __init__(self, name: str) -> None:
        """Find it.

        Raises:
            ClusterError: when it is gone, as its driver is.
        """
        try:
            self._relay: Any = ray.get_actor(name)
        except ValueError as error:
            raise _no_answer(error) from None

    def exchange(self, pieces: Sequence[Piece]) -> bytes | None:
        """As `Relay.exchange`; ClusterError when it cannot be reached."""
        answer: bytes | None = _wait(self._relay.exchange.remote(list(pieces)))
        return answer

    def size(self, name: str) -> int:
        """As `Relay.size`; ClusterError when it cannot be reached."""
        return int(_wait(self._relay.size.remote(name)))

    def sees(self, name: str) -> bool:
        """As `Relay.sees`; ClusterError when it cannot be reached."""
        return bool(_wait(self._relay.sees.remote(name)))


def _wait(answer: Any) -> Any:
    try:
        return ray.get(answer, timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError as error:
        raise _no_answer(error) from None


def _no_answer(error: Exception) -> ClusterError:
    return ClusterError(f"the driver's node does not answer: {first_line(error)}", hint="See `ray status`.")


def is_shared(root: Path, link: Link) -> bool:
    """Whether the driver works in this very directory, because the nodes share their users' caches."""
    probe = root / "attempt" / f"probe_{uuid.uuid4().hex}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.touch()
    try:
        return link.sees(probe.relative_to(root).as_posix())
    finally:
        probe.unlink()


def bring(layout: RunLayout, driver: str, *, away: bool) -> None:
    """Have the run on the nodes of all ranks, from where the leading one goes on; all ranks call this together.

    Args:
        layout: the run directory here.
        driver: which process drives the training.
        away: whether it is not the driver's directory.

    Raises:
        ClusterError: when the store refuses or stays out of reach.
        RunError: when there is no whole checkpoint, or another process trains the run here.
    """
    context = ray.train.get_context()
    leads, alone = context.get_world_rank() == 0, context.get_world_size() == 1
    device = "cuda" if not alone and dist.get_backend() == dist.Backend.NCCL else "cpu"
    elsewhere = torch.tensor([int(away)], device=device)
    if not alone:
        dist.all_reduce(elsewhere)
    if not elsewhere.item():
        return  # all ranks see the driver's directory
    # For which group of workers, where it leads, and from which checkpoint.
    start = torch.zeros(3, dtype=torch.int64, device=device)
    if leads:
        group = secrets.randbits(62)
        with _only_here(layout):
            step = _lead(layout, away=away)
            _receive(layout, str(group), driver, away=away)
        start += torch.tensor([group, int(away), step], device=device)
    if not alone:
        dist.broadcast(start, 0)
    group, led_away, step = start.tolist()
    if not leads and (away or led_away):
        with _only_here(layout):
            mark = AttemptLayout(layout.attempt).brought
            if not (mark.exists() and mark.read_text(encoding="ascii") == str(group)):
                _follow(layout, step, away=away)
                _receive(layout, str(group), driver, away=away)
    if not alone:
        dist.barrier()  # before any rank's watchdog begins to wait for others


@contextmanager
def _only_here(layout: RunLayout) -> Iterator[None]:
    """Be the only rank of this node that brings the run, when none of an attempt before trains it any more."""
    layout.root.mkdir(parents=True, exist_ok=True)
    with FileLock(layout.root / "bringing.lock"), held(layout.lock, LOCK_SECONDS):
        yield


def _lead(layout: RunLayout, *, away: bool) -> int:
    """Find where the run goes on, with what only this node has, and leave it in the store; the step, -1 for none."""
    if away:
        fetch_plan(layout)
    fetch_made(layout)
    newest = newest_checkpoint(layout.checkpoints, logger.warning)
    send_start(layout, newest)
    return newest.step if newest else -1


def _follow(layout: RunLayout, step: int, *, away: bool) -> None:
    """Have what the leading rank has left in the store."""
    if away:
        fetch_plan(layout)
        layout.metrics.unlink(missing_ok=True)  # what only this node knew of the run counts no more
    fetch_start(layout, step)


def _receive(layout: RunLayout, group: str, driver: str, *, away: bool) -> None:
    """Begin the attempt on this node."""
    attempt = AttemptLayout(layout.attempt)
    if away:
        recipe = read_recipe(layout.recipe)
        for path in (recipe.train_store, recipe.val_store, recipe.initial_bundle):
            if path:
                fetch_once(Path(path))
        attempt.renew()
        attempt.driver.write_text(driver, encoding="ascii")
    attempt.brought.write_text(group, encoding="ascii")
