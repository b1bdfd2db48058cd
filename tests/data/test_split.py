import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from brute_force import leaks
from conftest import make_samples
from hypothesis import given
from hypothesis import strategies as st

from secauditai.config.settings import CleaningSettings
from secauditai.data.assign import Member, assign_by_time, assign_stratified
from secauditai.data.dataset import Dataset, open_dataset, part_file, write_table
from secauditai.data.prepare import prepare
from secauditai.data.sources import open_data
from secauditai.data.split import DEFAULT_RATIOS, SplitPlan, check_ratios, split_dataset
from secauditai.data.tasks import Runner
from secauditai.data.validate import validate
from secauditai.errors import ConfigError, DataError


def members_of(groups: list[int]) -> list[Member]:
    """One member per entry; equal numbers above 0 are a cluster."""
    return [
        Member(f"s{n}", f"g{group}" if group else f"s{n}", ("safe/none", "vulnerability/x")[n % 2], "{}")
        for n, group in enumerate(groups)
    ]


@given(st.lists(st.integers(0, 8), min_size=12, max_size=60), st.integers(0, 99))
def test_clusters_never_straddle_and_order_does_not_matter(groups: list[int], seed: int) -> None:
    members = members_of(groups)
    clusters = {member.cluster for member in members}
    if len(clusters) < 3:
        return
    chosen = assign_stratified(members, DEFAULT_RATIOS, seed).chosen
    assert set(chosen) == clusters
    assert set(chosen.values()) == {"train", "val", "test"}
    random.Random(seed).shuffle(members)
    assert assign_stratified(members, DEFAULT_RATIOS, seed).chosen == chosen


@pytest.mark.slow
def test_splits_are_stratified_and_proved(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"samples": make_samples(100)}))
    prepare(str(tmp_path / "s.yaml"), tmp_path / "d")
    result = split_dataset(open_dataset(tmp_path / "d"), SplitPlan(seed=1))
    assert result.counts == {"train": 160, "val": 20, "test": 20}
    assert result.straddling_clusters == 0
    for split in ("train", "val", "test"):
        labels = result.dataset.table(split)["label"].to_pylist()
        assert labels.count("safe") * 2 == len(labels)
    assert validate(str(tmp_path / "d")).ok
    again = split_dataset(open_dataset(tmp_path / "d"), SplitPlan(seed=1))
    assert again.dataset.manifest["splits"]["hash"] == result.dataset.manifest["splits"]["hash"]
    other = split_dataset(open_dataset(tmp_path / "d"), SplitPlan(seed=2))
    assert other.dataset.manifest["splits"]["hash"] != result.dataset.manifest["splits"]["hash"]


def test_a_cluster_too_large_goes_to_train_with_a_warning() -> None:
    found = assign_stratified(members_of([1] * 40 + [0] * 10), DEFAULT_RATIOS, 0)
    assert found.chosen["g1"] == "train"
    assert "g1 (40 samples)" in found.warnings[0]


@pytest.mark.parametrize("ratios", [(0.8, 0.3, 0.1), (0.8, 0.1, -0.1), (0.0, 0.5, 0.5)])
def test_ratios_that_make_no_sense_are_refused(ratios: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="--train"):
        check_ratios(dict(zip(("train", "val", "test"), ratios, strict=True)))


def test_too_few_clusters_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        assign_stratified(members_of([1] * 6), DEFAULT_RATIOS, 0)


def prepared(directory: Path, samples: list[dict[str, Any]], name: str = "d") -> Dataset:
    (directory / f"{name}.yaml").write_text(yaml.safe_dump({"samples": samples}))
    return prepare(str(directory / f"{name}.yaml"), directory / name).dataset


