import ast
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from secauditai.data.corpus import generate_corpus
from secauditai.data.schema import Sample, code_key, parse_sample


@pytest.fixture(scope="module")
def corpus() -> list[Sample]:
    return generate_corpus()


def test_it_is_deterministic_and_depends_on_the_seed(corpus: list[Sample]) -> None:
    assert generate_corpus() == corpus
    assert generate_corpus(seed=1) != corpus


def test_pairs_languages_and_weaknesses(corpus: list[Sample]) -> None:
    assert len(corpus) == 2000
    assert len({sample.id for sample in corpus}) == 2000
    assert len({code_key(sample.code) for sample in corpus}) == 2000
    assert len({sample.language for sample in corpus}) >= 6
    assert len({sample.metadata["cwe"] for sample in corpus}) >= 12
    assert set(Counter(sample.group for sample in corpus).values()) == {2}
    assert Counter(sample.label for sample in corpus) == {"safe": 1000, "vulnerability": 1000}


def test_samples_are_valid_and_say_nothing_about_their_label(corpus: list[Sample]) -> None:
    tell_tale = re.compile(r"vuln|unsafe|\bbad\b|\bgood\b|\bsafe\b|fixed|patched", re.IGNORECASE)
    for sample in corpus:
        raw = {name: getattr(sample, name) for name in ("id", "code", "label", "severity", "category", "metadata")}
        assert parse_sample(raw).code == sample.code
        assert not tell_tale.search(sample.code), sample.id
    first = [sample.label for sample in corpus if sample.id.endswith("a")]
    assert 400 < Counter(first)["safe"] < 600


def test_python_parses(corpus: list[Sample]) -> None:
    for sample in corpus:
        if sample.language == "python":
            ast.parse(sample.code)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2), "sublinear_tf": True}, {}]
)
def test_word_counts_are_neither_enough_nor_useless(corpus: list[Sample], options: dict[str, object]) -> None:
    codes, labels = [s.code for s in corpus], np.array([s.label for s in corpus])
    model = make_pipeline(TfidfVectorizer(min_df=2, **options), LogisticRegression(max_iter=1000))
    folds = {"groups": [s.group for s in corpus], "cv": GroupKFold(5)}
    assert 0.60 <= cross_val_score(model, codes, labels, **folds).mean() <= 0.80
    shuffled = np.random.default_rng(0).permutation(labels)
    assert 0.42 <= cross_val_score(model, codes, shuffled, **folds).mean() <= 0.58
