import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from secauditai.config.settings import CleaningSettings
from secauditai.data.assign import Member
from secauditai.data.dataset import Dataset, open_dataset
from secauditai.data.extend import Home, Homes, extend_assignment
from secauditai.data.prepare import prepare
from secauditai.data.split import DEFAULT_RATIOS, Split, SplitPlan, split_dataset
from secauditai.data.validate import validate
from secauditai.errors import DataError

pytestmark = pytest.mark.slow

Raw = dict[str, Any]


def prepared(directory: Path, samples: list[Raw], name: str) -> Dataset:
    (directory / f"{name}.yaml").write_text(yaml.safe_dump({"samples": samples}))
    return prepare(str(directory / f"{name}.yaml"), directory / name).dataset


def alone(count: int, start: int = 0) -> list[Raw]:
    """Samples without a group, none near another."""
    return [
        {
            "id": f"s{number:03d}",
            "code": " ".join(f"name_{number}_{word}" for word in range(12)),
            "label": ("safe", "vulnerability")[number % 2],
        }
        for number in range(start, start + count)
    ]


@pytest.fixture
def old(tmp_path: Path) -> Dataset:
    return split_dataset(prepared(tmp_path, alone(60), "old"), SplitPlan()).dataset


def ids_of(dataset: Dataset, split: str) -> list[str]:
    found: list[str] = dataset.table(split).column("id").to_pylist()
    return found


def split_by_code(dataset: Dataset) -> dict[str, str]:
    return {code: name for name in dataset.splits() for code in dataset.table(name).column("code").to_pylist()}


def sample_of(dataset: Dataset, split: str, place: int = 0) -> Raw:
    row = dataset.table(split).slice(place, 1).to_pylist()[0]
    return {name: row[name] for name in ("id", "code", "label")}


def manifest_agrees(result: Split) -> None:
    """The manifest says what the written files hold, and nothing vanished."""
    dataset, manifest = result.dataset, result.dataset.manifest
    table = dataset.table()
    assert manifest["read"] == manifest["kept"] + manifest["rejected"] + manifest["duplicates"]
    assert sum(result.counts.values()) == manifest["kept"] == table.num_rows
    assert len(manifest["merged"]) == manifest["duplicates"]
    for key, column in (("labels", "label"), ("categories", "category"), ("languages", "language")):
        assert manifest[key] == Counter(table.column(column).to_pylist())
    sizes = Counter(table.column("cluster").to_pylist()).values()
    alone_count = sum(size == 1 for size in sizes)
    assert manifest["clusters"] == {"count": len(sizes), "largest": max(sizes), "alone": alone_count}
    lines = [json.loads(line) for line in dataset.layout.rejected.read_text().splitlines()]
    assert manifest["rejected_reasons"] == Counter(line["reason"] for line in lines)
    assert validate(str(dataset.root)).ok


def test_old_code_under_new_ids_stays_in_its_split(tmp_path: Path, old: Dataset) -> None:
    again = [{**sample, "id": f"a_{sample['id']}"} for sample in alone(60)]
    result = split_dataset(prepared(tmp_path, [*alone(60), *again, *alone(20, 100)], "grown"), SplitPlan(extend=old))
    assert all(name.startswith(("a_", "s1")) for name in ids_of(result.dataset, "test"))
    assert split_by_code(old).items() <= split_by_code(result.dataset).items()
    assert not any("are not in this dataset" in told for told in result.warnings)
    manifest_agrees(result)


def test_code_counts_for_more_than_an_id_that_was_given_anew(tmp_path: Path, old: Dataset) -> None:
    shifted = [{**sample, "id": f"s{number:03d}"} for number, sample in enumerate([*alone(3, 100), *alone(60)])]
    result = split_dataset(prepared(tmp_path, shifted, "grown"), SplitPlan(extend=old))
    assert split_by_code(old).items() <= split_by_code(result.dataset).items()


def test_edited_code_stays_by_its_id_and_what_is_gone_is_told(tmp_path: Path, old: Dataset) -> None:
    edited = {**sample_of(old, "test"), "code": "all(of, this) + was[written].anew"}
    left = [sample for sample in alone(60) if sample["id"] != edited["id"]][1:]
    result = split_dataset(prepared(tmp_path, [*left, edited], "grown"), SplitPlan(extend=old))
    assert edited["id"] in ids_of(result.dataset, "test")
    assert any(told.startswith("1 samples of ") for told in result.warnings)


def test_old_splits_stay_though_their_ratio_is_0(tmp_path: Path, old: Dataset) -> None:
    ratios = {"train": 0.9, "val": 0.0, "test": 0.1}
    result = split_dataset(prepared(tmp_path, alone(90), "grown"), SplitPlan(ratios, extend=old))
    assert ids_of(result.dataset, "val") == ids_of(old, "val")
    assert result.dataset.splits() == ("train", "val", "test")
    assert result.drift["val"] > 0
    manifest_agrees(result)


