"""`train monitor`: watch a run from another terminal."""

import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import click

from secauditai.cli.next_steps import after_run
from secauditai.cli.options import json_option, workspace_option
from secauditai.cli.output import Output, duration, number
from secauditai.config.files import check_name
from secauditai.mirror import address_of
from secauditai.runs import RUNNING, Run, checkpoint_steps, fetch_history, newest_run, read_metrics

INTERVAL = 2.0
"""Seconds between two looks."""
RATE_RECORDS = 50
"""Newest records that the rate is averaged over."""
SHOWN_EVENTS = 5
"""Newest events that are shown."""


@click.command()
@click.option("--model", "name", required=True, help="Name of the model whose newest run is watched.")
@click.option("--once", is_flag=True, help="Print the state once and stop.")
@workspace_option
@json_option
def monitor(name: str, once: bool, workspace: Path, as_json: bool) -> None:
    """Show a run: progress, loss, rate, time left, last checkpoint.

    A run that goes on is followed until it ends (Ctrl-C stops watching, not the run); of a finished one the summary
    is shown.

    \b
    Example:
      secauditai train monitor --model codebert
    """
    out = Output(as_json=as_json)
    run = newest_run(workspace, check_name(name, "model"))
    state = read_state(run)
    if not as_json:
        _show(state, out)
    shown = state["step"]
    while not once and not as_json and state["status"] == RUNNING:
        time.sleep(INTERVAL)
        state = read_state(run)
        if state["step"] != shown or state["status"] != RUNNING:
            out.say(_line(state))
            shown = state["step"]
    if not once and not as_json and state["status"] != RUNNING:
        _show_summary(run, state, out)
    out.document(state)


def read_state(run: Run) -> dict[str, Any]:
    """Where a run stands, from its files alone."""
    fetch_history(run)
    info, records = run.info, read_metrics(run.layout.metrics)
    train = [record for record in records if record["kind"] == "train"]
    val = [record for record in records if record["kind"] == "val"]
    step, total = (records[-1]["step"] if records else 0), info.total_steps or 0
    rate = _steps_per_second(train)
    checkpoints = checkpoint_steps(run.layout)
    return {
        "run_id": info.run_id,
        "run_dir": address_of(run.root),
        "model": info.name,
        "kind": info.kind,
        "task": info.task,
        "status": _status(run),
        "message": info.message,
        "step": step,
        "total_steps": total,
        "epoch": records[-1]["epoch"] if records else 0.0,
        "loss": next((r["loss"] for r in reversed(train) if "loss" in r), None),
        "samples_per_second": next(
            (r["samples_per_second"] for r in reversed(train) if "samples_per_second" in r), None
        ),
        "eta_seconds": (total - step) / rate if rate and _status(run) == RUNNING else None,
        "last_checkpoint": checkpoints[-1] if checkpoints else None,
        "validation": {k: v for k, v in val[-1].items() if k not in ("kind", "time", "epoch")} if val else None,
        "version": info.model_version,
        "events": [
            {key: value for key, value in record.items() if key != "kind"}
            for record in records
            if record["kind"] == "event"
        ],
    }


def _status(run: Run) -> str:
    """The run's status; `interrupted` when it says running but its process on this machine is gone."""
    info = run.info
    return "interrupted" if info.status == RUNNING and info.process_is_gone() else info.status


def _steps_per_second(train: list[dict[str, Any]]) -> float:
    """Steps per second of late, whatever time the run lay still in between."""
    rates = [
        (after["step"] - before["step"]) / (after["time"] - before["time"])
        for before, after in itertools.pairwise(train[-RATE_RECORDS:])
        if after["time"] > before["time"]
    ]
    return statistics.median(rates) if rates else 0.0


def _show(state: dict[str, Any], out: Output) -> None:
    out.say(f"Run {state['run_id']} of {state['model']} ({state['kind']}, {state['task']}): {state['status']}")
    out.say(f"  {state['run_dir']}")
    out.say(_line(state))
    for event in state["events"][-SHOWN_EVENTS:]:
        out.say(f"  step {event['step']}: {event.get('message', event['event'].replace('_', ' '))}")
    if state["message"]:
        out.say(f"  {state['message']}")


def _line(state: dict[str, Any]) -> str:
    total = state["total_steps"]
    share = f" ({state['step'] / total:.0%})" if total else ""
    parts = [f"step {state['step']}/{total}{share}", f"epoch {state['epoch']:.2f}", f"loss {number(state['loss'])}"]
    if state["samples_per_second"]:
        parts.append(f"{state['samples_per_second']:.1f} samples/s")
    if state["eta_seconds"] is not None:
        parts.append(f"{duration(state['eta_seconds'])} left")
    if state["last_checkpoint"] is not None:
        parts.append(f"checkpoint_{state['last_checkpoint']}")
    return "  " + ", ".join(parts)


def _show_summary(run: Run, state: dict[str, Any], out: Output) -> None:
    summary = run.info.summary
    for key, value in (summary.get("metrics") or {}).items():
        out.say(f"  validation {key}: {number(value)}")
    if state["version"] is not None:
        out.say(f"Registered as {state['model']}/{state['version']}.")
    if (step := after_run(run)) is not None:
        out.next_step(*step)
