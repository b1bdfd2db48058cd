"""`secauditai jobs`: the jobs that `--address` submitted."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.options import Command, json_option, workspace_option
from secauditai.cli.output import Output, duration
from secauditai.cli.submit import exit_code_of

if TYPE_CHECKING:
    from secauditai.submission.jobs import Job, JobsApi

address_option = click.option(
    "--address", required=True, help="The cluster's Jobs API, http://head:8265, or its name in clusters.yaml."
)
job_argument = click.argument("job_id")


def of_one_job(command: Command) -> Command:
    """The words of a command about one job, which may tell it as JSON."""
    return job_argument(address_option(workspace_option(json_option(command))))


@click.group()
def jobs() -> None:
    """List, watch and stop the jobs that `--address` submitted.

    \b
    Example:
      secauditai jobs list --address http://127.0.0.1:8265
    """


@jobs.command("list")
@address_option
@workspace_option
@json_option
def list_(address: str, workspace: Path, as_json: bool) -> None:
    """List the jobs of a cluster, oldest first.

    \b
    Example:
      secauditai jobs list --address http://127.0.0.1:8265
    """
    out = Output(as_json=as_json)
    found = _open(address, workspace).list()
    if not found:
        out.say("No jobs yet.")
    else:
        out.table(
            [[job.job_id, job.status, _took(job), job.command] for job in found], ["job", "status", "time", "command"]
        )
    out.document({"jobs": [_document(job) for job in found]})


@jobs.command()
@of_one_job
def status(job_id: str, address: str, workspace: Path, as_json: bool) -> None:
    """Show one job.

    \b
    Example:
      secauditai jobs status finetune-20260101-120000-abc123 --address http://127.0.0.1:8265
    """
    out, job = Output(as_json=as_json), _open(address, workspace).get(job_id)
    out.say(f"{job.job_id}: {job.status}, {_took(job)}")
    out.say(f"  {job.command}")
    if job.message:
        out.say(f"  {job.message.splitlines()[0]}")
    out.document(_document(job))


@jobs.command()
@job_argument
@click.option("--follow", is_flag=True, help="Go on until the job is over; exits with its code.")
@address_option
@workspace_option
@click.pass_context
def logs(ctx: click.Context, job_id: str, follow: bool, address: str, workspace: Path) -> None:
    """Print what a job has printed.

    \b
    Example:
      secauditai jobs logs finetune-20260101-120000-abc123 --follow --address http://127.0.0.1:8265
    """
    api = _open(address, workspace)
    if not follow:
        api.get(job_id)
        click.echo(api.logs(job_id), nl=False)
        return
    job = api.follow(job_id, click.echo)
    ctx.exit(exit_code_of(job, lambda line: click.echo(line, err=True)))


@jobs.command()
@of_one_job
def stop(job_id: str, address: str, workspace: Path, as_json: bool) -> None:
    """Stop a job; a training writes a checkpoint first and can be resumed.

    \b
    Example:
      secauditai jobs stop finetune-20260101-120000-abc123 --address http://127.0.0.1:8265
    """
    out = Output(as_json=as_json)
    api = _open(address, workspace)
    job = api.get(job_id)
    if job.over:
        out.say(f"{job_id} is over already: {job.status}")
    else:
        api.stop(job_id)
        out.say(f"{job_id} is asked to stop.")
        out.next_step("jobs", "status", job_id, "--address", address)
    out.document(_document(job))


def _open(address: str, workspace: Path) -> "JobsApi":
    from secauditai.errors import ConfigError
    from secauditai.submission.addresses import resolve_target
    from secauditai.submission.jobs import JobsApi

    target = resolve_target(address, workspace)
    if not target.through_jobs:
        raise ConfigError(f"{target.address} is no Jobs API", where="--address", hint="It looks like http://head:8265.")
    return JobsApi(target.address)


def _took(job: "Job") -> str:
    return "-" if job.started is None else duration((job.ended or time.time()) - job.started)


def _document(job: "Job") -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.status,
        "command": job.command,
        "exit_code": job.exit_code,
        "started": job.started,
        "ended": job.ended,
        "message": job.message,
    }
