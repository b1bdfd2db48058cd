"""Verification of an exported file: is it whole, does it say what it is, and does it decide as the torch model does?"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from secauditai.errors import ModelError
from secauditai.export.onnx import CARD_KEY, INPUTS, describe, output_names, read_card
from secauditai.models.bundle import Bundle, BundleCard
from secauditai.models.predict import (
    DETECTION,
    TOKENS_PER_BATCH,
    Float32,
    Int64,
    OnnxScorer,
    Scorer,
    TorchScorer,
    score_windows,
    softmax,
)
from secauditai.progress import Progress, silent

MAX_DIFFERENCE = 1e-3
"""Largest difference between two logits that still counts as equal."""
CLOSE_TO_THRESHOLD = 1e-4
"""A decision this near to the threshold may flip by rounding alone."""
PASSED, FAILED, SKIPPED = "ok", "failed", "skipped"
COMPARED, COMPARED_ALONE = 32, 8
"""Samples that are compared in batches, and how many of these each on its own as well."""
MANY_WINDOWS = 8
"""The most windows that samples are joined to; more cost time and tell nothing new."""
SYNTHETIC = ["def add(a, b):\n    return a + b\n", "int main(void) {\n  return 0;\n}\n", "x = 1\n"]


@dataclass
class Verification:
    """What was checked."""

    checks: list[dict[str, str]] = field(default_factory=list)
    max_abs_diff: float | None = None
    decision_agreement: float | None = None
    samples_by_windows: dict[int, int] = field(default_factory=dict)
    """Number of windows to how many samples of so many were compared with torch."""

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return all(check["result"] != FAILED for check in self.checks)

    def add(self, name: str, passed: bool | None, detail: str) -> None:
        """Note a check; None: it could not be made."""
        result = SKIPPED if passed is None else PASSED if passed else FAILED
        self.checks.append({"name": name, "result": result, "detail": detail})

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        return {"ok": self.ok, **asdict(self)}


def verify_onnx(
    path: Path,
    bundle: Bundle | None,
    codes: Sequence[str] = (),
    *,
    why_no_bundle: str = "",
    progress: Progress = silent,
) -> Verification:
    """Check an exported file, and compare it with its torch original where there is one.

    Args:
        path: the ONNX file.
        bundle: its torch original.
        codes: real samples to compare on; a few made-up ones when empty, which is a skipped check.
        why_no_bundle: why there is no original, for the skipped checks.
        progress: told how many samples are scored.

    Raises:
        ExportError: when it is not an ONNX file of ours at all.
    """
    card, metadata = read_card(path)
    result = Verification()
    _check_structure(path, card, result)
    if not result.ok:
        return result
    scorer = OnnxScorer(path)
    runs = _check_shapes(scorer, card, result)
    if bundle is None:
        for name in ("weights", "card", "agreement with torch", "decisions"):
            result.add(name, None, why_no_bundle or "the torch original was not found")
        return result
    same = metadata.get("model_sha256") == bundle.weights_sha256
    result.add("weights", same, f"it says that it was exported from {'these very' if same else 'other'} weights")
    _check_card(card, metadata, bundle, result)
    if not codes:
        result.add("real samples", None, "none here to compare on: --data names some")
    if runs:
        _compare(scorer, bundle, _spread([*codes] or SYNTHETIC, COMPARED), result, progress)
    else:
        _not_compared(None, "it does not run with every shape", result)
    return result


def _not_compared(passed: bool | None, why: str, result: Verification) -> None:
    result.add("agreement with torch", passed, f"not compared: {why}")
    result.add("decisions", None, "not compared")


def _check_structure(path: Path, card: BundleCard, result: Verification) -> None:
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
        result.add("onnx checker", True, "the graph is valid")
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        result.add("onnx checker", False, str(error).splitlines()[0])
        return
    graph = onnx.load(str(path), format="protobuf", load_external_data=False).graph
    external = [tensor.name for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    result.add("single file", not external, "all weights are inside" if not external else "weights are in another file")
    inputs, outputs = [item.name for item in graph.input], [item.name for item in graph.output]
    expected = [*INPUTS], output_names(card)
    result.add("inputs and outputs", (inputs, outputs) == expected, f"{', '.join(inputs)} → {', '.join(outputs)}")


def _check_card(card: BundleCard, metadata: dict[str, str], bundle: Bundle, result: Verification) -> None:
    """Compare what the file says of itself with what its original says."""
    expected = {name: value for name, value in describe(bundle).items() if name != CARD_KEY}
    wrong = {name for name, value in expected.items() if metadata.get(name) != value}
    wrong |= {name for name, value in bundle.card if getattr(card, name) != value}
    wrong.discard("model_sha256")  # a check of its own
    detail = f"not as the original says: {', '.join(sorted(wrong))}" if wrong else "labels, lengths and threshold"
    result.add("card", not wrong, detail)


def _check_shapes(scorer: Scorer, card: BundleCard, result: Verification) -> bool:
    """Run batches, windows and lengths other than those it was traced with; whether all give numbers."""
    longest, every = min(card.max_length, 64), True
    for batch, windows, sequence in ((1, 1, 3), (3, 2, longest), (2, 5, 7)):
        ids = np.full((batch, windows, sequence), card.special_ids["cls"], dtype=np.int64)
        shown = f"batch {batch}, windows {windows}, sequence {sequence}"
        try:
            outputs = scorer(ids, np.ones_like(ids)).values()
        except ModelError as error:
            right, shown = False, f"{shown}: {error.message}"
        else:
            right = all(len(values.shape) == 2 and len(values) == batch for values in outputs)
            right = right and all(np.isfinite(values).all() for values in outputs)
        result.add("dynamic shape", right, shown)
        every &= right
    return every


def _compare(scorer: Scorer, bundle: Bundle, codes: list[str], result: Verification, progress: Progress) -> None:
    """Score the same samples with both, in batches of one and of many."""
    card, special_ids = bundle.card, bundle.tokenizer.special_ids
    tokens = [np.asarray(row, dtype=np.int64) for row in bundle.tokenizer.encode(codes)]
    samples, joined = [card.windowing.cut(row) for row in tokens], _join(tokens, card)
    torch_scorer = TorchScorer(bundle)
    difference, agreed, decided = 0.0, 0, 0
    alone = [samples[place] for place in _places(len(samples), COMPARED_ALONE)]
    for chosen, budget in ((alone, 1), (samples, TOKENS_PER_BATCH), (joined, 1), (joined, TOKENS_PER_BATCH)):
        try:
            ours = score_windows(scorer, chosen, special_ids, tokens_per_batch=budget, progress=progress)
        except ModelError as error:
            _not_compared(False, f"it does not take what its original takes: {error.message}", result)
            return
        theirs = score_windows(torch_scorer, chosen, special_ids, tokens_per_batch=budget)
        if _widths(ours) != _widths(theirs):
            _not_compared(False, f"it gives {_shown(ours)}, its original {_shown(theirs)}", result)
            return
        for task, values in ours.items():
            # `max` of Python would pass over what is not a number.
            difference = float(np.maximum(difference, np.abs(values - theirs[task]).max()))
            same, total = _agreement(card, task, values, theirs[task])
            agreed, decided = agreed + same, decided + total
    result.max_abs_diff = difference if math.isfinite(difference) else None
    result.decision_agreement = agreed / decided if decided else 1.0
    result.samples_by_windows = dict(sorted(Counter(map(len, [*samples, *joined])).items()))
    counts = [len(sample) for sample in samples]
    shown = f"{len(codes)} samples of {min(counts)} to {max(counts)} windows in batches, {len(alone)} of them alone"
    if joined:
        shown += f", and joined to {' and '.join(str(len(sample)) for sample in joined)} windows, both ways"
    result.add("agreement with torch", difference <= MAX_DIFFERENCE, f"max |Δlogit| {difference:.1e} on {shown}")
    if card.heads:
        result.add("decisions", agreed == decided, f"{agreed} of {decided} decisions away from the threshold agree")


def _join(tokens: Sequence[Int64], card: BundleCard) -> list[list[Int64]]:
    """Samples one after another, in any order, cut to two windows and to many; both fit into one batch."""
    rows = [row for row in tokens if len(row)]
    if not rows:
        return []
    many = max(3, min(card.max_windows, MANY_WINDOWS))
    length = min(card.max_length, TOKENS_PER_BATCH // (2 * many))
    windowing = replace(card.windowing, long_code="windows", max_length=length, stride=min(card.stride, length // 4))
    random, found = np.random.default_rng(0), []
    for count in (2, many):
        wanted = windowing.capacity + (count - 1) * windowing.step - windowing.step // 2
        stream = np.zeros(0, dtype=np.int64)
        while len(stream) < wanted:
            stream = np.concatenate([stream, *(rows[place] for place in random.permutation(len(rows)))])
        found.append(windowing.cut(stream[:wanted]))
    return found


def _widths(outputs: Mapping[str, Float32]) -> dict[str, int]:
    return {name: values.shape[1] for name, values in outputs.items()}


def _shown(outputs: Mapping[str, Float32]) -> str:
    return ", ".join(f"{name} ({width})" for name, width in _widths(outputs).items())


def _agreement(card: BundleCard, task: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int]:
    """Equal decisions and all decisions, those too near to the threshold left out."""
    if task not in card.heads:
        return 0, 0
    temperature = card.temperature.get(task, 1.0)
    first, second = softmax(ours, temperature), softmax(theirs, temperature)
    if task == DETECTION:
        clear = np.abs(second[:, 1] - card.threshold) > CLOSE_TO_THRESHOLD
        same = (first[:, 1] >= card.threshold) == (second[:, 1] >= card.threshold)
    else:
        top = np.sort(second, axis=1)
        clear = top[:, -1] - top[:, -2] > CLOSE_TO_THRESHOLD
        same = first.argmax(axis=1) == second.argmax(axis=1)
    return int((same & clear).sum()), int(clear.sum())


def _spread(codes: list[str], n: int) -> list[str]:
    """Samples of all lengths: the shortest, the longest, and evenly between."""
    ordered = sorted(codes, key=lambda code: (len(code), code))
    return [ordered[place] for place in _places(len(ordered), n)]


def _places(size: int, n: int) -> list[int]:
    """At most `n` places of a sequence: the first, the last, and evenly between."""
    return [round(position) for position in np.linspace(0, size - 1, min(n, size))]