def with_metadata(samples: list[dict[str, Any]], **values: Callable[[int], object]) -> list[dict[str, Any]]:
    """The samples, with metadata computed from the number of their pair."""
    for number, sample in enumerate(samples):
        sample["metadata"] = {**sample["metadata"], **{key: value(number // 2) for key, value in values.items()}}
    return samples


def metadata_of(dataset: Dataset, split: str, key: str) -> list[Any]:
    return [json.loads(text)[key] for text in dataset.table(split).column("metadata").to_pylist()]


def test_by_time_the_newest_are_tested_on(tmp_path: Path) -> None:
    dates = lambda pair: f"20{10 + pair:02d}-03-01"  # noqa: E731
    dataset = prepared(tmp_path, with_metadata(make_samples(20), commit_date=dates))
    result = split_dataset(dataset, SplitPlan(by_time="commit_date"))
    times = {name: metadata_of(result.dataset, name, "commit_date") for name in ("train", "val", "test")}
    assert max(times["train"]) < min(times["val"]) <= max(times["val"]) < min(times["test"])
    assert result.counts == {"train": 32, "val": 4, "test": 4}
    with pytest.raises(DataError, match="has no 'when' in its metadata"):
        split_dataset(dataset, SplitPlan(by_time="when"))


@pytest.mark.parametrize(
    ("odd", "message"), [("nan", "an unreadable"), ("yesterday", "an unreadable"), (2030, "is a number in sample")]
)
def test_times_that_cannot_be_compared_are_refused(tmp_path: Path, odd: object, message: str) -> None:
    dataset = prepared(tmp_path, with_metadata(make_samples(20), date=lambda pair: "2020-03-01" if pair else odd))
    with pytest.raises(DataError, match=message):
        split_dataset(dataset, SplitPlan(by_time="date"))


def test_by_project_needs_projects_and_names_those_that_are_large(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sample has `project`"):
        split_dataset(prepared(tmp_path, make_samples(20)), SplitPlan(by_project=True))
    names = lambda pair: "large" if pair < 12 else f"p{pair}" if pair < 19 else None  # noqa: E731
    dataset = prepared(tmp_path, with_metadata(make_samples(20), project=names), "named")
    large, alone = split_dataset(dataset, SplitPlan(by_project=True)).warnings
    assert large.startswith("cluster project large (24 samples) is larger")
    assert alone == "2 of 40 samples have no `project`, so that each stands alone"


def test_no_cluster_is_said_to_be_in_train_that_is_not() -> None:
    found = assign_stratified(members_of([group for group in range(1, 8) for _ in range(14)]), DEFAULT_RATIOS, 0)
    told = {text.split()[1] for text in found.warnings}
    assert told == {cluster for cluster, split in found.chosen.items() if split == "train"}
    assert len(told) == 5


def test_a_split_without_a_cluster_gets_the_smallest_one() -> None:
    for seed in range(50):
        found = assign_stratified(members_of([1] * 90 + [2] * 13 + [3] * 12), DEFAULT_RATIOS, seed)
        assert found.chosen == {"g1": "train", "g2": "test", "g3": "val"}
        assert [text.split(")")[0] for text in found.warnings] == ["cluster g1 (90 samples"]


def test_by_time_what_is_empty_or_too_large_is_told() -> None:
    times = {1: 2001, 2: 2002, 3: 2003}
    groups = [1] * 8 + [2] * 30 + [3] * 2
    members = [
        Member(f"s{n}", f"g{group}", "safe/none", json.dumps({"time": times[group]})) for n, group in enumerate(groups)
    ]
    found = assign_by_time(members, DEFAULT_RATIOS, "time")
    assert found.chosen == {"g1": "train", "g2": "train", "g3": "test"}
    assert [text.split(":")[0] for text in found.warnings] == ["val is empty"]
    found = assign_by_time(members, {"train": 0.2, "val": 0.2, "test": 0.6}, "time")
    assert found.chosen == {"g1": "train", "g2": "val", "g3": "test"}
    assert found.warnings == ["cluster g2 (30 samples) is larger than the share of val, where its time puts it"]


def test_by_project_no_project_is_in_two_splits(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, with_metadata(make_samples(40), project=lambda pair: f"p{pair % 11}"))
    result = split_dataset(dataset, SplitPlan(by_project=True))
    seen = [set(metadata_of(result.dataset, name, "project")) for name in ("train", "val", "test")]
    assert all(seen)
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_predefined_splits_are_kept_and_leaks_mended(tmp_path: Path) -> None:
    names = lambda pair: ("train", "valid", "test")[pair % 3]  # noqa: E731
    samples = with_metadata(make_samples(12), split=names)
    samples[2]["metadata"]["split"] = "test"  # its twin stays in val
    result = split_dataset(prepared(tmp_path, samples), SplitPlan(predefined=True))
    assert result.counts == {"train": 10, "val": 6, "test": 8}
    assert "1 clusters stand in several" in result.warnings[0]
    with pytest.raises(DataError, match="no split"):
        split_dataset(prepared(tmp_path, make_samples(3), "other"), SplitPlan(predefined=True))


def test_folds_share_no_cluster(tmp_path: Path) -> None:
    result = split_dataset(prepared(tmp_path, make_samples(25)), SplitPlan(folds=5))
    assert result.counts == {f"fold_{number}": 10 for number in range(5)}
    assert result.straddling_clusters == 0
    assert validate(str(tmp_path / "d")).ok
    assert open_data(str(tmp_path / "d" / "fold_3"), cache=tmp_path / "cache").table().num_rows == 10


@pytest.mark.slow
def test_extending_keeps_what_was_and_refuses_bridges(tmp_path: Path) -> None:
    old = split_dataset(prepared(tmp_path, make_samples(60), "old"), SplitPlan()).dataset
    where = {name: set(old.table(name).column("group").to_pylist()) for name in old.splits()}
    trained, tested = min(where["train"]), min(where["test"])
    codes = dict(zip(old.table().column("group").to_pylist(), old.table().column("code").to_pylist(), strict=True))
    bridge = codes[trained] + codes[tested]  # half of its tokens are in either
    grown = [*make_samples(60), *make_samples(40, start=100)]
    follower = {**make_samples(1, start=900)[0], "id": "follower"}
    follower["metadata"] = {"group": trained}
    grown += [follower, {"id": "bridge", "code": bridge, "label": "safe"}]
    dataset = prepared(tmp_path, grown, "grown")
    assert cluster_of(dataset, "bridge") == "bridge"  # not near enough; so let its group bridge
    grown[-1]["metadata"] = {"group": tested}
    grown[-1]["code"] = codes[trained] + "# once more\n"
    dataset = prepared(tmp_path, grown, "bridged")
    result = split_dataset(dataset, SplitPlan(extend=old))
    now = {name: set(result.dataset.table(name).column("id").to_pylist()) for name in old.splits()}
    for name in old.splits():
        assert set(old.table(name).column("id").to_pylist()) <= now[name]
    assert result.bridges == len({"bridge", "follower"})
    assert not {"bridge", "follower"} & set(result.dataset.table().column("id").to_pylist())
    lines = [json.loads(line) for line in result.dataset.layout.rejected.read_text().splitlines()]
    assert {line["id"] for line in lines if line["reason"] == "bridge"} == {"bridge", "follower"}
    manifest = result.dataset.manifest
    assert manifest["read"] == manifest["kept"] + manifest["rejected"] + manifest["duplicates"]
    assert sum(result.counts.values()) == manifest["kept"] == result.dataset.table().num_rows
    assert abs(sum(result.drift.values())) < 0.01
    assert validate(str(tmp_path / "bridged")).ok


def cluster_of(dataset: Dataset, sample: str) -> str:
    table = dataset.table()
    return dict(zip(table.column("id").to_pylist(), table.column("cluster").to_pylist(), strict=True))[sample]


def test_ratios_are_not_told_of_splits_that_have_none(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, with_metadata(make_samples(12), split=lambda pair: ("train", "val", "test")[pair % 3]))
    for plan in (SplitPlan(folds=3), SplitPlan(predefined=True)):
        assert "ratios" not in split_dataset(dataset, plan).dataset.manifest["splits"]
    assert split_dataset(dataset, SplitPlan()).dataset.manifest["splits"]["ratios"] == DEFAULT_RATIOS


def test_samples_are_read_a_part_at_a_time_and_only_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepared(tmp_path, make_samples(20))
    whole = dataset.table()
    for number in range(4):
        write_table(whole.slice(number * 10, 10), part_file(dataset.layout.samples, number))
    read: list[set[str]] = []
    plain = pq.read_table

    def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
        read.append(set(columns or whole.column_names))
        return plain(path, columns=columns)

    monkeypatch.setattr(pq, "read_table", read_table)
    result = split_dataset(dataset, SplitPlan())
    assert sum(result.counts.values()) == 40
    assert result.labels["train"] == {"safe": 16, "vulnerability": 16}
    together = [columns for columns in read if "code" in columns and columns != set(whole.column_names)]
    assert together == [{"id", "group", "code"}] * len(together)
    assert read.count(set(whole.column_names)) == 4  # each part once, where it is dealt out
    assert not any("metadata" in columns and columns != set(whole.column_names) for columns in read)


def test_ways_cannot_be_combined() -> None:
    with pytest.raises(ConfigError, match="--by-project and --folds"):
        SplitPlan(by_project=True, folds=3)


@pytest.mark.ray
def test_ray_data_writes_the_same_splits(tmp_path: Path, ray_cluster: str) -> None:
    here = split_dataset(prepared(tmp_path, make_samples(20), "a"), SplitPlan())
    there = split_dataset(prepared(tmp_path, make_samples(20), "b"), SplitPlan(), Runner(through_ray=True))
    for name in ("train", "val", "test"):
        assert here.dataset.table(name) == there.dataset.table(name)


@pytest.mark.slow
def test_no_pair_across_splits_is_near_by_brute_force(tmp_path: Path) -> None:
    source, samples = random.Random(3), []
    for number in range(250):
        words = [f"name_{source.randrange(90)}" for _ in range(source.randrange(10, 40))]
        for copy in range(source.randrange(1, 4)):
            label = source.choice(["safe", "vulnerability"])
            samples.append(
                {"id": f"s{number}_{copy}", "code": " ".join([*words, f"own_{number}_{copy}"]), "label": label}
            )
            words[source.randrange(len(words))] = f"name_{source.randrange(90)}"
    for sample in samples[::9]:
        sample["metadata"] = {"group": f"g{source.randrange(12)}"}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"samples": samples}))
    prepare(str(tmp_path / "s.yaml"), tmp_path / "d")
    for plan in (SplitPlan(), SplitPlan(folds=4)):
        dataset = split_dataset(open_dataset(tmp_path / "d"), plan).dataset
        assert sum(dataset.table(name).num_rows for name in dataset.splits()) == dataset.manifest["kept"]
        assert leaks(dataset, 0.8) == []
    prepare(str(tmp_path / "s.yaml"), tmp_path / "e", CleaningSettings(near_duplicates=False))
    assert leaks(split_dataset(open_dataset(tmp_path / "e"), SplitPlan()).dataset, 0.8) != []
