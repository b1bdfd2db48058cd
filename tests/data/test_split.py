import random
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from conftest import make_samples
from hypothesis import given
from hypothesis import strategies as st

from secauditai.data.clusters import recompute_clusters
from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.schema import SAMPLE_SCHEMA, parse_sample
from secauditai.data.split import DEFAULT_RATIOS, assign_clusters, check_ratios, split_dataset
from secauditai.data.validate import validate
from secauditai.errors import ConfigError, DataError


def table_of(groups: list[int]) -> pa.Table:
    rows = []
    for number, group in enumerate(groups):
        raw = {"id": f"s{number}", "code": f"code {number}", "label": ("safe", "vulnerability")[number % 2]}
        rows.append(parse_sample({**raw, "metadata": {"group": f"g{group}"} if group else {}}).row())
    return pa.Table.from_pylist(rows, SAMPLE_SCHEMA)


@given(st.lists(st.integers(0, 8), min_size=12, max_size=60), st.integers(0, 99))
def test_clusters_never_straddle_and_order_does_not_matter(groups: list[int], seed: int) -> None:
    table = table_of(groups)
    clusters = recompute_clusters(table, None)
    if len(set(clusters)) < 3:
        return
    chosen, _ = assign_clusters(table, clusters, DEFAULT_RATIOS, seed=seed)
    assert set(chosen) == set(clusters)
    assert set(chosen.values()) == {"train", "val", "test"}
    order = list(range(len(groups)))
    random.Random(seed).shuffle(order)
    shuffled = table.take(pa.array(order))
    assert assign_clusters(shuffled, recompute_clusters(shuffled, None), DEFAULT_RATIOS, seed=seed)[0] == chosen


def test_splits_are_stratified_and_proved(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"samples": make_samples(100)}))
    prepare(str(tmp_path / "s.yaml"), tmp_path / "d")
    result = split_dataset(open_dataset(tmp_path / "d"), DEFAULT_RATIOS, seed=1)
    assert result.counts == {"train": 160, "val": 20, "test": 20}
    assert result.straddling_clusters == 0
    for split in ("train", "val", "test"):
        labels = result.dataset.table(split)["label"].to_pylist()
        assert labels.count("safe") * 2 == len(labels)
    assert validate(str(tmp_path / "d")).ok
    again = split_dataset(open_dataset(tmp_path / "d"), DEFAULT_RATIOS, seed=1)
    assert again.dataset.manifest["splits"]["hash"] == result.dataset.manifest["splits"]["hash"]
    other = split_dataset(open_dataset(tmp_path / "d"), DEFAULT_RATIOS, seed=2)
    assert other.dataset.manifest["splits"]["hash"] != result.dataset.manifest["splits"]["hash"]


def test_a_cluster_too_large_goes_to_train_with_a_warning() -> None:
    table = table_of([1] * 40 + [0] * 10)
    clusters = recompute_clusters(table, None)
    chosen, warnings = assign_clusters(table, clusters, DEFAULT_RATIOS, seed=0)
    assert chosen["s0"] == "train"
    assert "s0 (40 samples)" in warnings[0]


@pytest.mark.parametrize("ratios", [(0.8, 0.3, 0.1), (0.8, 0.1, -0.1), (0.0, 0.5, 0.5)])
def test_ratios_that_make_no_sense_are_refused(ratios: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="--train"):
        check_ratios(dict(zip(("train", "val", "test"), ratios, strict=True)))


def test_too_few_clusters_are_refused() -> None:
    table = table_of([1] * 6)
    with pytest.raises(DataError, match="cannot be split"):
        assign_clusters(table, recompute_clusters(table, None), DEFAULT_RATIOS, seed=0)