def test_samples_that_are_in_no_split_are_noticed(
    tmp_path: Path, old: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = prepared(tmp_path, alone(60), "again")
    monkeypatch.setattr(SplitPlan, "names", ["train", "val"])
    with pytest.raises(DataError, match=r"60 samples are kept, but 54 are in its splits \(train, val\)"):
        split_dataset(dataset, SplitPlan(extend=old))
    assert not open_dataset(tmp_path / "again").splits()


@pytest.mark.parametrize("name", ["z_new", "a_new"])
def test_a_duplicate_whose_group_joins_two_splits_is_a_bridge(tmp_path: Path, old: Dataset, name: str) -> None:
    trained, tested = sample_of(old, "train"), sample_of(old, "test")
    grown = [{**s, "metadata": {"group": "g"}} if s["id"] == tested["id"] else s for s in alone(70)]
    grown += [{**trained, "id": name, "metadata": {"group": "g"}}]
    follower = {"id": "follower", "code": "x = [1, 2, 3]", "label": "safe", "metadata": {"group": "g"}}
    result = split_dataset(prepared(tmp_path, [*grown, follower], "grown"), SplitPlan(extend=old))
    assert split_by_code(old).items() <= split_by_code(result.dataset).items()
    lines = [json.loads(line) for line in result.dataset.layout.rejected.read_text().splitlines()]
    refused = {"z_new", "follower"} if name == "z_new" else {"follower"}
    assert {line["id"]: line["reason"] for line in lines} == dict.fromkeys(refused, "bridge")
    assert result.bridges == len(refused)
    kept = {row["code"]: row for row in result.dataset.table().to_pylist()}
    assert kept[trained["code"]]["group"] == ""
    assert kept[trained["code"]]["cluster"] != kept[tested["code"]]["cluster"]
    assert any("a group of several splits" in told for told in result.warnings)
    manifest_agrees(result)
    once_more = prepared(tmp_path, [*grown, follower, *alone(10, 200)], "more")
    next_one = split_dataset(once_more, SplitPlan(extend=result.dataset))
    assert split_by_code(old).items() <= split_by_code(next_one.dataset).items()
    assert next_one.bridges == len(refused)


def test_the_manifest_is_of_what_is_kept_and_bridges_add_up(tmp_path: Path, old: Dataset) -> None:
    other = split_dataset(prepared(tmp_path, alone(60, 500), "other"), SplitPlan()).dataset
    grouped = {sample_of(old, split)["id"]: "g" for split in ("train", "test")}
    grouped |= {sample_of(other, split)["id"]: "h" for split in ("train", "test")}
    grown = [*alone(70), *(sample for sample in alone(60, 500) if sample["id"] in grouped)]
    grown = [{**s, "metadata": {"group": grouped[s["id"]]}} if s["id"] in grouped else s for s in grown]
    code = "def bridge(request):\n    return request\n"
    grown.append({"id": "b1", "code": code, "label": "safe", "category": "odd", "metadata": {"group": "g"}})
    grown.append({"id": "b2", "code": "x = [1, 2, 3]", "label": "safe", "metadata": {"group": "h"}})
    dataset = prepared(tmp_path, grown, "grown")
    assert dataset.manifest["changed"]["language_detected"] == 2
    first = split_dataset(dataset, SplitPlan(extend=old))
    assert "odd" not in first.dataset.manifest["categories"]
    assert first.dataset.manifest["changed"]["language_detected"] == 1
    manifest_agrees(first)
    second = split_dataset(first.dataset, SplitPlan(extend=other))
    assert (first.bridges, second.bridges) == (1, 1)
    assert second.dataset.manifest["rejected_reasons"] == {"bridge": 2}
    assert second.dataset.manifest["changed"]["language_detected"] == 0
    manifest_agrees(second)


def test_what_straddles_all_the_same_is_named(tmp_path: Path) -> None:
    words = [f"name_{word}" for word in range(12)]
    near = [{"id": f"s{n:02d}", "code": " ".join([*words, f"own_{n}"]), "label": "safe"} for n in range(30)]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"samples": near}))
    apart = prepare(str(tmp_path / "s.yaml"), tmp_path / "old", CleaningSettings(near_duplicates=False)).dataset
    old = split_dataset(apart, SplitPlan()).dataset
    with pytest.raises(DataError, match=r"one has s\d\d in train and s\d\d in val .*take one of these samples out"):
        split_dataset(prepared(tmp_path, near, "new"), SplitPlan(extend=old))


def test_edited_code_that_joins_two_splits_is_a_bridge() -> None:
    homes = Homes({"t": Home("train", "", b"t"), "s": Home("test", "", b"s")})
    homes.by_code = {home.code: home for home in homes.by_id.values()}
    members = [Member("t", "s", "", "{}", code=b"new"), Member("s", "s", "", "{}", code=b"s")]
    found = extend_assignment(members, homes, DEFAULT_RATIOS, 0)
    assert found.split_of == {"s": "test"}
    assert found.bridges == {"t": "its cluster s has samples in test and train"}
