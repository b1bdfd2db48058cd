"""The baseline every model must beat: TF-IDF over words and word pairs, and a logistic regression.

Saved as npz and JSON; prediction needs scikit-learn's vectoriser but no pickle.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

TOKEN_PATTERN = r"\w+|[^\w\s]"
MAX_FEATURES = 50_000
MIN_SAMPLES = 2
"""Training samples that hold a word or pair which the baseline keeps: its vocabulary goes where the model goes."""

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline of one task."""

    labels: tuple[str, ...]
    vocabulary: dict[str, int]
    idf: Float64
    """(features,) inverse document frequencies."""
    weights: Float64
    """(labels, features)"""
    bias: Float64
    """(labels,)"""

    def probabilities(self, codes: Sequence[str]) -> Float64:
        """(samples, labels) probabilities."""
        from scipy.special import softmax

        scores = self._vectoriser.transform(codes) @ self.weights.T + self.bias
        result: Float64 = softmax(np.asarray(scores), axis=1)
        return result

    @cached_property
    def _vectoriser(self) -> Any:
        vectoriser = _vectoriser(vocabulary=self.vocabulary)
        vectoriser.idf_ = self.idf
        return vectoriser

    def save(self, directory: Path) -> None:
        """Write `baseline.npz` and `baseline.json`."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {"idf": self.idf, "weights": self.weights.astype(np.float32), "bias": self.bias}
        np.savez_compressed(directory / "baseline.npz", **arrays)  # type: ignore[arg-type]
        words = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        document = {"kind": "tfidf_logistic_regression", "labels": self.labels, "vocabulary": words}
        (directory / "baseline.json").write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")


def load_baseline(directory: Path) -> Baseline:
    """Read a saved baseline."""
    document = json.loads((directory / "baseline.json").read_text(encoding="utf-8"))
    with np.load(directory / "baseline.npz", allow_pickle=False) as arrays:
        return Baseline(
            labels=tuple(document["labels"]),
            vocabulary={word: number for number, word in enumerate(document["vocabulary"])},
            idf=arrays["idf"],
            weights=arrays["weights"].astype(np.float64),
            bias=arrays["bias"],
        )


def load_learners() -> None:
    """Import what a baseline is fitted with, which takes a second the first time."""
    import sklearn.feature_extraction.text
    import sklearn.linear_model  # noqa: F401


def fit_baseline(codes: Sequence[str], targets: Sequence[str], labels: Sequence[str]) -> Baseline | None:
    """Fit the baseline; None when there are fewer than two classes or no words to go by.

    Args:
        codes: the training code.
        targets: each one's label.
        labels: all labels in the order of the model's head; labels without samples get no probability.
    """
    from sklearn.linear_model import LogisticRegression

    present = [label for label in labels if label in set(targets)]
    kept = [index for index, target in enumerate(targets) if target in present]
    if len(present) < 2:
        return None
    vectoriser = _vectoriser(min_df=MIN_SAMPLES, max_features=MAX_FEATURES)
    try:
        features = vectoriser.fit_transform([codes[index] for index in kept])
    except ValueError:  # no words, or none that two samples share
        return None
    model = LogisticRegression(C=10.0, max_iter=1000, random_state=0)
    model.fit(features, [present.index(targets[index]) for index in kept])
    weights, bias = model.coef_, model.intercept_
    if len(present) == 2:
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    rows = [labels.index(label) for label in present]
    full_weights, full_bias = np.zeros((len(labels), weights.shape[1])), np.full(len(labels), -1e9)
    full_weights[rows], full_bias[rows] = weights, bias
    vocabulary = {word: int(number) for word, number in vectoriser.vocabulary_.items()}
    return Baseline(tuple(labels), vocabulary, vectoriser.idf_, full_weights, full_bias)


def _vectoriser(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(
        token_pattern=TOKEN_PATTERN, ngram_range=(1, 2), sublinear_tf=True, lowercase=False, **options
    )
