"""What is checked before data is prepared on a cluster: that all nodes see the directory it is written to."""

import os
from dataclasses import replace
from pathlib import Path

from secauditai.cluster import Node
from secauditai.doctor import findings as judge
from secauditai.doctor.examine import Needs, ask, find_nodes
from secauditai.doctor.findings import GIB, require
from secauditai.doctor.survey import versions

FREE_DISK = GIB
"""Bytes that every node must have free: what `doctor` asks for is for a day's work, this is for a start."""


def check_directory(directory: Path, address: str | None) -> None:
    """What preparing data on a cluster needs of every node: the same versions, and the directory of the output.

    Raises:
        PreflightError: with a line for each thing that is missing.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        return
    nodes = find_nodes(address)
    facts, written, silent = ask(Needs(directory, address), nodes, None, here=is_here(nodes))
    hint = "Write --output to a directory that all nodes share."
    storage = replace(judge.check_storage(str(directory), facts, written), hint=hint)
    silence = [judge.report_silence(silent)] if silent else []
    require([*silence, judge.check_versions(versions(), facts), storage, judge.check_disk(facts, FREE_DISK)])


def is_here(nodes: list[Node]) -> bool:
    """Whether the node that this process is on is the only one."""
    import ray

    return [node.node_id for node in nodes] == [ray.get_runtime_context().get_node_id()]
