"""`train prepare` and `split`: from raw samples to a split dataset."""

import time
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from secauditai.cli.idle import refuse_without
from secauditai.cli.options import address_option, given_settings, json_option, setting_options
from secauditai.cli.output import Output, duration
from secauditai.cli.submit import ComputeCommand
from secauditai.config.files import resolve_config
from secauditai.config.settings import CleaningSettings
from secauditai.errors import ConfigError, DataError

if TYPE_CHECKING:
    from secauditai.data.split import Split

dataset_option = click.option(
    "--dataset", required=True, help="A file, directory, glob or prepared dataset, or the built-in `security_dataset`."
)

CLEANING = (*CleaningSettings.model_fields, "ray_data_min_mb")
cleaning_options = setting_options(*CLEANING, aliases={"data_format": "--format"})


@click.command(cls=ComputeCommand)
@dataset_option
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Directory to write.")
@click.option("--overwrite", is_flag=True, help="Replace a dataset that is there.")
@cleaning_options
@address_option
@json_option
@click.pass_context
def prepare(
    ctx: click.Context, /, dataset: str, output: Path, overwrite: bool, address: str | None, as_json: bool
) -> None:
    """Read, validate and clean labelled samples into a dataset directory.

    \b
    Example:
      secauditai train prepare --dataset security_dataset --output training_data
    """
    from secauditai.data.dataset import DatasetLayout
    from secauditai.data.prepare import prepare as prepare_data
    from secauditai.doctor.sharing import check_directory

    out = Output(as_json=as_json)
    config = resolve_config(given_settings(ctx))
    refuse_without(given_settings(ctx), config)
    was_split = DatasetLayout(output).split("train").exists()
    started = time.monotonic()
    with out.progress() as progress:
        done = prepare_data(
            dataset,
            output,
            config.cleaning,
            ray_data_min_mb=config.input.ray_data_min_mb,
            overwrite=overwrite,
            address=address,
            before_ray=lambda directory: check_directory(directory, address),
            progress=progress,
        )
    seconds = time.monotonic() - started - done.ray_startup_seconds
    way = f"Ray Data, started in {duration(done.ray_startup_seconds)}" if done.through_ray else "this process"
    out.say(f"Prepared {output} in {duration(seconds)}, through {way}")
    out.say(f"  read {done.read} = kept {done.kept} + rejected {done.rejected} + duplicates {done.duplicates}")
    manifest = done.dataset.manifest
    for key in ("labels", "languages", "categories"):
        out.say(f"  {key}: " + ", ".join(f"{name or 'unknown'} {count}" for name, count in manifest[key].items()))
    if any(manifest["changed"].values()):
        out.say("  changed: " + ", ".join(f"{name} {count}" for name, count in manifest["changed"].items() if count))
    if manifest["conflicts_kept"]:
        out.warn(f"{manifest['conflicts_kept']} samples are kept although their code has both labels")
    if done.rejected:
        out.warn(f"{done.rejected} samples were refused; see {done.dataset.layout.rejected}")
    if was_split:
        out.warn("the dataset that was replaced had splits; this one has none yet")
    out.next_step("train", "split", "--dataset", output)
    out.document(
        {
            "read": done.read,
            "kept": done.kept,
            "rejected": done.rejected,
            "duplicates": done.duplicates,
            "output": str(output.absolute()),
            "content_hash": done.dataset.content_hash,
            "seconds": round(seconds, 3),
            "ray_startup_seconds": round(done.ray_startup_seconds, 3),
        }
    )


