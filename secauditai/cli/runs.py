"""`runs list` and `runs prune`: what the workspace's runs take, and removing those that nobody needs."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.options import json_option, workspace_option
from secauditai.cli.output import Output, duration
from secauditai.config.files import check_name
from secauditai.errors import RunError
from secauditai.mirror import address_of

if TYPE_CHECKING:
    from secauditai.pruning import Removal, RunState

STATUSES = ("finished", "failed", "stopped", "interrupted")
UNITS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}


class AgeType(click.ParamType[float]):
    """`12h`, `30d` or `8w`, as seconds."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse it."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age; write hours, days or weeks, such as 12h, 30d or 8w", param, ctx)
        return float(match[1]) * UNITS[match[2]]


@click.command("list")
@click.option("--name", default=None, help="Only runs of this model.")
@workspace_option
@json_option
def list_command(name: str | None, workspace: Path, as_json: bool) -> None:
    """Show every run: kind, status, steps, size, registered version, age.

    \b
    Example:
      secauditai runs list --name trained_model
    """
    from secauditai.pruning import read_states

    out = Output(as_json=as_json)
    states = read_states(workspace, None if name is None else check_name(name, "model"))
    total = sum(state.size for state in states)
    if states:
        out.table([_row(state) for state in states], ["run", "kind", "status", "steps", "size", "version", "age"])
    place = address_of(workspace)
    out.say(f"{len(states)} runs in {place}, {size(total)}")
    out.document({"workspace": place, "runs": [state.document() for state in states], "bytes": total})


@click.command()
@click.option("--name", default=None, help="Only runs of this model.")
@click.option(
    "--status", "statuses", type=click.Choice(STATUSES), multiple=True, help="Only runs that ended so; repeatable."
)
@click.option("--older-than", type=AgeType(), default=None, help="Only runs begun longer ago, such as 12h, 30d or 8w.")
@click.option("--keep-last", type=click.IntRange(1), default=None, help="Keep the newest runs of each model.")
@click.option("--registered", is_flag=True, help="Also runs whose model is registered; the version stays in MLflow.")
@click.option("--checkpoints-only", is_flag=True, help="Remove checkpoints only, but the newest and best of each run.")
@click.option("--dry-run", is_flag=True, help="Show what would go and what would be lost; so without --yes.")
@click.option("--yes", is_flag=True, help="Remove it.")
@workspace_option
@json_option
def prune(
    name: str | None,
    statuses: tuple[str, ...],
    older_than: float | None,
    keep_last: int | None,
    registered: bool,
    checkpoints_only: bool,
    dry_run: bool,
    yes: bool,
    workspace: Path,
    as_json: bool,
) -> None:
    """Remove runs that nobody needs, or their older checkpoints; nothing goes without --yes.

    A run must meet everything that is given. Runs that may still be going always stay, and so do those with a
    registered model unless --registered is given.

    \b
    Example:
      secauditai runs prune --status failed --status interrupted --older-than 30d
      secauditai runs prune --checkpoints-only --keep-last 1 --yes
    """
    from secauditai.pruning import Selection, choose, needed_runs, open_sweeps, read_states, remove

    if name is None and not statuses and older_than is None and keep_last is None:
        raise click.UsageError("Say which runs: --name, --status, --older-than or --keep-last.")
    if dry_run and yes:
        raise click.UsageError("--dry-run and --yes contradict each other.")
    out = Output(as_json=as_json)
    selection = Selection(
        None if name is None else check_name(name, "model"),
        statuses,
        older_than,
        keep_last or 0,
        registered,
        checkpoints_only,
    )
    states = read_states(workspace)
    removals, kept = choose(states, selection, open_sweeps(workspace), needed_runs(workspace, states))
    removed = []
    for removal in removals:
        _show(removal, checkpoints_only, out)
        if yes:
            try:
                remove(workspace, removal)
            except RunError as error:
                kept[removal.state.run_id] = error.message
                out.warn(str(error))
                continue
        removed.append(removal)
    _conclude(removed, kept, yes=yes, out=out)


def _show(removal: "Removal", checkpoints_only: bool, out: Output) -> None:
    state = removal.state
    what = f"{len(removal.paths)} checkpoints of {state.name}" if checkpoints_only else state.name
    out.say(f"{what} {state.run_id} ({state.status}, {_age(state)} old): {size(removal.size)}")
    for sentence in removal.lost:
        out.say(f"  lost: {sentence}")


def _conclude(removed: list["Removal"], kept: dict[str, str], *, yes: bool, out: Output) -> None:
    freed = sum(removal.size for removal in removed)
    for run_id, reason in kept.items():
        out.say(f"Kept {run_id}: {reason}")
    if yes:
        out.say(f"Removed {size(freed)} of {len(removed)} runs.")
    elif removed:
        out.say(f"{size(freed)} of {len(removed)} runs would go. Nothing was removed: add --yes.")
    else:
        out.say("Nothing to remove.")
    document = [removal.document() for removal in removed]
    out.document({"dry_run": not yes, "runs": document, "kept": kept, "bytes": freed})


def _row(state: "RunState") -> list[str]:
    steps = f"{state.step}/{state.total_steps}" if state.total_steps else str(state.step)
    version = "-" if state.version is None else str(state.version)
    return [f"{state.name} {state.run_id}", state.kind, state.status, steps, size(state.size), version, _age(state)]


def _age(state: "RunState") -> str:
    seconds = time.time() - state.created
    return duration(seconds) if seconds < 2 * UNITS["d"] else f"{seconds / UNITS['d']:.0f} days"


def size(count: int) -> str:
    """Bytes as `512 B`, `3.4 MiB` and so on."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
