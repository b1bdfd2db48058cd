"""A job's request, and its result, as files in the shared workspace: `jobs/<id>/request.json`, `result.json`."""

import json
import platform
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from secauditai.errors import ClusterError, PreflightError
from secauditai.storage import Storage

COMPARED = ("ray", "torch", "transformers", "mlflow", "pyarrow")
"""Libraries that must be the same here and on the cluster; Python by its minor version."""


class JobRequest(BaseModel):
    """A command to run and what it takes for granted; no secrets: nodes have their own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arguments: list[str]
    takes_workspace: bool
    tracking_uri: str | None
    versions: dict[str, str]


def job_key(job_id: str) -> str:
    """A job's own directory in the storage."""
    return f"jobs/{job_id}"


def result_key(job_id: str) -> str:
    """Where its JSON document goes."""
    return f"{job_key(job_id)}/result.json"


def write_request(storage: Storage, job_id: str, request: JobRequest) -> None:
    """Leave a request where the job will find it."""
    storage.write_bytes(f"{job_key(job_id)}/request.json", request.model_dump_json(indent=2).encode())


def read_request(storage: Storage, job_id: str) -> JobRequest:
    """Read a job's request.

    Raises:
        PreflightError: when it is not there, so the workspace is not the one that the request was written to.
    """
    try:
        return JobRequest.model_validate_json(storage.read_bytes(f"{job_key(job_id)}/request.json"))
    except FileNotFoundError:
        raise PreflightError(
            [
                f"storage: {storage.address}: this node does not see what was written to the workspace. It must be "
                "shared by all nodes and by the machine that submits: an s3:// address or a network directory. "
                "Name it with --workspace, or in clusters.yaml."
            ]
        ) from None
    except ValidationError as error:
        raise ClusterError(f"damaged request: {error.errors()[0]['msg']}", where=storage.at(job_key(job_id))) from None


def read_result(storage: Storage, job_id: str) -> dict[str, Any] | None:
    """The JSON document of a finished command; None when it left none."""
    try:
        found: dict[str, Any] = json.loads(storage.read_bytes(result_key(job_id)))
    except FileNotFoundError:
        return None
    return found


def own_versions() -> dict[str, str]:
    """The versions that must agree."""
    minor = ".".join(platform.python_version_tuple()[:2])
    return {"python": minor} | {name: version(name) for name in COMPARED}


def version_differences(expected: dict[str, str]) -> list[str]:
    """What differs here from `expected`, as `torch 2.13.0, here 2.14.0`."""
    here = own_versions()
    return [f"{name} {wanted}, here {here.get(name)}" for name, wanted in expected.items() if here.get(name) != wanted]
