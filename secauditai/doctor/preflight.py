"""What is checked before a training or a sweep starts on a cluster: little, quickly, and only what its plan needs."""

import os
from dataclasses import replace
from pathlib import Path

from secauditai.cluster import cpu_share, work_nodes
from secauditai.doctor import findings as judge
from secauditai.doctor.examine import Needs, ask, find_nodes, open_tracking
from secauditai.doctor.findings import Worker, require
from secauditai.doctor.sharing import FREE_DISK, is_here
from secauditai.doctor.survey import versions
from secauditai.mirror import address_of
from secauditai.training.preparation import choose_request_devices
from secauditai.training.recipe import Recipe
from secauditai.training.request import TrainRequest


def check_request(request: TrainRequest) -> None:
    """What a training needs of the cluster that it will run on; nothing when it stays on this machine.

    Raises:
        PreflightError: with a line for each thing that is missing.
    """
    devices = choose_request_devices(request)
    fewest = devices.min_workers or devices.world_size
    _check_workers(request.workspace, request.address, fewest, devices.threads, devices.device)


def check_recipe(recipe: Recipe, workspace: Path, address: str | None) -> None:
    """The same for a run that goes on.

    Raises:
        PreflightError: with a line for each thing that is missing.
    """
    fewest = recipe.min_workers or recipe.world_size
    _check_workers(workspace, address, fewest, recipe.threads, recipe.device)


def check_sweep(workspace: Path, address: str | None) -> None:
    """What a sweep's trials need of every node; whether they fit is for the sweep to say, with its arithmetic.

    Raises:
        PreflightError: with a line for each thing that is missing.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check(workspace, address, None)


def _check_workers(workspace: Path, address: str | None, workers: int, threads: int, device: str) -> None:
    """Check the cluster that a training runs on; one worker without an address stays in this process."""
    address = address or (os.environ.get("RAY_ADDRESS") if workers > 1 else None)
    if address is not None:
        _check(workspace, address, Worker(workers, float(threads), 1.0 if device == "cuda" else 0.0))


def _check(workspace: Path, address: str, worker: Worker | None) -> None:
    """Versions, storage, disk, memory and MLflow on every node, and room for workers if they are given."""
    needs, nodes = Needs(workspace, address), find_nodes(address)
    tracking, problem = open_tracking(workspace)
    facts, written, silent = ask(needs, nodes, None if problem else tracking, here=is_here(nodes))
    found = [judge.report_silence(silent)] if silent else []
    found += [
        judge.check_versions(versions(), facts),
        judge.check_storage(address_of(workspace), facts, written),
        judge.check_disk(facts, FREE_DISK),
        judge.check_memory(facts, needs.free_memory),
        judge.check_tracking(tracking, problem, facts),
    ]
    if worker is not None:
        usable = work_nodes(nodes)
        share = cpu_share(worker.cpus, worker.count, sum(node.cpus for node in usable))
        found.append(judge.check_resources(replace(worker, cpus=share), usable))
    require(found)
