"""Label-noise suspects: samples whose label a fast baseline, fitted without their cluster, does not believe.

Confident learning (Northcutt et al. 2021, arXiv 1911.00068): a label is suspect when the out-of-fold probability of
another label reaches that label's threshold, the mean probability of it among the samples that carry it. The ranking
is by self-confidence, the out-of-fold probability of the given label. It says what to review, not what is wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.data.assign import Member, assign_folds
from secauditai.data.schema import LABELS
from secauditai.metrics import Scores, roc_auc
from secauditai.models.baseline import TOKEN_PATTERN
from secauditai.progress import Progress, silent

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

FOLDS = 5
FEATURES = 2**18
"""Buckets that words and word pairs are hashed into."""
INVERSE_REGULARISATION = 10.0
"""As in `models.baseline`."""
TOLERANCE = 0.01
"""Of the dual solver, which takes a tenth of the time of the primal one at the same ranking."""
MAX_CHARACTERS = 10_000
"""Characters of a sample that the baseline reads."""


@dataclass(frozen=True)
class Suspect:
    """A sample whose label should be looked at."""

    id: str
    label: str
    suggested: str
    probability: float
    """Out-of-fold probability of the given label."""

    @property
    def score(self) -> float:
        """1 - probability: the higher, the less the baseline believes the label."""
        return round(1 - self.probability, 4)


@dataclass(frozen=True)
class Noise:
    """What the baseline makes of the labels."""

    scored: int
    """Samples with an out-of-fold probability."""
    roc_auc: float | None
    thresholds: dict[str, float] = field(default_factory=dict)
    suspects: list[Suspect] = field(default_factory=list)
    """The most doubtful first."""
    reason: str = ""
    """Why nothing was scored."""


def find_suspects(
    ids: Sequence[str],
    codes: Sequence[str],
    labels: Sequence[str],
    clusters: Sequence[str],
    *,
    seed: int = 13,
    progress: Progress = silent,
) -> Noise:
    """Rank samples by how little a baseline that never saw their cluster believes their label.

    The result does not depend on the order of the samples.

    Args:
        ids: unique.
        codes: of which the first `MAX_CHARACTERS` are read.
        labels: `safe` or `vulnerability`.
        clusters: samples of one cluster are held out together.
        seed: of the folds.
        progress: told how many folds are done.
    """
    if len(set(labels)) < 2:
        return Noise(0, None, reason="all samples have the same label")
    if len(set(clusters)) < 2 * FOLDS:
        return Noise(0, None, reason=f"fewer than {2 * FOLDS} clusters, too few to hold some out")
    order = np.argsort(np.array(ids, dtype=object), kind="stable")
    names = [ids[index] for index in order]
    targets = np.array([LABELS.index(labels[index]) for index in order])
    members = [Member(ids[index], clusters[index], labels[index], "{}") for index in order]
    chosen = assign_folds(members, FOLDS, seed).chosen
    folds = np.array([int(chosen[member.cluster].rpartition("_")[2]) for member in members])
    features = _features([codes[index] for index in order])
    if features is None:
        return Noise(0, None, reason="no two samples have a word in common")
    positive = _out_of_fold(features, targets, folds, seed, progress)
    return _confident(names, targets, positive)


def _out_of_fold(features: Any, targets: Int64, folds: Int64, seed: int, progress: Progress) -> Float64:
    """(samples,) probability of a vulnerability from a model that saw no sample of the fold; NaN when there is none."""
    from sklearn.linear_model import LogisticRegression

    positive = np.full(len(targets), np.nan)
    for fold in range(FOLDS):
        held = folds == fold
        if held.any() and len(set(targets[~held].tolist())) > 1:
            model = LogisticRegression(
                C=INVERSE_REGULARISATION, solver="liblinear", dual=True, tol=TOLERANCE, random_state=seed
            )
            model.fit(features[~held], targets[~held])
            positive[held] = model.predict_proba(features[held])[:, 1]
        progress("Looking for doubtful labels", fold + 1, FOLDS, "folds")
    return positive


def _features(codes: list[str]) -> Any:
    """(samples, features) TF-IDF of the words and word pairs of two samples or more; None without one."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    hashing = HashingVectorizer(
        token_pattern=TOKEN_PATTERN,
        ngram_range=(1, 2),
        lowercase=False,
        alternate_sign=False,
        norm=None,
        n_features=FEATURES,
    )
    counts = hashing.transform(code[:MAX_CHARACTERS] for code in codes)
    shared = np.flatnonzero(counts.getnnz(axis=0) > 1)
    return TfidfTransformer(sublinear_tf=True).fit_transform(counts[:, shared]) if len(shared) else None


def _confident(names: list[str], targets: Int64, positive: Float64) -> Noise:
    """Suspects by the thresholds of confident learning; (samples,) targets and probabilities of label 1."""
    known = np.flatnonzero(~np.isnan(positive))
    if len(known) == 0:
        return Noise(0, None, reason="one cluster holds nearly all samples")
    given, both = targets[known], np.stack([1 - positive[known], positive[known]], axis=1)
    own = both[np.arange(len(known)), given]
    means = [float(own[given == label].mean()) if (given == label).any() else np.inf for label in (0, 1)]
    reached = np.where(both >= np.array(means), both, -1.0)
    doubted = (reached.max(axis=1) >= 0) & (reached.argmax(axis=1) != given)
    ranked = sorted(np.flatnonzero(doubted).tolist(), key=lambda row: (round(float(own[row]), 6), names[known[row]]))
    suspects = [
        Suspect(names[known[row]], LABELS[given[row]], LABELS[1 - given[row]], round(float(own[row]), 4))
        for row in ranked
    ]
    area = roc_auc(Scores(given, (both[:, 1] >= 0.5).astype(np.int64), both))
    thresholds = {label: round(mean, 4) for label, mean in zip(LABELS, means, strict=True) if np.isfinite(mean)}
    return Noise(len(known), None if area is None else round(area, 4), thresholds, suspects)
