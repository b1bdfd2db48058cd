"""`train export` and `verify`: a model as one ONNX file, and the proof that it is the same model."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from secauditai.cli.app import EXIT_GATE
from secauditai.cli.lookup import find_model
from secauditai.cli.options import address_option, json_option, workspace_option
from secauditai.cli.output import Output
from secauditai.cli.submit import OneProcessCommand
from secauditai.mirror import address_of, fetch, fetch_once

if TYPE_CHECKING:
    from secauditai.models.bundle import Bundle
    from secauditai.runs import Run

VERIFIED_SAMPLES = 200


@click.command(cls=OneProcessCommand)
@click.option("--model", "spec", required=True, help="A path, or a registered name, name/3 or name@alias.")
@click.option("--format", "kind", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="File format.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write.")
@click.option("--opset", type=click.IntRange(18, 21), default=18, show_default=True, help="ONNX operator set.")
@click.option("--overwrite", is_flag=True, help="Replace the output.")
@address_option
@workspace_option
@json_option
def export(spec: str, kind: str, output: Path, opset: int, overwrite: bool, workspace: Path, as_json: bool) -> None:
    """Export a trained model as one ONNX file with dynamic batch, windows and sequence.

    \b
    Example:
      secauditai train export --model custom_model --format onnx --output custom_model.onnx
    """
    from secauditai.export.onnx import export_onnx

    out = Output(as_json=as_json)
    found = find_model(spec, workspace)
    out.say(f"Model: {found.description}")
    with out.progress() as progress:
        info = export_onnx(found.bundle, output, opset=opset, overwrite=overwrite, progress=progress)
    out.say(f"Wrote {info.path.absolute()} ({info.path.stat().st_size / 2**20:.1f} MiB, {kind} opset {info.opset})")
    out.next_step("train", "verify", "--model", output)
    out.document({"path": str(info.path.absolute()), "sha256": info.sha256, "opset": info.opset})


@click.command(cls=OneProcessCommand)
@click.option("--model", "path", type=click.Path(path_type=Path), required=True, help="The ONNX file.")
@click.option("--original", default=None, help="The model it was exported from; default the one whose run id it names.")
@click.option("--data", default=None, help="Samples to compare on; default the model's own test split.")
@address_option
@workspace_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context, /, path: Path, original: str | None, data: str | None, workspace: Path, as_json: bool
) -> None:
    """Check an ONNX file and compare it with its torch original on real samples; exits with 3 when they differ.

    \b
    Example:
      secauditai train verify --model custom_model.onnx
    """
    from secauditai.export.lineage import check_lineage
    from secauditai.export.onnx import read_card
    from secauditai.export.verify import verify_onnx

    out = Output(as_json=as_json)
    card, _metadata = read_card(path)
    run_id = str(card.provenance.get("run_id") or "")
    bundle, run, why_not = _original(original, run_id, workspace)
    codes = _codes(data, run_id, workspace, comments=not card.strip_comments)
    with out.progress() as progress:
        result = verify_onnx(path, bundle, codes, why_no_bundle=why_not, progress=progress)
    if bundle is not None and run is not None:
        check_lineage(run, bundle, result)
    for check in result.checks:
        out.say(f"  {check['result']:<8} {check['name']}: {check['detail']}")
    skipped = sum(check["result"] == "skipped" for check in result.checks)
    rest = f", {skipped} check{'s' if skipped > 1 else ''} skipped" if skipped else ""
    out.say(f"{path}: {'verified' if result.ok else 'NOT verified'}{rest}")
    out.document(result.document())
    if not result.ok:
        ctx.exit(EXIT_GATE)


def _original(spec: str | None, run_id: str, workspace: Path) -> "tuple[Bundle | None, Run | None, str]":
    """The torch original and its run, and why there is none."""
    from secauditai.models.bundle import open_bundle
    from secauditai.runs import find_run

    if spec is not None:
        found = find_model(spec, workspace)
        return found.bundle, found.run, ""
    run = find_run(workspace, run_id) if run_id else None
    if run is not None:
        fetch(run.layout.bundle)
    if run is None or not run.layout.bundle.exists():
        return None, None, f"run {run_id or '(none named)'} is not in {address_of(workspace)}"
    return open_bundle(run.layout.bundle), run, ""


def _codes(data: str | None, run_id: str, workspace: Path, *, comments: bool) -> list[str]:
    """Real samples to compare on: the named data, else the test split of the run's dataset."""
    from secauditai.data.dataset import is_dataset, open_dataset
    from secauditai.data.scoring import labelled_for_scoring, open_labelled
    from secauditai.runs import find_run

    if data is not None:
        dataset = open_labelled(data, cache=workspace / "cache", comments=comments)
    else:
        run = find_run(workspace, run_id) if run_id else None
        root = Path(run.info.dataset) if run and run.info.dataset else None
        if root is not None:
            fetch_once(root)
        if root is None or not is_dataset(root):
            return []
        dataset = open_dataset(root)
    codes: list[str] = labelled_for_scoring(dataset, comments=comments).column("code").to_pylist()
    step = max(1, len(codes) // VERIFIED_SAMPLES)
    ordered = sorted(codes, key=len)
    return [*ordered[:-1:step], *ordered[-1:]]
