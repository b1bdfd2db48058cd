"""The code that MLflow stores with every registered model and runs when the model is loaded.

Self-contained: it is executed where nothing of this package is installed. It repeats, on purpose, how code is
normalised (`secauditai.data.schema`) and becomes windows (`secauditai.data.windows`) and batches
(`secauditai.models.predict`); tests compare the two. Never import it; `secauditai.tracking.packaging` passes its path
to MLflow.
"""

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from tokenizers import Tokenizer

TOKENS_PER_BATCH = 16_384
Array = npt.NDArray[Any]
DETECTION = "vulnerability_detection"
COLUMNS = {"category_classification": "category", "severity_prediction": "severity"}


class SecurityModel(PythonModel):
    """Scores a frame with a `code` column by the model's ONNX graph."""

    def load_context(self, context: Any) -> None:
        """Open the graph and the tokenizer."""
        root = Path(context.artifacts["bundle"])
        self.card = json.loads((root / "secauditai.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(root / "encoder" / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            str(root / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]  # MLflow allows it
        """One row per input row: `label`, `score` and a column per further head, or `embedding`."""
        outputs = self._run(read_codes(model_input))
        if self.card["kind"] == "encoder":
            (vectors,) = outputs.values()  # whatever the graph calls its only output
            return pd.DataFrame({"embedding": vectors.tolist()}, index=model_input.index)
        heads = self.card["heads"]
        main = DETECTION if DETECTION in heads else next(iter(heads))
        columns: dict[str, Any] = {}
        for task in (main, *(task for task in heads if task != main)):
            temperature = self.card.get("temperature", {}).get(task, 1.0)
            decided, score = self._decide(task, softmax(outputs[f"logits_{task}"], temperature))
            labels = np.asarray(heads[task], dtype=object)[decided]
            if task == main:
                columns |= {"label": labels, "score": score}
            if task in COLUMNS:
                columns |= {COLUMNS[task]: labels, f"{COLUMNS[task]}_score": score}
        return pd.DataFrame(columns, index=model_input.index)

    def _decide(self, task: str, probabilities: Array) -> tuple[Array, Array]:
        """Label number and score of each sample: the probability of a vulnerability, or of the label itself."""
        if task == DETECTION:
            return (probabilities[:, 1] >= self.card["threshold"]).astype(np.int64), probabilities[:, 1]
        return probabilities.argmax(axis=1), probabilities.max(axis=1)

    def _run(self, codes: list[str]) -> dict[str, Array]:
        """Output name to (samples, width), in the order of the input."""
        names = [output.name for output in self.session.get_outputs()]
        results = {name: np.zeros((0, 2), dtype=np.float32) for name in names}
        encodings = self.tokenizer.encode_batch_fast(codes, add_special_tokens=False)
        windows = [cut(np.asarray(encoding.ids, dtype=np.int64), self.card) for encoding in encodings]
        for chosen in batches(windows):
            input_ids, attention_mask = stack([windows[index] for index in chosen], self.card["special_ids"])
            values = self.session.run(names, {"input_ids": input_ids, "attention_mask": attention_mask})
            for name, value in zip(names, values, strict=True):
                if len(results[name]) < len(codes):
                    results[name] = np.zeros((len(codes), value.shape[1]), dtype=np.float32)
                results[name][chosen] = value
        return results


def read_codes(frame: pd.DataFrame) -> list[str]:
    """The `code` column as text, normalised.

    Raises:
        MlflowException: when it is missing or a value is not text.
    """
    if not isinstance(frame, pd.DataFrame) or "code" not in frame.columns:
        raise MlflowException.invalid_parameter_value("The input has to be a data frame with a column `code`.")
    codes = frame["code"].tolist()
    for row, code in enumerate(codes):
        if not isinstance(code, str):
            found = "missing" if pd.isna(code) is True else f"{type(code).__name__}, not text"
            raise MlflowException.invalid_parameter_value(f"Row {row}: `code` is {found}.")
        try:
            code.encode()
        except UnicodeEncodeError:
            raise MlflowException.invalid_parameter_value(f"Row {row}: `code` is not valid Unicode.") from None
    return [normalise(code) for code in codes]


def normalise(code: str) -> str:
    """Unify line ends and unicode (NFC), drop a byte order mark and trailing blank lines."""
    code = unicodedata.normalize("NFC", code.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff"))
    return code.rstrip("\n") + "\n"


def cut(tokens: Array, card: dict[str, Any]) -> list[Array]:
    """The windows of one sample's tokens, without special tokens."""
    capacity = card["max_length"] - 2
    if card["long_code"] == "head-tail" and len(tokens) > capacity:
        head = capacity // 2
        return [np.concatenate([tokens[:head], tokens[len(tokens) - (capacity - head) :]])]
    step = capacity - card["stride"]
    count = 1 + max(0, -(-(len(tokens) - capacity) // step)) if card["long_code"] == "windows" else 1
    return [tokens[start : start + capacity] for start in range(0, count * step, step)]


def stack(samples: list[list[Array]], special_ids: dict[str, int]) -> tuple[Array, Array]:
    """input_ids and attention_mask, both (batch, windows, sequence) int64; a padding window is all padding."""
    count = max(len(windows) for windows in samples)
    longest = max(len(window) for windows in samples for window in windows) + 2
    input_ids = np.full((len(samples), count, longest), special_ids["pad"], dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    for row, windows in enumerate(samples):
        for column, window in enumerate(windows):
            end = len(window) + 1
            input_ids[row, column, 0], input_ids[row, column, end] = special_ids["cls"], special_ids["sep"]
            input_ids[row, column, 1:end] = window
            attention_mask[row, column, : end + 1] = 1
    return input_ids, attention_mask


def batches(windows: list[list[Array]]) -> list[list[int]]:
    """Group samples of similar size so that each batch has at most `TOKENS_PER_BATCH` padded tokens."""
    shapes = [(len(sample), max(len(window) for window in sample) + 2) for sample in windows]
    groups: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(windows)), key=lambda index: (shapes[index], index)):
        count, length = shapes[index]
        widest = max(widest, length)
        if groups and (len(groups[-1]) + 1) * count * widest <= TOKENS_PER_BATCH:
            groups[-1].append(index)
        else:
            groups.append([index])
            widest = length
    return groups


def softmax(logits: Array, temperature: float) -> Array:
    """(n, labels) logits -> (n, labels) probabilities."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: Array = powers / powers.sum(axis=1, keepdims=True)
    return result


set_model(SecurityModel())
