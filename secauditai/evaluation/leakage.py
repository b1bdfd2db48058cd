"""What splits share: what the written ones do, and what splitting single samples at random would have."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from secauditai.data.findings import Finding
from secauditai.data.material import Material
from secauditai.data.split import DEFAULT_RATIOS

Int64 = npt.NDArray[np.int64]

DRAWS = 20
"""Random splits that the estimate is averaged over."""
SHOWN_LEAKS = 5


def random_split_leak(
    clusters: Sequence[str],
    labels: Sequence[str],
    ratios: Mapping[str, float] = DEFAULT_RATIOS,
    *,
    seed: int = 13,
    draws: int = DRAWS,
) -> dict[str, Any] | None:
    """What share of a test split would have a twin, a sample of its cluster, in train if samples went one by one.

    Args:
        clusters: of each sample.
        labels: of each sample.
        ratios: of train and test; anything else is neither.
        seed: of the draws.
        draws: random splits to average over.

    Returns:
        `leaked`, the mean share, its range, and `opposite`, the share whose twin in train has another label; None when
        there are fewer than three samples.
    """
    total = len(clusters)
    if total < 3:
        return None
    _, of_cluster = np.unique(np.array(clusters, dtype=object), return_inverse=True)
    names, of_label = np.unique(np.array(labels, dtype=object), return_inverse=True)
    test = min(total - 1, max(1, round(ratios["test"] * total)))
    train = min(total - test, max(1, round(ratios["train"] * total)))
    leaked, opposite = [], []
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(total)
        learnt, held = order[:train], order[total - test :]
        seen = np.zeros((of_cluster.max() + 1, len(names)), np.int64)
        np.add.at(seen, (of_cluster[learnt], of_label[learnt]), 1)
        twins = seen[of_cluster[held]]
        others = twins.sum(axis=1) - twins[np.arange(test), of_label[held]]
        leaked.append(float((twins.sum(axis=1) > 0).mean()))
        opposite.append(float((others > 0).mean()))
    return {
        "ratios": {"train": ratios["train"], "test": ratios["test"]},
        "seed": seed,
        "draws": draws,
        "test_samples": test,
        "leaked": round(float(np.mean(leaked)), 4),
        "lowest": round(min(leaked), 4),
        "highest": round(max(leaked), 4),
        "opposite": round(float(np.mean(opposite)), 4),
    }


def split_ratios(material: Material) -> Mapping[str, float]:
    """The ratios a dataset was split by, a fold as test; those of `split` when it was not split so."""
    splits = material.dataset.manifest.get("splits", {}) if material.dataset is not None else {}
    folds = splits.get("folds")
    ratios = {"train": 1 - 1 / folds, "test": 1 / folds} if folds else splits.get("ratios", {})
    return ratios if ratios.get("train", 0) > 0 and ratios.get("test", 0) > 0 else DEFAULT_RATIOS


def cross_split_leaks(material: Material) -> dict[str, Any]:
    """What `validate` found in two splits; `checked` is false when there are none."""
    leaks: list[Finding] = [finding for finding in material.validation.findings if finding.reason == "leak"]
    shown = [{"id": leak.id, "where": leak.where, "message": leak.message} for leak in leaks[:SHOWN_LEAKS]]
    return {
        "checked": bool(material.splits),
        "findings": len(leaks),
        "samples": len({(leak.where, leak.id) for leak in leaks}),
        "examples": shown,
    }
