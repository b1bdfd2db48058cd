"""ONNX: a bundle as one file with dynamic batch, windows and sequence, that says itself what it is."""

import contextlib
import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.data.replacing import check_above
from secauditai.errors import ExportError
from secauditai.files import whole_file
from secauditai.models.bundle import Bundle, BundleCard
from secauditai.progress import Progress, silent

DEFAULT_OPSET = 18
INPUTS = ("input_ids", "attention_mask")
DIMENSIONS = ("batch", "windows", "sequence")
"""Of both inputs; a file runs with any of each."""
CARD_KEY = "secauditai"


@dataclass(frozen=True)
class OnnxInfo:
    """What `export_onnx` wrote."""

    path: Path
    sha256: str
    opset: int


def export_onnx(
    bundle: Bundle, output: Path, *, opset: int = DEFAULT_OPSET, overwrite: bool = False, progress: Progress = silent
) -> OnnxInfo:
    """Export a bundle; the graph that it has already is copied, when it is of this model and operator set.

    The graph takes input_ids and attention_mask, (batch, windows, sequence) int64, and returns `logits_<task>`
    (batch, labels) for each head, or `sample_embedding` (batch, hidden) for an encoder.

    Raises:
        ExportError: when the output exists.
        DataError: when it is below a file.
    """
    check_above(output)
    if output.exists() and not overwrite:
        raise ExportError("the output exists", where=str(output), hint="Use --overwrite, or choose another --output.")
    output.parent.mkdir(parents=True, exist_ok=True)
    progress("Exporting", 0, None)
    with whole_file(output) as partial:
        if _has_graph(bundle, opset):
            shutil.copyfile(bundle.layout.onnx, partial)
        else:
            partial.write_bytes(_build_graph(bundle, opset))
    return OnnxInfo(output, file_sha256(output), opset)


def load_exporter() -> None:
    """Import what an export uses beside torch."""
    import onnxscript  # noqa: F401


def _has_graph(bundle: Bundle, opset: int) -> bool:
    """Whether the graph beside the weights is what an export would make."""
    import onnx

    if not bundle.layout.onnx.exists():
        return False
    model = onnx.load(str(bundle.layout.onnx), load_external_data=False)
    same_set = [item.version for item in model.opset_import if not item.domain] == [opset]
    return same_set and {entry.key: entry.value for entry in model.metadata_props} == describe(bundle)


def _build_graph(bundle: Bundle, opset: int) -> bytes:
    model = _trace(bundle, opset).model_proto
    for key, value in describe(bundle).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = model.SerializeToString()
    return content


def read_card(path: Path) -> tuple[BundleCard, dict[str, str]]:
    """The card and all metadata inside an exported file.

    Raises:
        ExportError: when it is missing, no ONNX file, or not one of ours.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)  # whatever its name ends in
    except FileNotFoundError:
        raise ExportError("there is no such file", where=str(path)) from None
    except (DecodeError, OSError, ValueError) as error:
        raise ExportError(f"not an ONNX file: {str(error).splitlines()[0]}", where=str(path)) from None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if CARD_KEY not in metadata:
        message = "not an ONNX file" if not model.graph.node else "not exported by secauditai: it has no card"
        raise ExportError(message, where=str(path))
    try:
        return BundleCard.model_validate_json(metadata[CARD_KEY]), metadata
    except ValueError as error:
        raise ExportError(f"its card is damaged: {str(error).splitlines()[0]}", where=str(path)) from None


def output_names(card: BundleCard) -> list[str]:
    """The graph's outputs."""
    return [f"logits_{task}" for task in card.heads] or ["sample_embedding"]


def file_sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _trace(bundle: Bundle, opset: int) -> Any:
    import torch

    class Graph(torch.nn.Module):
        """The model with its outputs as a tuple, in a fixed order."""

        def __init__(self) -> None:
            super().__init__()
            self.model = bundle.load_model().requires_grad_(False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
            """Score."""
            outputs = self.model(input_ids, attention_mask)
            return tuple(outputs[name.removeprefix("logits_")] for name in output_names(bundle.card))

    # Every dimension is above 1: the exporter takes a 1 for a constant.
    ids = torch.full((2, 3, 16), bundle.card.special_ids["cls"], dtype=torch.int64)
    dimensions = dict(enumerate(DIMENSIONS))
    with _quiet(), torch.inference_mode(mode=False), torch.no_grad():
        return torch.onnx.export(
            Graph().eval(),
            (ids, torch.ones_like(ids)),
            input_names=list(INPUTS),
            output_names=output_names(bundle.card),
            dynamic_shapes={"input_ids": dimensions, "attention_mask": dimensions},
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def describe(bundle: Bundle) -> dict[str, str]:
    """The metadata that goes into an exported file."""
    card = bundle.card
    return {
        CARD_KEY: card.model_dump_json(),
        "run_id": str(card.provenance.get("run_id", "")),
        "labels": json.dumps(card.heads),
        "max_length": str(card.max_length),
        "model_sha256": bundle.weights_sha256,
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes and deprecations of its own parts off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
