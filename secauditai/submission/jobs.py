"""The door to Ray's Jobs API: submit a command, follow it, stop it, list what is there."""

import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import secauditai
from secauditai.cluster import TOKEN_HINT, quieten
from secauditai.errors import ClusterError

MARK = "secauditai"
"""Key in a job's metadata by which ours are known: the command."""
LARGEST_PACKAGE = 20 * 2**20
"""Bytes of code shipped with a job; Ray itself refuses 100 MiB with an error that says nothing."""
PATIENCE = 300.0
"""Seconds that the Jobs API may be out of reach while a job is followed."""
BRIEF = 60.0
"""The same while a job is submitted."""
INTERVAL = 1.0
STOP_SECONDS = 120
"""Seconds from the request to stop until Ray kills a job; a training writes a checkpoint in them. Ray's own are 3."""
_STATUS = re.compile(r"Request failed with status code (\d+): ")
_NAMED = re.compile(r"[\w.-]+")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """A job of a cluster as it is now."""

    job_id: str
    command: str
    status: str
    """PENDING | RUNNING | STOPPED | SUCCEEDED | FAILED"""
    exit_code: int | None
    started: float | None
    ended: float | None
    message: str | None

    @property
    def over(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


class JobsApi:
    """The jobs of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Raises:
            ClusterError: when nothing answers at the address, or it refuses our token.
        """
        quieten()
        self.address = address
        with self._telling():
            from ray.job_submission import JobSubmissionClient

            for noisy in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._client = JobSubmissionClient(address)

    def submit(self, job_id: str, entrypoint: str, command: str, *, computes: bool) -> None:
        """Start a job that runs this package's code; nothing of the environment travels with it.

        Args:
            job_id: the id it gets.
            entrypoint: the command line that the cluster's shell runs.
            command: the command as the user knows it.
            computes: whether the entry point does the work itself: it takes a CPU then, which the head does not offer.
                Otherwise it runs on the head and has workers do it.

        Raises:
            ClusterError: when the cluster does not take it.
        """
        with _code_package() as directory:

            def submit() -> None:
                if job_id in [job.job_id for job in self.list()]:  # taken before, but the answer was lost
                    return
                with self._telling():
                    self._client.submit_job(
                        entrypoint=entrypoint,
                        submission_id=job_id,
                        runtime_env={
                            "working_dir": str(directory),
                            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
                        },
                        metadata={MARK: command},
                        entrypoint_num_cpus=1 if computes else None,
                    )

            self._patiently(submit, BRIEF)

    def get(self, job_id: str) -> Job:
        """One job.

        Raises:
            ClusterError: when there is none of this id.
        """
        if not _NAMED.fullmatch(job_id):  # it becomes a part of the address that is asked
            raise self._no_such(job_id)
        with self._telling(job_id):
            return _job(self._client.get_job_info(job_id))

    def list(self) -> list[Job]:
        """Our jobs, oldest first."""
        with self._telling():
            found = self._client.list_jobs()
        ours = [_job(item) for item in found if item.submission_id and MARK in (item.metadata or {})]
        return sorted(ours, key=lambda job: job.started or 0.0)

    def logs(self, job_id: str) -> str:
        """All that a job has printed so far."""
        with self._telling(job_id):
            return str(self._client.get_job_logs(job_id))

    def stop(self, job_id: str) -> None:
        """Ask a job to stop; a training writes a checkpoint first."""

        def stop() -> None:
            with self._telling(job_id):
                self._client.stop_job(job_id)

        self._patiently(stop, BRIEF)

    def follow(self, job_id: str, show: Callable[[str], None]) -> Job:
        """Show what a job prints until it is over; a lost connection is taken up again.

        Raises:
            ClusterError: when the cluster stays out of reach.
        """
        printed = 0
        while True:
            job = self._patiently(lambda: self.get(job_id))
            try:
                text = self._printed(job)
            except OutOfReach as error:  # the state comes from the head, the output from the node that the job is on
                text = ""
                if job.over:
                    show(f"The rest of its output is out of reach: {error.message}")
            complete = text if job.over else text[: text.rfind("\n") + 1]
            for line in complete[printed:].splitlines():
                show(line)
            printed = max(printed, len(complete))
            if job.over:
                return job
            time.sleep(INTERVAL)

    def _printed(self, job: Job) -> str:
        """What a job has printed; a last time it is worth some patience."""
        if job.status == "PENDING":
            return ""
        return self._patiently(lambda: self.logs(job.job_id), BRIEF) if job.over else self.logs(job.job_id)

    def _patiently(self, action: Callable[[], Result], patience: float = PATIENCE) -> Result:
        give_up = time.monotonic() + patience
        while True:
            try:
                return action()
            except ClusterError as error:
                if not isinstance(error, OutOfReach) or time.monotonic() >= give_up:
                    raise
            time.sleep(2 * INTERVAL)

    @contextmanager
    def _telling(self, job_id: str | None = None) -> Iterator[None]:
        """Turn what the client raises into one clear error."""
        import ray.exceptions
        import requests

        try:
            yield
        except ray.exceptions.AuthenticationError:
            raise ClusterError("the cluster refuses our token", where=self.address, hint=TOKEN_HINT) from None
        except (ConnectionError, requests.exceptions.RequestException):
            hint = "Is the dashboard's port reachable from here, and is it the http:// address of the head node?"
            raise OutOfReach("no Ray Jobs API answers", where=self.address, hint=hint) from None
        except RuntimeError as error:
            raise self._refusal(str(error).splitlines()[0][:300], job_id) from None

    def _refusal(self, told: str, job_id: str | None) -> ClusterError:
        """What an answer other than 200 means."""
        found = _STATUS.match(told)
        status = int(found[1]) if found else 0
        if status == 404 and job_id:
            return self._no_such(job_id)
        if status >= 500:  # the agent that runs jobs is not up yet or again, or a proxy has nobody behind it
            return OutOfReach(f"the cluster cannot answer now: {told}", where=self.address)
        return ClusterError(f"the cluster refuses: {told}", where=self.address)

    def _no_such(self, job_id: str) -> ClusterError:
        hint = "`secauditai jobs list` shows them."
        return ClusterError(f"there is no job {job_id!r}", where=self.address, hint=hint)


class OutOfReach(ClusterError):
    """Nothing answered; later it may."""


@contextmanager
def _code_package() -> Iterator[Path]:
    """A directory with this package's code, so that the cluster runs what runs here."""
    source = Path(secauditai.__file__).parent
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc")
    if size > LARGEST_PACKAGE:
        raise ClusterError(
            f"the code is {size / 2**20:.0f} MiB, more than {LARGEST_PACKAGE / 2**20:.0f} MiB",
            where=str(source),
            hint="Something that is not code lies in there; data never travels with a job.",
        )
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(source, Path(directory) / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(directory)


def _job(details: Any) -> Job:
    return Job(
        job_id=str(details.submission_id),
        command=str((details.metadata or {}).get(MARK, details.entrypoint)),
        status=str(details.status),
        exit_code=details.driver_exit_code,
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        message=details.message,
    )
