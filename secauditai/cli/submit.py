"""Commands that compute: here, attached to a Ray cluster, or submitted to one as a job, by `--address` alone."""

import secrets
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.options import workspace_of
from secauditai.cli.output import Output
from secauditai.cluster import in_ray_job
from secauditai.errors import ClusterError, ConfigError
from secauditai.mirror import address_of

if TYPE_CHECKING:
    from secauditai.storage import Storage
    from secauditai.submission.addresses import Target
    from secauditai.submission.command import RemoteCommand
    from secauditai.submission.jobs import Job

ARGUMENTS = "secauditai.arguments"
DETACHED = 130


class ComputeCommand(click.Command):
    """A command with `--address`: a Jobs API, by its URL or its name in `clusters.yaml`, runs it as a job."""

    attaches = True
    """Whether the command itself can compute on a Ray cluster that it attaches to."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words as the user wrote them: a job gets the same ones."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command here, on the cluster whose job this is, or submit it."""
        address = ctx.params["address"] if self.attaches else ctx.params.pop("address")
        if address is None:
            if self.attaches and in_ray_job():
                ctx.params["address"] = "auto"
            return super().invoke(ctx)
        from secauditai.submission.addresses import resolve_target

        workspace = workspace_of(ctx)
        target = resolve_target(address, workspace, shared_workspace=address_of(workspace))
        if target.through_jobs:
            return ctx.exit(submit_command(ctx, target, workspace, computes=not self.attaches))
        if not self.attaches:
            hint = "Name a Jobs API such as http://head:8265 to run it there as a job, or leave --address out."
            raise ConfigError(f"{ctx.command_path} computes in one process", where="--address", hint=hint)
        ctx.params["address"] = target.address
        return super().invoke(ctx)


class OneProcessCommand(ComputeCommand):
    """A command that computes in one process, here or as a job."""

    attaches = False


def submit_command(ctx: click.Context, target: "Target", workspace: Path, *, computes: bool) -> int:
    """Stage, submit and follow the command of a context; its exit code.

    Args:
        ctx: the command's context.
        target: where it runs.
        workspace: the local workspace.
        computes: whether the command computes in its own process, so that it must not be on the head.
    """
    from secauditai.doctor.endpoint import check_job_api
    from secauditai.doctor.findings import require
    from secauditai.storage import open_storage
    from secauditai.submission.command import rewrite, shown
    from secauditai.submission.jobs import JobsApi
    from secauditai.submission.request import JobRequest, job_key, own_versions, write_request
    from secauditai.submission.staging import Stager

    out = Output(as_json=bool(ctx.params.get("as_json")))
    require([check_job_api(target.address)])
    api = JobsApi(target.address)
    storage = open_storage(target.workspace)
    job_id = f"{ctx.command.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
    with out.progress() as progress:
        command = rewrite(ctx, ctx.meta[ARGUMENTS], Stager(storage, workspace, progress), job_key(job_id))
    takes_workspace = any(param.name == "workspace" for param in ctx.command.params)
    write_request(
        storage,
        job_id,
        JobRequest(
            arguments=command.arguments,
            takes_workspace=takes_workspace,
            tracking_uri=target.tracking_uri,
            versions=own_versions(),
        ),
    )
    entrypoint = shlex.join(["python", "-m", "secauditai.cli.entry", target.workspace, job_id])
    api.submit(job_id, entrypoint, shown(command.arguments), computes=computes)
    try:
        out.say(f"Job {job_id} on {target.address}; workspace {target.workspace}")
        job = api.follow(job_id, lambda line: click.echo(line, err=True))
    except KeyboardInterrupt:
        return _detach(api, job_id, target, out)
    return finish(job, storage, command, out)


def finish(job: "Job", storage: "Storage", command: "RemoteCommand", out: Output) -> int:
    """Bring back what a job wrote, print its document, and return its exit code."""
    from secauditai.submission.request import read_result

    code = exit_code_of(job, out.say)
    if code == 0 or not command.changes_its_data:
        for key, path in command.outputs.items():
            _bring_back(storage, key, path, out, needed=code == 0)
    result = read_result(storage, job.job_id)
    if result is not None:
        out.document({**result, **_local_paths(result, storage, command)})
    return code


def _bring_back(storage: "Storage", key: str, path: Path, out: Output, *, needed: bool) -> None:
    """Fetch an output, which a command that failed may have left or not, and the list of what was refused."""
    from secauditai.evaluation.predictions import refused_path

    if needed or storage.exists(key) or storage.exists(f"{key}/manifest.json"):
        fetch(storage, key, path)
        out.say(f"Wrote {path}")
    refused, here = str(refused_path(Path(key))), refused_path(path)
    if storage.exists(refused) and here.exists():
        out.warn(f"{here} exists; what was refused stays in {storage.at(refused)}")
    elif storage.exists(refused):
        fetch(storage, refused, here)


def exit_code_of(job: "Job", tell: Callable[[str], object]) -> int:
    """What a command that followed a job exits with.

    Args:
        job: one that is over.
        tell: gets what is to be said about it.

    Raises:
        ClusterError: when it died without an exit code: its environment, its node or Ray failed.
    """
    if job.exit_code is not None:
        return job.exit_code
    if job.status == "SUCCEEDED":
        return 0
    if job.status == "STOPPED":
        tell(f"Job {job.job_id} was stopped.")
        return 1
    raise ClusterError(f"the job failed: {job.message or job.status}".splitlines()[0], where=job.job_id)


def fetch(storage: "Storage", key: str, path: Path) -> None:
    """Copy a file or a directory from the storage to a local path, replacing what is there when all has come.

    Raises:
        ClusterError: when there is neither.
    """
    from secauditai.data.replacing import replacing

    if storage.exists(key):
        storage.download(key, path)
        return
    with replacing(path) as partial:
        if not storage.download_tree(key, partial):
            raise ClusterError("the job left no such output", where=storage.at(key))


def _local_paths(result: dict[str, Any], storage: "Storage", command: "RemoteCommand") -> dict[str, str]:
    """The paths of outputs as they are here."""
    here = {storage.at(key): str(path) for key, path in command.outputs.items()}
    return {name: here[value] for name, value in result.items() if isinstance(value, str) and value in here}


def _detach(api: Any, job_id: str, target: "Target", out: Output) -> int:
    """Ctrl-C: leave the job alone, or stop it when the user says so."""
    if sys.stdin.isatty() and click.confirm(f"\nStop job {job_id} too?", default=False, err=True):
        api.stop(job_id)
        out.say(f"Job {job_id} is asked to stop; a training writes a checkpoint first.")
        return DETACHED
    out.say(f"Detached; job {job_id} goes on.")
    out.next_step("jobs", "logs", job_id, "--follow", "--address", target.address)
    return DETACHED
