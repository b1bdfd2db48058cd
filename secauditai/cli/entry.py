"""What a job runs on the head node: `python -m secauditai.cli.entry WORKSPACE JOB_ID`.

It reads the job's request from the shared workspace, runs the command there and leaves its JSON document beside it.
"""

import contextlib
import io
import os
import sys

from secauditai.cli.app import EXIT_ERROR, EXIT_GATE
from secauditai.cli.app import main as run_command_line
from secauditai.errors import ClusterError, PreflightError
from secauditai.storage import open_storage
from secauditai.submission.brought import bring
from secauditai.submission.request import read_request, result_key, version_differences


def run(workspace: str, job_id: str) -> int:
    """Run the request and return the command's exit code.

    Raises:
        PreflightError: when the workspace is not shared with this node, or library versions differ.
    """
    storage = open_storage(workspace)
    request = read_request(storage, job_id)
    differences = version_differences(request.versions)
    if differences:
        hint = "Install the same versions on the cluster, for example from the project's constraints."
        raise PreflightError([f"versions: the cluster has other ones: {', '.join(differences)}. {hint}"])
    if request.tracking_uri:
        os.environ.setdefault("MLFLOW_TRACKING_URI", request.tracking_uri)
    document, more = io.StringIO(), ["--workspace", workspace] if request.takes_workspace else []
    with bring(storage, job_id, request.arguments) as brought:
        code = _run_command([*brought.arguments, *more, "--json"], document)
    if document.getvalue().strip():
        storage.write_bytes(result_key(job_id), brought.said(document.getvalue()).encode())
    return code


def _run_command(arguments: list[str], document: io.StringIO) -> int:
    sys.argv = ["secauditai", *arguments]
    try:
        with contextlib.redirect_stdout(document):
            run_command_line()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main(arguments: list[str]) -> int:
    """Run, with a user's error as one line."""
    try:
        return run(*arguments)
    except PreflightError as error:
        print("\n".join(f"Error: {line}" for line in error.lines), file=sys.stderr)
        return EXIT_GATE
    except ClusterError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
