import itertools
import random
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secauditai.data.clusters import recompute_clusters
from secauditai.data.near import ASCII_TOKEN, BANDS, ROWS, TOKEN, NearSource, TokenSets, jaccard, near_columns

SIMILARITY = 0.8


def similarity(left: str, right: str) -> float:
    """Jaccard, the slow and plain way: words only, as the codes here have nothing else."""
    a, b = set(left.split()), set(right.split())
    return len(a & b) / len(a | b)


def slow_clusters(codes: Sequence[str], groups: Sequence[str]) -> list[int]:
    labels = list(range(len(codes)))
    for i, j in itertools.combinations(range(len(codes)), 2):
        same_group = groups[i] != "" and groups[i] == groups[j]
        if same_group or similarity(codes[i], codes[j]) >= SIMILARITY:
            old, new = labels[j], labels[i]
            labels = [new if label == old else label for label in labels]
    return labels


def table_of(codes: Sequence[str], groups: Sequence[str]) -> pa.Table:
    ids = [f"s{number:03d}" for number in range(len(codes))]
    return pa.table({"id": ids, "group": list(groups), "code": list(codes)})


def families(seed: int, count: int) -> list[str]:
    """Codes of which many are near one another, at all similarities around the threshold."""
    source = random.Random(seed)
    codes = []
    while len(codes) < count:
        words = [f"w{source.randrange(500)}" for _ in range(source.randrange(8, 60))]
        for _ in range(source.randrange(1, 6)):
            codes.append(" ".join(words))
            for _ in range(source.randrange(0, max(1, len(words) // 5))):
                words[source.randrange(len(words))] = f"w{source.randrange(500)}"
    return codes[:count]


@pytest.mark.slow
@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_clusters_are_those_of_comparing_all_pairs(seed: int) -> None:
    codes = families(seed, 70)
    groups = [random.Random(seed + n).choice(["", "", "", "g1", "g2"]) for n in range(len(codes))]
    found = recompute_clusters([table_of(codes, groups)], SIMILARITY)
    slow = slow_clusters(codes, groups)
    for i, j in itertools.combinations(range(len(codes)), 2):
        assert (found[i] == found[j]) == (slow[i] == slow[j])
    order = list(range(len(codes)))
    random.Random(seed).shuffle(order)
    shuffled = recompute_clusters([table_of(codes, groups).take(pa.array(order))], SIMILARITY)
    assert [found[place] for place in order] == shuffled


def test_without_a_threshold_groups_and_equal_code_count() -> None:
    codes = ["a b c", "a b d", "a b e", "a  b\n c", "a b f"]
    assert recompute_clusters([table_of(codes, ["", "g", "g", "", ""])], None) == [
        "s000",
        "s001",
        "s001",
        "s000",
        "s004",
    ]
    assert recompute_clusters([table_of(codes, ["h", "g", "g", "g", "h"])], None) == ["s000"] * 5


def test_proposals_find_nearly_all_pairs_at_the_threshold() -> None:
    source = random.Random(4)
    pairs = []
    for _ in range(1000):
        shared = [f"t{source.getrandbits(60)}" for _ in range(80)]
        left, right = ([f"t{source.getrandbits(60)}" for _ in range(10)] for _ in range(2))
        pairs += [" ".join(shared + left), " ".join(shared + right)]
    table = near_columns(TokenSets(), pairs)
    bands = np.stack([table.column(f"band_{band:02d}").to_numpy() for band in range(BANDS)])
    recall = (bands[:, ::2] == bands[:, 1::2]).any(axis=0).mean()
    assert recall >= 0.99
    assert 1 - (1 - SIMILARITY**ROWS) ** BANDS > 0.9999


def test_jaccard_is_exact() -> None:
    codes = families(1, 40)
    table = near_columns(TokenSets(), codes)
    source = NearSource([lambda: table], np.zeros(40, np.int64), np.arange(40))
    left, right = (np.array(side) for side in zip(*itertools.combinations(range(40), 2), strict=True))
    expected = [similarity(codes[i], codes[j]) for i, j in zip(left, right, strict=True)]
    assert jaccard(source, left, right) == pytest.approx(expected)


def test_token_sets_ignore_layout_and_keep_names_and_literals_apart() -> None:
    def tokens(code: str) -> set[int]:
        return set(TokenSets()([code])[0].tolist())

    assert tokens("if (a){ return 'x'; }") == tokens("if(a)\n{\n  return 'x';\n}")
    assert tokens("f(a)") != tokens("f(b)")
    assert tokens('f("a b")') != tokens('f("a c")')


def test_token_sets_of_several_codes_stand_one_after_another() -> None:
    hashes, starts = TokenSets()(["a b a", "", "b"])
    assert starts.tolist() == [0, 2, 2, 3]
    assert len(set(hashes[:2].tolist())) == 2
    assert hashes[2] in hashes[:2]


@settings(max_examples=200)
@given(st.text(st.sampled_from(list("ab_$9.\"'\\\n \t\x1c\x0b+(é")), max_size=40) | st.text(max_size=20))
def test_ascii_code_has_the_same_tokens_by_the_quick_pattern(code: str) -> None:
    text = code.encode("ascii", "ignore").decode()
    assert ASCII_TOKEN.findall(text) == TOKEN.findall(text)