@click.command(cls=ComputeCommand)
@click.option("--dataset", required=True, help="A prepared dataset, as `train prepare` writes it.")
@click.option("--train", type=float, default=0.8, show_default=True, help="Share of samples to train on.")
@click.option("--val", type=float, default=0.1, show_default=True, help="Share to select the best weights on.")
@click.option("--test", type=float, default=0.1, show_default=True, help="Share to evaluate on.")
@setting_options("seed")
@click.option(
    "--by-time", metavar="FIELD", help="Oldest to train, newest to test, by this metadata field, such as time."
)
@click.option("--by-project", is_flag=True, help="Keep all samples of a `project` in one split.")
@click.option("--predefined", is_flag=True, help="Take each sample's `split` from its metadata.")
@click.option("--folds", type=click.IntRange(2, 100), help="Write this many folds instead of train, val and test.")
@click.option(
    "--extend",
    type=click.Path(path_type=Path),
    help="Keep the splits of this older dataset; new clusters go by hash, bridges between old splits are refused.",
)
@setting_options("ray_data_min_mb")
@address_option
@json_option
@click.pass_context
def split(
    ctx: click.Context,
    /,
    dataset: str,
    train: float,
    val: float,
    test: float,
    extend: Path | None,
    address: str | None,
    as_json: bool,
    **ways: Any,
) -> None:
    """Split a prepared dataset so that no cluster is in two splits; splits that are there are replaced.

    A cluster is a group, or samples whose code is nearly the same.

    \b
    Examples:
      secauditai train split --dataset training_data --train 0.8 --val 0.1 --test 0.1
      secauditai train prepare --dataset security_dataset --output grown_data
      secauditai train split --dataset grown_data --extend training_data
    """
    from secauditai.data.dataset import is_dataset, open_dataset
    from secauditai.data.replacing import clear_leftovers
    from secauditai.data.split import SplitPlan, check_ratios, split_dataset
    from secauditai.data.tasks import Runner

    out = Output(as_json=as_json)
    ratios = {"train": train, "val": val, "test": test}
    _refuse_idle(ctx, list(ratios))
    check_ratios(ratios)
    root = Path(dataset)
    clear_leftovers(root)
    if not is_dataset(root):
        hint = f"`secauditai train prepare --dataset {quote(dataset)} --output training_data` makes one."
        raise DataError(f"{dataset} is not a prepared dataset", hint=hint)
    opened = open_dataset(root)
    config = resolve_config(given_settings(ctx))
    plan = SplitPlan(ratios, config.execution.seed, extend=open_dataset(extend) if extend else None, **ways)
    through_ray = opened.megabytes >= config.input.ray_data_min_mb
    result = split_dataset(opened, plan, Runner(through_ray, address))
    if opened.splits():
        out.say(f"Replaced the splits of {root}")
    _show_split(out, result)
    suggest_training(out, dataset, result.dataset.manifest)
    counts = {**dict.fromkeys(ratios, 0), **result.counts, "straddling_clusters": result.straddling_clusters}
    out.document({**counts, "bridges": result.bridges, "drift": result.drift})


def suggest_training(out: Output, dataset: str, manifest: Mapping[str, Any]) -> None:
    """Say how to train on a split dataset, by the folds that it has; nothing where it has no val split."""
    folds = manifest["splits"].get("folds")
    if folds or {"train", "val"} <= manifest["splits"]["counts"].keys():
        more = ("--folds", folds) if folds else ()
        out.next_step("train", "finetune", "--model", "transformer", "--data", dataset, *more)


def _refuse_idle(ctx: click.Context, names: list[str]) -> None:
    """Refuse ratios, or a seed, on the command line of a way that takes none."""
    if ctx.params["by_time"] == "":
        raise ConfigError("--by-time names no metadata field", hint="For example --by-time time.")
    given = [name for name in (*names, "seed") if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    for way, idle, hint in (
        ("folds", names, "Folds are of equal size."),
        ("predefined", [*names, "seed"], "The metadata says which split each sample is in."),
        ("by_time", ["seed"], "Time alone says which split each sample is in."),
    ):
        if ctx.params[way] and (flags := [f"--{name}" for name in given if name in idle]):
            raise ConfigError(f"{', '.join(flags)} cannot be combined with --{way.replace('_', '-')}", hint=hint)


def _show_split(out: Output, result: "Split") -> None:
    for warning in result.warnings:
        out.warn(warning)
    total = max(1, sum(result.counts.values()))
    for name, count in result.counts.items():
        shown = ", ".join(f"{n} {label}" for label, n in sorted(result.labels[name].items())) or "empty"
        moved = f"; {result.drift[name]:+.1%} from its ratio" if name in result.drift else ""
        out.say(f"  {name}: {count} samples ({count / total:.1%}; {shown}{moved})")
    if result.bridges:
        out.warn(f"{result.bridges} samples would join two splits; see {result.dataset.layout.rejected}")
    out.say(f"{result.straddling_clusters} clusters are in more than one split, recomputed from the written files")
