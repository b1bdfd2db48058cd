"""Scoring: code in, logits and probabilities out, by torch or by ONNX Runtime.

Every window of a sample counts, however long it is; torch encodes them in chunks, so memory stays bounded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secauditai.data.windows import Windowing, stack_windows
from secauditai.errors import ModelError
from secauditai.models.bundle import Bundle
from secauditai.models.tokenizer import CodeTokenizer
from secauditai.progress import Progress, silent

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

DETECTION = "vulnerability_detection"
TOKENS_PER_BATCH = 16_384
TOKENIZE_CHUNK = 512


class Scorer(Protocol):
    """A model that turns inputs into named outputs."""

    def __call__(self, input_ids: Int64, attention_mask: Int64) -> dict[str, Float32]:
        """(batch, windows, sequence) int64 each -> output name to (batch, width)."""


class TorchScorer:
    """Runs the saved weights in this process."""

    def __init__(self, bundle: Bundle, device: str = "cpu") -> None:
        import torch

        self._torch, self._device = torch, torch.device(device)
        self._model: Any = bundle.load_model().to(self._device)

    def __call__(self, input_ids: Int64, attention_mask: Int64) -> dict[str, Float32]:
        """Encode the windows in chunks, then pool and classify."""
        from secauditai.models.classifier import score_in_chunks

        ids, mask = (self._torch.from_numpy(values).to(self._device) for values in (input_ids, attention_mask))
        outputs = score_in_chunks(self._model, ids, mask)
        return {name: value.float().cpu().numpy() for name, value in outputs.items()}


def runtime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: kinds of its own, which have no base in common, and what its Python side says."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*own, ValueError, RuntimeError)


class OnnxScorer:
    """Runs an exported graph with ONNX Runtime."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # its errors are raised as well
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except runtime_errors() as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"ONNX Runtime cannot load the graph: {reason}", where=str(path)) from None
        self._where = str(path)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, input_ids: Int64, attention_mask: Int64) -> dict[str, Float32]:
        """Run the graph; `logits_<task>` becomes `<task>`.

        Raises:
            ModelError: when the graph does not take this input.
        """
        try:
            values = self._session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})
        except runtime_errors() as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason}", where=self._where) from None
        return {name.removeprefix("logits_"): value for name, value in zip(self._outputs, values, strict=True)}


@dataclass(frozen=True)
class Predictions:
    """Probabilities and decisions of a classifier, in the order of the input."""

    logits: Mapping[str, Float32]
    """Task name to (samples, labels)."""
    probabilities: Mapping[str, npt.NDArray[np.float64]]
    """Task name to (samples, labels), calibrated by temperature."""
    decisions: Mapping[str, npt.NDArray[np.int64]]
    """Task name to (samples,) label numbers."""


def build_scorer(bundle: Bundle, backend: str = "torch") -> Scorer:
    """A scorer for a bundle.

    Args:
        bundle: the model.
        backend: `torch` or `onnx`.

    Raises:
        ModelError: when the bundle has no exported graph.
    """
    if backend == "torch":
        return TorchScorer(bundle)
    if not bundle.layout.onnx.exists():
        raise ModelError("this model has no exported graph", where=str(bundle.layout.root), hint="Run `train export`.")
    return OnnxScorer(bundle.layout.onnx)


def predict(
    bundle: Bundle, codes: Sequence[str], *, backend: str = "torch", progress: Progress = silent
) -> Predictions:
    """Score code with a classifier."""
    scorer = build_scorer(bundle, backend)
    logits = score(scorer, bundle.tokenizer, bundle.card.windowing, codes, progress=progress)
    return decide(bundle, logits)


def decide(bundle: Bundle, logits: Mapping[str, Float32]) -> Predictions:
    """Turn logits into probabilities and decisions by the card's temperatures and threshold."""
    card = bundle.card
    probabilities = {task: softmax(values, card.temperature.get(task, 1.0)) for task, values in logits.items()}
    decisions = {
        task: (values[:, 1] >= card.threshold).astype(np.int64) if task == DETECTION else values.argmax(axis=1)
        for task, values in probabilities.items()
    }
    return Predictions(logits, probabilities, decisions)


def score(
    scorer: Scorer,
    tokenizer: CodeTokenizer,
    windowing: Windowing,
    codes: Sequence[str],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Progress = silent,
) -> dict[str, Float32]:
    """Tokenise, window and score code, batched by size.

    Returns:
        Output name to (samples, width), in the order of the input.
    """
    windows: list[list[Int64]] = []
    for start in range(0, len(codes), TOKENIZE_CHUNK):
        tokens = tokenizer.encode(codes[start : start + TOKENIZE_CHUNK])
        windows += [windowing.cut(np.asarray(row, dtype=np.int64)) for row in tokens]
    return score_windows(scorer, windows, tokenizer.special_ids, tokens_per_batch=tokens_per_batch, progress=progress)


def score_windows(
    scorer: Scorer,
    windows: Sequence[Sequence[Int64]],
    special_ids: Mapping[str, int],
    *,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Progress = silent,
) -> dict[str, Float32]:
    """Score samples that are cut into windows, as `score` does."""
    results: dict[str, Float32] = {}
    done = 0
    for chosen in _batches(windows, tokens_per_batch):
        input_ids, attention_mask = stack_windows([windows[index] for index in chosen], special_ids)
        for name, values in scorer(input_ids, attention_mask).items():
            results.setdefault(name, np.zeros((len(windows), values.shape[1]), dtype=np.float32))[chosen] = values
        done += len(chosen)
        progress("Scoring", done, len(windows))
    return results


def _batches(windows: Sequence[Sequence[npt.NDArray[np.int64]]], budget: int) -> list[list[int]]:
    """Group samples of similar size so that each batch has at most `budget` padded tokens."""
    shapes = [(len(sample), max(len(window) for window in sample) + 2) for sample in windows]
    batches: list[list[int]] = []
    for index in sorted(range(len(windows)), key=lambda index: (shapes[index], index)):
        if batches:
            count, widest = shapes[index][0], max(shapes[other][1] for other in [*batches[-1], index])
            if (len(batches[-1]) + 1) * count * widest <= budget:
                batches[-1].append(index)
                continue
        batches.append([index])
    return batches


def softmax(logits: npt.NDArray[np.floating[Any]], temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """(n, labels) logits -> (n, labels) probabilities."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result
