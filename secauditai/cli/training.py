"""`train base`, `finetune`, `start` and `resume`: one training loop, four ways to ask for it."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from secauditai.cli.idle import refuse_idle
from secauditai.cli.next_steps import after_training
from secauditai.cli.options import (
    Command,
    address_option,
    given_settings,
    json_option,
    setting_options,
    workspace_option,
)
from secauditai.cli.output import Output, duration, number
from secauditai.cli.submit import ComputeCommand
from secauditai.config.files import NamedConfigs, check_name, name_of_config, resolve_config
from secauditai.config.leaves import leaves
from secauditai.errors import ConfigError
from secauditai.runs import RunInfo, list_runs

FOLD_OPTIONS = (
    click.option(
        "--folds",
        type=click.IntRange(2, 100),
        help="Cross-validate: train once per fold without it, and judge on it. A test split of the data stays unseen.",
    ),
    click.option(
        "--register",
        type=click.Choice(["best", "all"]),
        help="With --folds: which models become versions; best is by each one's own validation.  [default: best]",
    ),
)
dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Print the plan and stop before a run is made; raw data is prepared and a hub encoder kept in the caches.",
)


def fold_options(command: Command) -> Command:
    """The flags of cross-validation."""
    for option in reversed(FOLD_OPTIONS):
        command = option(command)
    return command


@click.command(cls=ComputeCommand)
@click.option("--name", default=None, help="Name of the registered encoder; default the model's own.")
@setting_options()
@dry_run_option
@address_option
@workspace_option
@json_option
@click.pass_context
def base(ctx: click.Context, /, name: str | None, workspace: Path, **options: Any) -> None:
    """Adapt an encoder to your code by masked-language modelling.

    \b
    Example:
      secauditai train base --data training_data --model transformer --epochs 10
    """
    settings = given_settings(ctx)
    _train("base", name or _own_name(settings.get("model", "transformer")), settings, workspace, **options)


def _own_name(model: str) -> str:
    """A registered model's name without version or alias, or else the last part of a path or hub id."""
    registered = None if Path(model).exists() else re.fullmatch(r"(?!hub:)([^/@]+)(?:/\d+|@[^/@]+)", model)
    return registered[1] if registered else Path(model.removeprefix("hub:")).absolute().name


@click.command(cls=ComputeCommand)
@click.option("--name", default="trained_model", show_default=True, help="Name the model is registered by.")
@setting_options()
@fold_options
@dry_run_option
@address_option
@workspace_option
@json_option
@click.pass_context
def finetune(ctx: click.Context, /, name: str, workspace: Path, **options: Any) -> None:
    """Fine-tune an encoder for a task.

    \b
    Example:
      secauditai train finetune --model transformer --task vulnerability_detection --data training_data
    """
    _train("finetune", name, given_settings(ctx), workspace, **options)


@click.command(cls=ComputeCommand)
@click.option("--config", "config_name", default=None, help="Name of a configuration, or a YAML file.")
@click.option("--name", default=None, help="Name the model is registered by; default the configuration's.")
@setting_options()
@fold_options
@dry_run_option
@address_option
@workspace_option
@json_option
@click.pass_context
def start(
    ctx: click.Context, /, config_name: str | None, name: str | None, workspace: Path, as_json: bool, **options: Any
) -> None:
    """Train with a named configuration; flags win over it.

    Without --config and --data, the newest run started so is repeated with this line's flags, as a new version.

    \b
    Example:
      secauditai train start --config custom_model --data training_data --gpu 0 --checkpoint-interval 1000
    """
    flags = given_settings(ctx)
    start_layer: dict[str, Any] = {}
    if config_name is None and "data" not in flags:
        last = _last_start(workspace)
        layer, config_name, name = last.start_layer, last.config_name, name or last.name
        changes = ", ".join(f"{key} {value}" for key, value in flags.items()) or "no other setting"
        Output(as_json=as_json).say(f"Repeating run {last.run_id} of {name} with its configuration and {changes}")
    else:
        layer = NamedConfigs(workspace).read(config_name) if config_name else {}
        start_layer = {**layer, "data": flags.get("data", layer.get("data"))}
    name = name or (name_of_config(config_name) if config_name else "custom_model")
    _train(
        "start",
        name,
        {**layer, **flags},
        workspace,
        as_json=as_json,
        config_name=config_name,
        start_layer=start_layer,
        **options,
    )


def _last_start(workspace: Path) -> RunInfo:
    """The newest run that a `start --config` began, or else one with `--data` alone; repetitions do not count."""
    began = [run.info for run in list_runs(workspace) if run.info.start_layer]
    started = [info for info in began if info.config_name] or began
    if not started:
        raise ConfigError(
            "nothing to repeat: no `start` run in this workspace yet",
            where=str(workspace),
            hint="Name --config and --data.",
        )
    return started[-1]


