"""What a node finds out about itself; runs as a task on every node, or here when there is no cluster."""

import importlib.metadata
import platform
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import psutil

from secauditai import __version__
from secauditai.doctor.findings import NodeFacts
from secauditai.errors import ClusterError, ModelError, RunError
from secauditai.mirror import mirror_directory
from secauditai.storage import is_remote, open_storage

PATIENCE = 5.0
"""Seconds that an object store may be out of reach: someone waits for the answer."""
COMPARED = ("ray", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "mlflow", "onnx", "onnxruntime")
"""Libraries whose versions must be equal everywhere."""


def versions() -> dict[str, str]:
    """Versions of this project, Python and the libraries that must be equal everywhere."""
    found = {"secauditai": __version__, "python": platform.python_version()}
    for name in COMPARED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def survey(order: dict[str, Any]) -> NodeFacts:
    """Look at this node.

    Args:
        order: `node` to call it by, `workspace` (its address), `marks` (address of the driver's file), `tracking` (a
            tracking URI without credentials, or None), `hub_id` and `revision` (None: nothing is needed from the hub).
    """
    node = str(order["node"])
    seen, problem = _exchange_marks(str(order["marks"]), node)
    shm = Path("/dev/shm")
    return NodeFacts(
        node=node,
        versions=versions(),
        free_disk=_free_disk(_working_directory(str(order["workspace"]))),
        free_memory=psutil.virtual_memory().available,
        shm=shutil.disk_usage(shm).total if shm.is_dir() else None,
        reads_workspace=seen,
        workspace_error=problem,
        tracking_error=_tracking_problem(order["tracking"]),
        model_error=_model_problem(order["hub_id"], order["revision"]),
    )


def host_name() -> str:
    """What this machine is called."""
    return socket.gethostname()


def _exchange_marks(marks: str, node: str) -> tuple[bool, str | None]:
    """Read the driver's file and leave one of our own."""
    try:
        storage = open_storage(marks)
        storage.patience = PATIENCE
        if not storage.exists("driver"):
            return False, None  # not shared: making directories here would hide it
        storage.write_bytes(f"node_{node}", node.encode())
    except OSError as error:
        return True, f"cannot write to the workspace: {error.strerror}"
    except ClusterError as error:
        return True, f"cannot use the workspace: {error.message}"
    return True, None


def _working_directory(workspace: str) -> Path:
    """Where a training on this node writes: the workspace, or this node's mirror of it."""
    return mirror_directory(workspace) if is_remote(workspace) else Path(workspace)


def _free_disk(workspace: Path) -> dict[str, int]:
    """Free bytes where the workspace is, or would be, and where Ray keeps its session."""
    nearest = next(path for path in (workspace, *workspace.parents) if path.exists())
    return {str(path): shutil.disk_usage(path).free for path in (nearest, Path(tempfile.gettempdir()))}


def _tracking_problem(uri: str | None) -> str | None:
    if uri is None:
        return None
    from secauditai.tracking.reach import check_reach

    try:
        check_reach(uri)
    except RunError as error:
        return error.message
    return None


def _model_problem(hub_id: str | None, revision: str | None) -> str | None:
    if hub_id is None:
        return None
    from secauditai.models.encoders import check_available

    try:
        check_available(hub_id, revision)
    except ModelError as error:
        return error.message
    return None
