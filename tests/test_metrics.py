import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from secauditai.errors import ConfigError
from secauditai.metrics import (
    METRICS,
    Scores,
    cluster_bootstrap,
    compute_metrics,
    fit_temperature,
    fit_threshold,
    resolve_metrics,
)


def random_scores(seed: int, n_labels: int = 2, n: int = 80) -> Scores:
    random = np.random.default_rng(seed)
    probabilities = np.round(random.dirichlet(np.ones(n_labels), n), 2)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return Scores(random.integers(0, n_labels, n), probabilities.argmax(axis=1), probabilities)


@pytest.mark.slow
@given(st.integers(0, 10_000))
def test_binary_metrics_equal_scikit_learn(seed: int) -> None:
    s = random_scores(seed)
    y, d, p = s.targets, s.decisions, s.probabilities[:, 1]
    found = compute_metrics(s, list(METRICS))
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, d))
    assert found["precision"] == pytest.approx(reference.precision_score(y, d))
    assert found["recall"] == pytest.approx(reference.recall_score(y, d))
    assert found["f1"] == pytest.approx(reference.f1_score(y, d))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(y, d, average="macro"))
    assert found["mcc"] == pytest.approx(reference.matthews_corrcoef(y, d))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(y, d))
    assert found["roc_auc"] == pytest.approx(reference.roc_auc_score(y, p))
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(y, p))
    assert found["brier"] == pytest.approx(reference.brier_score_loss(y, p))
    assert found["loss"] == pytest.approx(reference.log_loss(y, np.clip(s.probabilities, 1e-12, 1)), abs=1e-6)


def test_many_labels_equal_scikit_learn() -> None:
    s = random_scores(3, n_labels=4, n=300)
    found = compute_metrics(s, ["f1", "mcc", "roc_auc", "recall"])
    assert found["f1"] == pytest.approx(reference.f1_score(s.targets, s.decisions, average="macro"))
    assert found["mcc"] == pytest.approx(reference.matthews_corrcoef(s.targets, s.decisions))
    assert found["recall"] == pytest.approx(reference.recall_score(s.targets, s.decisions, average="macro"))
    expected = reference.roc_auc_score(s.targets, s.probabilities, multi_class="ovr")
    assert found["roc_auc"] == pytest.approx(expected)


def test_confusion_counts_add_up() -> None:
    s = random_scores(1)
    first = Scores(s.targets[:30], s.decisions[:30], s.probabilities[:30])
    rest = Scores(s.targets[30:], s.decisions[30:], s.probabilities[30:])
    assert (first.confusion() + rest.confusion() == s.confusion()).all()


@pytest.mark.parametrize("name", list(METRICS))
def test_undefined_is_none_and_never_nan(name: str) -> None:
    empty = Scores(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 2)))
    one_class = Scores(np.zeros(4, int), np.zeros(4, int), np.tile([0.9, 0.1], (4, 1)))
    assert METRICS[name].compute(empty) is None
    value = METRICS[name].compute(one_class)
    assert value is None or np.isfinite(value)


def test_weights_count_like_repeated_samples() -> None:
    s = random_scores(5)
    times = np.random.default_rng(0).integers(0, 3, len(s.targets))
    repeated = Scores(*(np.repeat(values, times, axis=0) for values in (s.targets, s.decisions, s.probabilities)))
    weighted = Scores(s.targets, s.decisions, s.probabilities, times.astype(float))
    for name in METRICS:
        assert METRICS[name].compute(weighted) == pytest.approx(METRICS[name].compute(repeated)), name


@pytest.mark.slow
def test_threshold_maximises_f1() -> None:
    s = random_scores(7)
    best = fit_threshold(s.targets, s.probabilities[:, 1])
    ours = reference.f1_score(s.targets, s.probabilities[:, 1] >= best)
    grid = [reference.f1_score(s.targets, s.probabilities[:, 1] >= t) for t in np.linspace(0.001, 0.999, 999)]
    assert ours == pytest.approx(max(grid))
    assert fit_threshold(np.ones(3, int), np.array([0.2, 0.3, 0.4])) == 0.5


def test_temperature_recovers_a_known_scale() -> None:
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 2))
    chances = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    targets = (random.random(len(chances)) < chances).astype(int)
    assert fit_temperature(targets, logits * 3) == pytest.approx(3.0, rel=0.1)


def test_cluster_intervals_are_wider_than_independent_ones() -> None:
    s = random_scores(2, n=40)
    copies = Scores(*(np.repeat(values, 10, axis=0) for values in (s.targets, s.decisions, s.probabilities)))
    names = [str(number) for number in range(40) for _ in range(10)]
    low, high = cluster_bootstrap(copies, names, ["accuracy"])["accuracy"] or (0, 0)
    free_low, free_high = cluster_bootstrap(copies, [str(i) for i in range(400)], ["accuracy"])["accuracy"] or (0, 0)
    assert high - low > 2 * (free_high - free_low)


def test_unknown_metrics_get_a_suggestion() -> None:
    assert resolve_metrics("accuracy, f1") == ("accuracy", "f1")
    with pytest.raises(ConfigError, match="Did you mean accuracy"):
        resolve_metrics("acuracy")
