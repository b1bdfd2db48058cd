"""`doctor`: is everything there that a training needs?"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from secauditai.cli.app import EXIT_GATE
from secauditai.cli.options import address_option, given_settings, json_option, setting_options, workspace_option
from secauditai.cli.output import Output
from secauditai.config.files import NamedConfigs, resolve_config
from secauditai.mirror import address_of

if TYPE_CHECKING:
    from secauditai.doctor.findings import Finding

MARKS = {"ok": "ok", "warning": "warn", "failed": "FAIL", "skipped": "skip"}
HUB = "hub:"


@click.command()
@click.option("--config", "name", default=None, help="Configuration whose training is to run.")
@setting_options("model", "num_workers", "threads")
@click.option(
    "--min-free-gb",
    type=click.FloatRange(0),
    default=5.0,
    show_default=True,
    help="Disk every node must have free.",
)
@address_option
@workspace_option
@json_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    name: str | None,
    min_free_gb: float,
    address: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Check what a training needs, here or on every node of a cluster; exit with 3 when something is missing.

    Versions, shared storage, disk, memory, resources, MLflow and its artifact store, hub or cache, token, dashboard.

    \b
    Example:
      secauditai doctor
      secauditai doctor --address auto --config custom_model --num-workers 4
    """
    layer = {**(NamedConfigs(workspace).read(name) if name else {}), **given_settings(ctx)}
    config = resolve_config(layer, allow_spaces=True)
    from secauditai.doctor.examine import Needs, examine
    from secauditai.models.catalogue import open_catalogue
    from secauditai.submission.addresses import resolve_target

    model, execution = config.architecture.model, config.execution
    entry = open_catalogue(workspace).get(model)
    hub_id = model.removeprefix(HUB) if model.startswith(HUB) else entry.hub_id if entry else None
    if address is not None:
        address = resolve_target(address, workspace, shared_workspace=address_of(workspace)).address
    needs = Needs(
        workspace,
        address or os.environ.get("RAY_ADDRESS"),
        num_workers=execution.worker_range[0] if execution.worker_range else None,
        threads=execution.threads if isinstance(execution.threads, int) else 1,
        model=model,
        hub_id=hub_id,
        revision=entry.revision if entry else None,
        free_disk=int(min_free_gb * 2**30),
    )
    out = Output(as_json=as_json)

    def say(finding: "Finding") -> None:
        hint = f". {finding.hint}" if finding.hint else ""
        out.say(f"{MARKS[finding.result]:4} {finding.check:9} {finding.message}{hint}")

    found = examine(needs, say)
    failed = [finding for finding in found if finding.result == "failed"]
    out.document({"ok": not failed, "checks": [finding.document() for finding in found]})
    if failed:
        sys.exit(EXIT_GATE)
