"""`train validate`: what is wrong with some data, its quality report, and gates for continuous integration."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from secauditai.cli.app import EXIT_ERROR, EXIT_GATE
from secauditai.cli.data import CLEANING, dataset_option, suggest_training
from secauditai.cli.options import address_option, given_settings, json_option, setting_options
from secauditai.cli.output import Output
from secauditai.cli.submit import ComputeCommand
from secauditai.config.files import resolve_config
from secauditai.config.leaves import did_you_mean, leaves
from secauditai.config.settings import TrainConfig
from secauditai.data.findings import KINDS, count_findings
from secauditai.progress import Progress

if TYPE_CHECKING:
    from secauditai.data.findings import Validation

SHOWN_FINDINGS = 20
READING = tuple(name for name in CLEANING if name != "max_rejected")
"""Settings about how raw data is read; `validate` tells what is refused, however much it is."""
MEASURING = ("near_duplicates", "similarity", "max_length", "seed")
"""Settings that only change what costs more: the report, JSON and gates."""


def _parse_kinds(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(word.strip() for word in (value or "").split(",") if word.strip()))
    for kind in kinds:
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS, see=f"it takes {', '.join(KINDS)}.")
            raise click.BadParameter(f"there is no kind of finding {kind!r}. {hint}")
    if value is not None and not kinds:
        raise click.BadParameter(f"name at least one of {', '.join(KINDS)}")
    return kinds


@click.command(cls=ComputeCommand)
@dataset_option
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a data quality report, one HTML page."
)
@click.option(
    "--fail-on",
    metavar="KIND,…",
    callback=_parse_kinds,
    help=f"Exit with 3 when there is a finding of these kinds: {', '.join(KINDS)}.",
)
@click.option("--all-findings", is_flag=True, help=f"Print every finding, not only the first {SHOWN_FINDINGS}.")
@setting_options(*READING, "max_length", "seed", aliases={"data_format": "--format"})
@address_option
@json_option
@click.pass_context
def validate(
    ctx: click.Context,
    /,
    dataset: str,
    report: Path | None,
    fail_on: tuple[str, ...],
    all_findings: bool,
    address: str | None,
    as_json: bool,
) -> None:
    """Check data and name file, line and sample of every finding.

    Exits with 3 when a kind of finding that --fail-on names is there, else with 1 when there is an error.

    \b
    Examples:
      secauditai train validate --dataset training_data
      secauditai train validate --dataset training_data --report quality.html
      secauditai train validate --dataset training_data --fail-on leak,conflict,error
    """
    out = Output(as_json=as_json)
    given = given_settings(ctx)
    _refuse_idle(given, dataset, measures=bool(report or as_json or fail_on))
    config = resolve_config(given)
    if report:
        from secauditai.evaluation.page import check_page

        check_page(report)
    with out.progress() as progress:
        if report or as_json or fail_on:
            result, more = _examine(dataset, config, report, fail_on, address, as_json, progress)
        else:
            result, more = _check(dataset, config, address, progress), {}
    _show(result, dataset, out, limit=None if all_findings else SHOWN_FINDINGS)
    if report:
        out.say(f"Wrote {report.absolute()}, about the quality of {dataset}")
    if "leak" in fail_on and count_findings(result.findings, "not_split"):
        out.warn("--fail-on leak found nothing to check: the data is not split; add not_split to fail on that")
    failed = {kind: count for kind in fail_on if (count := count_findings(result.findings, kind))}
    gates = {"fail_on": list(fail_on), "failed": failed} if fail_on else {}
    out.document({**result.document(), **more, **({"gates": gates} if gates else {})})
    if failed:
        shown = ", ".join(f"{kind} ({count})" for kind, count in failed.items())
        click.echo(f"Failed the gate: {shown}", err=True)
        ctx.exit(EXIT_GATE)
    if not result.ok:
        ctx.exit(EXIT_ERROR)


def _refuse_idle(given: Mapping[str, Any], dataset: str, *, measures: bool) -> None:
    """Refuse settings that would change nothing.

    Raises:
        click.UsageError: naming them.
    """
    from secauditai.data.dataset import is_dataset

    idle = [] if measures else [name for name in MEASURING if name in given]
    why = "needs --report, --json or --fail-on"
    if is_dataset(Path(dataset)) and (about_raw := [name for name in READING if name in given]):
        idle, why = about_raw, f"is about raw data, and {dataset} is prepared"
    if idle:
        raise click.UsageError(f"{', '.join(leaves()[name].flag for name in idle)} {why}.")


def _check(dataset: str, config: TrainConfig, address: str | None, progress: Progress) -> "Validation":
    """Only what is quickly found."""
    from secauditai.data.validate import validate as validate_data

    minimum = config.input.ray_data_min_mb
    return validate_data(dataset, config.cleaning, ray_data_min_mb=minimum, address=address, progress=progress)


def _examine(
    dataset: str,
    config: TrainConfig,
    report: Path | None,
    fail_on: tuple[str, ...],
    address: str | None,
    as_json: bool,
    progress: Progress,
) -> tuple["Validation", dict[str, Any]]:
    """The findings with those that cost more, and the quality report where it is wanted."""
    from secauditai.data.material import open_material
    from secauditai.data.windows import Windowing
    from secauditai.evaluation.quality import add_findings, doubt_labels, draw_samples, measure_quality
    from secauditai.evaluation.quality_report import write_quality_report

    minimum = config.input.ray_data_min_mb
    with open_material(
        dataset, config.cleaning, ray_data_min_mb=minimum, address=address, progress=progress
    ) as material:
        seed = config.execution.seed
        if not report and not as_json:
            wanted = "noise" in fail_on
            noise = doubt_labels(draw_samples(material), seed=seed, progress=progress) if wanted else None
            return add_findings(material, noise), {}
        windowing = Windowing(config.input.max_length, config.stride, config.input.long_code, config.input.max_windows)
        quality = measure_quality(material, windowing, seed=seed, progress=progress)
        result = add_findings(material, quality.noise)
    if report:
        write_quality_report(quality.document, result, dataset, report)
    return result, {"quality": quality.document, **({"report": str(report.absolute())} if report else {})}


def _show(result: "Validation", dataset: str, out: Output, *, limit: int | None) -> None:
    listed = result.findings if limit is None else [found for found in result.findings if found.reason != "noise"]
    shown = listed[:limit]
    for finding in shown:
        sample = f" sample {finding.id}" if finding.id else ""
        out.say(f"{finding.where}:{sample} {finding.level}: {finding.message} [{finding.reason}]")
    every, told = ((Counter(f"{f.level} {f.reason}" for f in findings)) for findings in (result.findings, shown))
    if rest := every - told:
        out.say(
            "… and " + ", ".join(f"{count} × {what}" for what, count in rest.items()) + "; --all-findings names them"
        )
    warnings = len(result.findings) - result.errors
    out.say(f"{result.kept} of {result.read} samples are good; {result.errors} errors, {warnings} warnings")
    if gone := _gone_before(dataset):
        out.say(gone)
    if result.ok:
        _next_step(dataset, result, out)


def _gone_before(spec: str) -> str:
    """What became of the samples that a prepared dataset was made from and does not hold; "" for raw data."""
    from secauditai.data.dataset import DatasetLayout, is_dataset

    if not is_dataset(Path(spec)):
        return ""
    layout, manifest = DatasetLayout(Path(spec)), _manifest(spec)
    parts = [f"{count} refused ({reason})" for reason, count in manifest["rejected_reasons"].items()]
    if merged := manifest["duplicates"]:
        parts.append(f"{merged} merged as duplicates")
    listed = f"; {layout.rejected} lists the refused" if manifest["rejected_reasons"] else ""
    return f"Left out before: {', '.join(parts)}{listed}" if parts else ""


def _manifest(spec: str) -> dict[str, Any]:
    """The manifest of a prepared dataset, which `validate` has compared all files with."""
    from secauditai.data.dataset import DatasetLayout

    manifest: dict[str, Any] = json.loads(DatasetLayout(Path(spec)).manifest.read_text(encoding="utf-8"))
    return manifest


def _next_step(dataset: str, result: "Validation", out: Output) -> None:
    from secauditai.data.dataset import is_dataset

    if not is_dataset(Path(dataset)):
        out.next_step("train", "prepare", "--dataset", dataset, "--output", "training_data")
    elif count_findings(result.findings, "not_split"):
        out.next_step("train", "split", "--dataset", dataset)
    else:
        suggest_training(out, dataset, _manifest(dataset))
