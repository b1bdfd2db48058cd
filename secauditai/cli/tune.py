"""`train tune`: a sweep over the search spaces of a configuration."""

from pathlib import Path
from typing import Any

import click

from secauditai.cli.options import address_option, given_settings, json_option, setting_options, workspace_option
from secauditai.cli.output import Output, number
from secauditai.config.files import NamedConfigs, resolve_config, spaces_of


@click.command()
@click.option("--config", "name", required=True, help="Name of a configuration with search spaces.")
@click.option("--num-samples", type=click.IntRange(1, 10_000), default=8, show_default=True, help="Trials.")
@click.option(
    "--max-concurrent", type=click.IntRange(1), default=None, help="Trials at a time; default as many as fit."
)
@setting_options()
@click.option("--dry-run", is_flag=True, help="Print the plan of one trial and stop before anything is written.")
@address_option
@workspace_option
@json_option
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    name: str,
    num_samples: int,
    max_concurrent: int | None,
    dry_run: bool,
    address: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Search the settings that a configuration leaves open; the best model is registered.

    \b
    Example:
      secauditai train config set custom_model learning_rate '{loguniform: [1.0e-5, 1.0e-3]}'
      secauditai train tune --config custom_model --data training_data --num-samples 8
    """
    from secauditai.tuning.sweep import SweepRequest, run_sweep

    out = Output(as_json=as_json)
    layer = {**NamedConfigs(workspace).read(name), **given_settings(ctx)}
    if dry_run:
        _show_trial(layer, num_samples, workspace, out)
        return
    request = SweepRequest(Path(name).stem, layer, workspace, num_samples, max_concurrent, address)
    with out.progress() as progress:
        result = run_sweep(request, progress=progress, notify=out.say)
    ledger = result.ledger
    keys = list(ledger.trials[0].settings)
    rows = [[t.trial_id, *(_shown(t.settings[key]) for key in keys), number(t.value)] for t in ledger.trials]
    out.table(rows, ["trial", *keys, ledger.metric])
    for trial in ledger.trials:
        if trial.error:
            out.warn(f"trial {trial.trial_id} failed: {trial.error}")
    value = number(ledger.best.value if ledger.best else None)
    version = f"{request.name}/{result.version}"
    out.say(f"Best: {ledger.metric} {value}, saved as {result.best_config}, registered as {version}")
    out.next_step(f"secauditai train evaluate --model {request.name}/{result.version} --test-data {layer.get('data')}")
    out.document(result.document())


def _shown(value: object) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _show_trial(layer: dict[str, Any], num_samples: int, workspace: Path, out: Output) -> None:
    """The plan of a trial with every searched setting at its default."""
    from secauditai.training.estimate import estimate
    from secauditai.training.preparation import plan_training
    from secauditai.training.request import TrainRequest

    config = resolve_config(layer, allow_spaces=True)
    plan = plan_training(TrainRequest("start", "trial", config, workspace))
    spaces = {name: space.plain() for name, space in spaces_of(layer).items()}
    trial = estimate(plan)
    out.say(f"{num_samples} trials over {', '.join(f'{name} {space}' for name, space in spaces.items())}; each:")
    for key, value in trial.items():
        out.say(f"  {key.replace('_', ' ')}: {_shown(value)}")
    out.say("Nothing was written: this was a dry run.")
    out.document({"trials": num_samples, "spaces": spaces, "trial": trial})
