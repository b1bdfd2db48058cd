"""All checks in their order: endpoint, nodes, storage, tracking, hub. No file of a check is left behind."""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.cluster import Node, alive_nodes, ensure_ray, work_nodes
from secauditai.doctor import findings as judge
from secauditai.doctor.endpoint import asks_for_token, check_job_api, check_token, is_loopback
from secauditai.doctor.findings import GIB, Finding, NodeFacts, Worker
from secauditai.doctor.survey import host_name, survey, versions
from secauditai.errors import ClusterError, SecAuditError
from secauditai.mirror import address_of
from secauditai.storage import open_storage
from secauditai.tracking.store import open_store, shared_uri

ANSWER_SECONDS = 120.0
"""A node that has not answered by then, its Python starting included, is reported."""


@dataclass(frozen=True)
class Needs:
    """What the training to come needs."""

    workspace: Path
    address: str | None = None
    """The Ray cluster; None is this machine."""
    num_workers: int | None = None
    """None: one per GPU, or one."""
    threads: int = 1
    model: str = "transformer"
    hub_id: str | None = None
    revision: str | None = None
    free_disk: int = 5 * GIB
    free_memory: int = GIB


def examine(needs: Needs, say: Callable[[Finding], None] = lambda _finding: None) -> list[Finding]:
    """Run every check that can be run from here.

    Args:
        needs: what the training will need.
        say: told of each finding as soon as it is known.
    """
    found: list[Finding] = []

    def add(finding: Finding) -> None:
        found.append(finding)
        say(finding)

    add(check_token(needs.address))
    if needs.address is not None and needs.address.startswith(("http://", "https://")):
        add(check_job_api(needs.address))
        add(Finding("nodes", "skipped", "checked by a job: `ray job submit … -- secauditai doctor --address auto`"))
        return found
    try:
        nodes = find_nodes(needs.address)
    except ClusterError as error:
        add(Finding("cluster", "failed", error.message, error.hint))
        return found
    if needs.address is not None:
        add(Finding("cluster", "ok", f"{needs.address} answers, {len(nodes)} nodes"))
        add(_dashboard())
        add(judge.check_head(nodes))
    tracking, problem = open_tracking(needs.workspace)
    facts, written, silent = ask(needs, nodes, None if problem else tracking)
    if silent:
        add(judge.report_silence(silent))
    add(judge.check_versions(versions(), facts))
    add(judge.check_storage(address_of(needs.workspace), facts, written))
    add(judge.check_disk(facts, needs.free_disk))
    add(judge.check_memory(facts, needs.free_memory))
    add(judge.check_shm(facts))
    add(judge.check_resources(_worker(needs, work_nodes(nodes)), work_nodes(nodes)))
    add(judge.check_tracking(tracking, problem, facts))
    add(judge.check_model(needs.model, needs.hub_id, facts))
    return found


def find_nodes(address: str | None) -> list[Node]:
    """The nodes of a cluster, or this machine."""
    if address is None:
        import psutil
        import torch

        return [Node("", host_name(), float(psutil.cpu_count() or 1), float(torch.cuda.device_count()), is_head=True)]
    ensure_ray(address)
    return alive_nodes()


def _dashboard() -> Finding:
    from ray._private.worker import get_dashboard_url

    url = get_dashboard_url() or None
    if url is None:
        return judge.check_dashboard(None, loopback=True, asks=None)
    return judge.check_dashboard(url, loopback=is_loopback(url), asks=asks_for_token(url))


def open_tracking(workspace: Path) -> tuple[str, str | None]:
    """The tracking URI without credentials, and why this machine cannot use it."""
    try:
        uri = shared_uri(workspace)
    except SecAuditError as error:
        return "MLFLOW_TRACKING_URI", error.message
    try:
        open_store(workspace, patience=0.0)
    except SecAuditError as error:
        return uri, error.message
    return uri, None


def ask(
    needs: Needs, nodes: list[Node], tracking: str | None, *, here: bool = False
) -> tuple[list[NodeFacts], list[str], list[str]]:
    """Survey every node; what they said, whose file arrived in the workspace, and who was silent.

    Args:
        needs: names the workspace, and the model when it comes from the hub.
        nodes: whom to ask.
        tracking: the tracking URI without credentials; None: nobody needs to reach it.
        here: the only node is this machine, so this process may look itself.
    """
    marks = needs.workspace / f".doctor_{uuid.uuid4().hex[:12]}"
    order = {
        "workspace": address_of(needs.workspace),
        "marks": address_of(marks),
        "tracking": tracking,
        "hub_id": needs.hub_id,
        "revision": needs.revision,
    }
    storage = open_storage(address_of(marks))
    try:
        storage.write_bytes("driver", b"driver")
        if needs.address is None or here:
            facts, silent = [survey({**order, "node": node.name}) for node in nodes], list[str]()
        else:
            facts, silent = _ask_remotely(order, nodes)
        written = [file.key.removeprefix("node_") for file in storage.files() if file.key.startswith("node_")]
    except OSError as error:
        raise ClusterError(f"cannot write to the workspace: {error.strerror}", where=str(needs.workspace)) from None
    finally:
        storage.delete_tree("")
        shutil.rmtree(marks, ignore_errors=True)
    return facts, written, silent


def _ask_remotely(order: dict[str, Any], nodes: list[Node]) -> tuple[list[NodeFacts], list[str]]:
    import ray.exceptions
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(survey)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        options = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked[options.remote({**order, "node": node.name})] = node.name
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
    facts, silent = [], [asked[reference] for reference in late]
    for reference in ready:
        try:
            facts.append(ray.get(reference))
        except ray.exceptions.RayError:
            silent.append(asked[reference])
    for reference in late:
        ray.cancel(reference, force=True)
    return facts, silent


def _worker(needs: Needs, nodes: list[Node]) -> Worker:
    gpus = int(sum(node.gpus for node in nodes))
    count = needs.num_workers or max(1, gpus)
    return Worker(count, float(needs.threads), 1.0 if gpus else 0.0)
