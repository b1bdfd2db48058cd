"""`train tune`: a sweep over the search spaces of a configuration."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.options import (
    address_option,
    given_settings,
    json_option,
    setting_options,
    workspace_option,
)
from secauditai.cli.output import Output, duration, number
from secauditai.cli.submit import ComputeCommand
from secauditai.config.files import NamedConfigs, name_of_config
from secauditai.errors import ConfigError

if TYPE_CHECKING:
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import SweepResult

NEWEST = "newest"
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class Seconds(click.ParamType[float]):
    """A duration: seconds, or `90s`, `30m`, `2h`, `1d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the text into seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", str(value).strip().lower())
        seconds = 0.0 if match is None else float(match[1]) * UNITS[match[2]]
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is no duration; write seconds, or 90s, 30m, 2h, 1d", param, ctx)
        return seconds


class CountOrAuto(click.ParamType[int | None]):
    """A count from 1, or `auto`: None."""

    name = "count|auto"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parse the text."""
        if str(value).lower() == "auto":
            return None
        return click.IntRange(1).convert(value, param, ctx)


@dataclass(frozen=True)
class Choices:
    """How a sweep searches: options of `tune` that a resumed sweep takes from its ledger."""

    sampler: str | None
    trial_scheduler: str | None
    reduction_factor: int | None
    metric: str | None
    seeds_per_trial: int | None

    def given(self) -> list[str]:
        """The flags that the command line names."""
        return ["--" + name.replace("_", "-") for name, value in vars(self).items() if value is not None]


@click.command(cls=ComputeCommand)
@click.option("--config", "name", default=None, help="Name of a configuration with search spaces.")
@click.option(
    "--num-samples", type=click.IntRange(1, 9999), default=None, help="Trials; default 8, or all of the grid."
)
@click.option(
    "--sampler",
    type=click.Choice(["random", "grid", "tpe"]),
    default=None,
    help="How settings are chosen; default random. tpe is Optuna's.",
)
@click.option(
    "--trial-scheduler",
    type=click.Choice(["none", "asha"]),
    default=None,
    help="Whether trials that fall behind stop early; default none.",
)
@click.option(
    "--reduction-factor",
    type=click.IntRange(2, 16),
    default=None,
    help="Of how many trials at a rung one goes on, with asha; default 3.",
)
@click.option(
    "--metric", default=None, help="Validation metric to search the best of; default the one that picks checkpoints."
)
@click.option(
    "--seeds-per-trial",
    type=click.IntRange(1, 100),
    default=None,
    help="Trainings per trial with seeds of their own; the mean counts. Default 1.",
)
@click.option(
    "--max-concurrent", type=CountOrAuto(), default=None, help="Trials at a time; auto, the default, fills the cluster."
)
@click.option(
    "--time-budget",
    type=Seconds(),
    default=None,
    help="Such as 90s, 30m, 2h: then trials stop after their next validation, and the sweep ends.",
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=NEWEST,
    default=None,
    metavar="[SWEEP_ID]",
    help="Go on with this sweep, or the newest (of --config); with --num-samples, add trials.",
)
@setting_options()
@click.option(
    "--dry-run", is_flag=True, help="Print the plan and stop before a run is made; raw data is prepared into the cache."
)
@address_option
@workspace_option
@json_option
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    name: str | None,
    num_samples: int | None,
    max_concurrent: int | None,
    time_budget: float | None,
    resume: str | None,
    dry_run: bool,
    address: str | None,
    workspace: Path,
    as_json: bool,
    **choices: Any,
) -> None:
    """Search the settings that a configuration leaves open; the best model is registered.

    \b
    Example:
      secauditai train config set custom_model learning_rate '{loguniform: [1.0e-5, 1.0e-3]}'
      secauditai train tune --config custom_model --data training_data --num-samples 8
    """
    from secauditai.cli.sweep_table import watch_sweep
    from secauditai.tuning.planning import SweepRequest
    from secauditai.tuning.sweep import resume_sweep, run_sweep

    out = Output(as_json=as_json)
    chosen, settings = Choices(**choices), given_settings(ctx)
    if resume is not None:
        _refuse_with_resume(chosen, settings, dry_run=dry_run)
        changes = SweepRequest(
            name_of_config(name) if name else "", {}, workspace, num_samples, max_concurrent, address
        )
        with out.progress() as progress, watch_sweep(out) as watch:
            sweep_id = None if resume == NEWEST else resume
            result = resume_sweep(
                changes, sweep_id, time_budget=time_budget, progress=progress, notify=out.say, watch=watch
            )
        _show_result(result, out)
        return
    if name is None:
        raise ConfigError("there is no configuration to search", where="--config", hint="Name one, or use --resume.")
    request = SweepRequest(
        name=name_of_config(name),
        layer={**NamedConfigs(workspace).read(name), **settings},
        workspace=workspace,
        num_samples=num_samples,
        max_concurrent=max_concurrent,
        address=address,
        sampler=chosen.sampler or "random",
        scheduler=chosen.trial_scheduler or "none",
        reduction_factor=_reduction_factor(chosen),
        metric=chosen.metric,
        seeds_per_trial=chosen.seeds_per_trial or 1,
    )
    if dry_run:
        _show_plan(request, time_budget, out)
        return
    with out.progress() as progress, watch_sweep(out) as watch:
        result = run_sweep(request, time_budget=time_budget, progress=progress, notify=out.say, watch=watch)
    _show_result(result, out)


def _reduction_factor(chosen: Choices) -> int:
    if chosen.reduction_factor is not None and chosen.trial_scheduler != "asha":
        raise ConfigError("only asha has a reduction factor", where="--reduction-factor", hint="Add it, or leave out.")
    return chosen.reduction_factor or 3


def _refuse_with_resume(chosen: Choices, settings: dict[str, Any], *, dry_run: bool) -> None:
    """A resumed sweep is the same sweep."""
    given = [*chosen.given(), *(f"--{name.replace('_', '-')}" for name in settings), *(["--dry-run"] * dry_run)]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot change with --resume",
            hint="Give only --num-samples, --max-concurrent, --time-budget and --address, or start a new sweep.",
        )


def _show_result(result: "SweepResult", out: Output) -> None:
    ledger, best = result.ledger, result.ledger.best
    keys = list(ledger.spaces)
    rows = [
        [t.trial_id, *(shown(t.settings[key]) for key in keys), number(t.value), t.status, duration(t.seconds)]
        for t in ledger.trials
    ]
    out.table(rows, ["trial", *keys, ledger.metric, "status", "training"])
    for trial in ledger.trials:
        if trial.status == "failed":
            out.warn(f"trial {trial.trial_id} failed: {trial.error}")
    version = f"{ledger.name}/{ledger.version}"
    value = number(best.value if best else None)
    out.say(f"Best: {ledger.metric} {value}, saved as {ledger.best_config}, registered as {version}")
    out.say(f"Summary: {ledger.layout.summary}")
    if ledger.status != "finished":
        out.next_step("train", "tune", "--resume", ledger.sweep_id)
    else:
        out.next_step("train", "evaluate", "--model", version, "--test-data", ledger.fixed["data"])
    out.document(result.document())


def shown(value: object) -> str:
    """A setting's value for a table."""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _show_plan(request: "SweepRequest", time_budget: float | None, out: Output) -> None:
    """The plan of the sweep, and of a trial with every searched setting at its default."""
    from secauditai.training.estimate import estimate
    from secauditai.tuning.planning import local_capacity, plan_sweep

    plan = plan_sweep(request)
    capacity = local_capacity(request)
    max_concurrent, trial = plan.max_concurrent(capacity), estimate(plan.training)
    spaces = {name: space.plain() for name, space in plan.spaces.items()}
    seeds = f" of {request.seeds_per_trial} seeds each" if request.seeds_per_trial > 1 else ""
    over = ", ".join(f"{name} {space}" for name, space in spaces.items())
    out.say(f"{plan.trials} trials{seeds} over {over}, chosen by {request.sampler}, for the best {plan.metric}")
    out.say(f"{max_concurrent} at a time: {plan.resources.arithmetic(capacity)}")
    if plan.rungs:
        out.say(f"asha judges after {', '.join(map(str, plan.rungs))} samples; 1 of {request.reduction_factor} goes on")
    elif request.scheduler == "asha":
        out.warn("no rung lies before the end of a trial: asha will stop none; train longer or validate more often")
    if time_budget is not None:
        out.say(f"Ends after {duration(time_budget)}, each trial after its next validation")
    out.say("Each trial, with searched settings at their defaults:")
    for key, value in trial.items():
        out.say(f"  {key.replace('_', ' ')}: {shown(value)}")
    out.say("This was a dry run: nothing was trained or registered.")
    document = {"trials": plan.trials, "spaces": spaces, "trial": trial, "metric": plan.metric, "rungs": plan.rungs}
    out.document(document | {"max_concurrent": max_concurrent, "arithmetic": plan.resources.arithmetic(capacity)})