@click.command(cls=ComputeCommand)
@click.option(
    "--model", "name", required=True, help="Name of the model whose newest run, or cross-validation, goes on."
)
@click.option(
    "--checkpoint", default="latest", show_default=True, help="latest, best, a step, checkpoint_1000.pt, or a path."
)
@setting_options(*(leaf for leaf in leaves() if leaf != "model"))
@dry_run_option
@address_option
@workspace_option
@json_option
@click.pass_context
def resume(
    ctx: click.Context,
    /,
    name: str,
    checkpoint: str,
    dry_run: bool,
    address: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Go on with an interrupted run, or branch from an older checkpoint.

    The latest checkpoint continues the same run; an older one starts a new run that names its parent. Settings that
    say where and how the run executes may change; those that would change the training are refused.

    \b
    Example:
      secauditai train resume --model custom_model --checkpoint checkpoint_1000.pt
    """
    from secauditai.cli.folds import resume_folds
    from secauditai.doctor.preflight import check_recipe
    from secauditai.fold_records import newest_training
    from secauditai.pipeline import go_on
    from secauditai.training.resume import describe, resolve_resume, summarise

    out = Output(as_json=as_json)
    check_name(name, "model")
    folds = newest_training(workspace, name) if checkpoint == "latest" else None
    if folds is not None:
        resume_folds(folds, workspace, given_settings(ctx), out, address=address, dry_run=dry_run)
        return
    found = resolve_resume(workspace, name, checkpoint, given_settings(ctx), address)
    for damage in found.damaged:
        out.warn(f"passed over: {damage}")
    if found.complete:
        info = found.run.info
        version = f"{name}/{info.model_version}"
        out.say(f"Run {info.run_id} is complete at step {info.total_steps} and registered as {version}.")
        out.next_step(*after_training(info))
        from secauditai.pipeline import outcome_of

        out.document(outcome_of(found.run).document())
        return
    summary = summarise(found)
    out.say("\n".join([describe(found), *summary.lines()]))
    if dry_run:
        from secauditai.training.estimate import estimate_rest

        begun = {"run_id": found.run.info.run_id, "branches": found.branches, "step": found.step}
        _show_estimate(estimate_rest(found), out, **begun, resumed=asdict(summary))
        return
    with out.progress() as progress:
        if found.changes is not None:
            check_recipe(found.changes.recipe, workspace, address)
        run = found.begin(workspace, progress)
        outcome = go_on(run, workspace, address=address, progress=progress, notify=out.say)
    _report(outcome, out, resumed=asdict(summary))


def _train(
    kind: str,
    name: str,
    layer: dict[str, Any],
    workspace: Path,
    *,
    as_json: bool,
    dry_run: bool,
    address: str | None,
    config_name: str | None = None,
    start_layer: dict[str, Any] | None = None,
    folds: int | None = None,
    register: str | None = None,
) -> None:
    out = Output(as_json=as_json)
    config = resolve_config(layer)
    refuse_idle(kind, given_settings(click.get_current_context()), config)
    check_name(name, "model", remedy="Give one with --name.")
    if register is not None and folds is None:
        raise ConfigError("--register is for cross-validation", hint="Add --folds 5, or leave --register out.")
    if config.input.data is None:
        raise ConfigError(
            "there is no training data", where="--data", hint="Name a file, a directory or security_dataset."
        )
    from secauditai.cluster import begin_ray
    from secauditai.doctor.preflight import check_request
    from secauditai.training.preparation import plan_training
    from secauditai.training.request import TrainRequest

    request = TrainRequest(kind, name, config, workspace, config_name, start_layer or {}, address)
    if not dry_run:
        check_request(request)
    if folds is not None:
        from secauditai.cli.folds import run_folds
        from secauditai.fold_records import FoldsRequest

        run_folds(FoldsRequest(request, folds, register or "best"), out, dry_run=dry_run)
        return
    if not dry_run and config.execution.gpu is None and (config.execution.worker_range or (1, 1))[1] > 1:
        begin_ray(address)  # beside all that comes before training
    with out.progress() as progress:
        plan = plan_training(request, progress)
        if plan.devices.warning:
            out.warn(plan.devices.warning)
        out.say(f"Model: {plan.model.description}")
        out.say(f"Data: {plan.dataset.origin} ({plan.train.num_rows} train, {plan.val.num_rows} val)")
        if dry_run:
            _show_plan(plan, out)
            return
        from secauditai.pipeline import train

        outcome = train(plan, progress=progress, notify=out.say)
    _report(outcome, out)


def _show_plan(plan: Any, out: Output) -> None:
    from secauditai.training.estimate import estimate

    _show_estimate(estimate(plan), out)


def _show_estimate(document: dict[str, Any], out: Output, **more: Any) -> None:
    for key, value in document.items():
        out.say(f"  {key.replace('_', ' ')}: {number(value) if isinstance(value, int | float) else value}")
    out.say("This was a dry run: nothing was trained or registered.")
    out.document(document | more)


def _report(outcome: Any, out: Output, **more: Any) -> None:
    info = outcome.run.info
    rate = f"{outcome.samples_per_second:.1f} samples/s"
    if outcome.version is None:
        out.say(
            f"Stopped at step {outcome.global_step} of {info.total_steps} after {duration(outcome.seconds)} ({rate})."
        )
        out.next_step("train", "resume", "--model", info.name)
    else:
        shown = ", ".join(f"{key} {number(value)}" for key, value in outcome.metrics.items())
        out.say(f"Step {outcome.global_step} in {duration(outcome.seconds)} ({rate}); validation: {shown}")
        out.say(f"Registered {info.name}/{outcome.version} from {outcome.run.root}")
        out.next_step(*after_training(info))
    out.document(outcome.document() | more)
