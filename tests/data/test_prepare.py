import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
import yaml
from conftest import make_samples
from hypothesis import given
from hypothesis import strategies as st

from secauditai.config.settings import CleaningSettings
from secauditai.data.dataset import is_dataset, open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.replacing import replacing
from secauditai.data.sources import open_data
from secauditai.data.split import SplitPlan, split_dataset
from secauditai.data.validate import validate
from secauditai.errors import DataError

Write = Callable[..., Path]
LENIENT = CleaningSettings(max_rejected=0.5)


def write(path: Path, samples: list[dict[str, object]]) -> Path:
    path.write_text(yaml.safe_dump({"samples": samples}), encoding="utf-8")
    return path


def test_nothing_vanishes(tmp_path: Path) -> None:
    samples = make_samples(10)
    extra = [
        samples[0],
        {**samples[1], "id": "copy"},
        {**samples[2], "code": "other()\n"},
        {"id": "broken", "label": "safe"},
        {**samples[4], "id": "conflict", "label": "safe", "metadata": {}},
    ]
    done = prepare(str(write(tmp_path / "s.yaml", samples + extra)), tmp_path / "out", LENIENT)
    assert (done.read, done.kept, done.rejected, done.duplicates) == (25, 19, 4, 2)
    assert done.read == done.kept + done.rejected + done.duplicates
    rejected = [json.loads(line) for line in done.dataset.layout.rejected.read_text().splitlines()]
    assert sorted(row["reason"] for row in rejected) == ["conflict", "conflict", "duplicate_id", "no_code"]
    assert all(row["where"].startswith(f"{tmp_path}/s.yaml:") for row in rejected)
    assert done.dataset.manifest["merged"][0]["into"] == "sample_0_v"


@pytest.mark.parametrize("turned", [False, True])
def test_an_id_whose_code_has_both_labels_is_a_conflict_in_any_order(tmp_path: Path, turned: bool) -> None:
    samples = make_samples(10)
    torn = [{"id": "d", "code": "p(1)", "label": label} for label in ("safe", "vulnerability")]
    extra = torn[::-1] if turned else torn
    for policy in ("drop", "keep", "majority"):
        settings = CleaningSettings(conflicts=policy, max_rejected=0.5)
        done = prepare(str(write(tmp_path / f"{policy}.yaml", samples + extra)), tmp_path / policy, settings)
        assert (done.read, done.kept, done.rejected, done.duplicates) == (22, 20, 2, 0)
        rejected = [json.loads(line) for line in done.dataset.layout.rejected.read_text().splitlines()]
        assert [(row["id"], row["reason"]) for row in rejected] == [("d", "conflict")] * 2


@pytest.mark.parametrize(
    ("policy", "kept", "refused"), [("drop", [], "abc"), ("majority", ["a"], "c"), ("keep", ["a", "c"], "")]
)
def test_code_with_both_labels(tmp_path: Path, policy: str, kept: list[str], refused: str) -> None:
    """Of three samples of the same code, two are vulnerable; `b` is merged into `a` where that is kept."""
    torn = [
        {"id": name, "code": "p(1)", "label": label}
        for name, label in (("a", "vulnerability"), ("b", "vulnerability"), ("c", "safe"))
    ]
    settings = CleaningSettings(conflicts=policy, max_rejected=0.5, near_duplicates=False)
    done = prepare(str(write(tmp_path / "s.yaml", [*make_samples(4), *torn])), tmp_path / "out", settings)
    assert done.read == done.kept + done.rejected + done.duplicates == 11
    table = done.dataset.table()
    clusters = dict(zip(table.column("id").to_pylist(), table.column("cluster").to_pylist(), strict=True))
    assert [name for name in "abc" if name in clusters] == kept
    assert done.dataset.manifest["conflicts_kept"] == (2 if policy == "keep" else 0)
    assert {clusters[name] for name in kept} <= {"a"}  # equal code stays together
    rejected = [json.loads(line) for line in done.dataset.layout.rejected.read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rejected] == [(name, "conflict") for name in refused]


@pytest.mark.slow
@hypothesis.settings(max_examples=20)
@given(st.permutations(make_samples(4) + make_samples(2)))
def test_the_content_does_not_depend_on_order(
    tmp_path_factory: pytest.TempPathFactory, order: list[dict[str, object]]
) -> None:
    root = tmp_path_factory.mktemp("o")
    done = prepare(str(write(root / "s.yaml", order)), root / "out")
    assert done.read == done.kept + done.rejected + done.duplicates
    assert done.dataset.table().column("id").to_pylist() == sorted(str(sample["id"]) for sample in make_samples(4))
    whole = prepare(str(write(root / "t.yaml", make_samples(4))), root / "whole").dataset
    assert done.dataset.content_hash == whole.content_hash
    assert done.dataset.table() == whole.table()


def test_a_bug_and_its_fix_in_one_group_are_no_conflict(tmp_path: Path) -> None:
    pair = make_samples(1)
    same = [{**sample, "code": "x = 1\n"} for sample in pair]
    assert prepare(str(write(tmp_path / "s.yaml", same + make_samples(3, start=5))), tmp_path / "out").rejected == 0


def test_merged_duplicates_join_their_groups(tmp_path: Path) -> None:
    samples = make_samples(3)
    samples[2]["code"] = samples[0]["code"]
    done = prepare(str(write(tmp_path / "s.yaml", samples)), tmp_path / "out")
    groups = dict(zip(done.dataset.table()["id"].to_pylist(), done.dataset.table()["group"].to_pylist(), strict=True))
    assert groups["sample_0_v"] == groups["sample_0_s"] == groups["sample_1_s"] != groups["sample_2_s"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_sample_that_stands_twice_is_in_the_groups_of_both(tmp_path: Path, turned: bool) -> None:
    twice = [{"id": "a", "code": "p(1)", "label": "safe", "metadata": {"group": group}} for group in ("g", "h")]
    once = {"id": "b", "code": "q(2)", "label": "safe"}
    more = [{**once, "metadata": {"group": "k"}}, once]  # only one of the two has a group
    others = [{"id": group, "code": f"{group} = 1", "label": "safe", "metadata": {"group": group}} for group in "ghk"]
    samples = [*twice, *more, *others]
    done = prepare(str(write(tmp_path / "s.yaml", samples[::-1] if turned else samples)), tmp_path / "out")
    assert (done.read, done.kept, done.duplicates) == (7, 5, 2)
    table = done.dataset.table()
    groups = dict(zip(table["id"].to_pylist(), table["group"].to_pylist(), strict=True))
    assert groups == {"a": "g", "g": "g", "h": "g", "b": "k", "k": "k"}


@pytest.mark.ray
def test_ray_data_and_this_process_prepare_the_same(samples_yaml: Write, tmp_path: Path, ray_cluster: str) -> None:
    samples_yaml(5, "in/a.yaml")
    samples_yaml(7, "in/b.yaml", start=5)
    here = prepare(str(tmp_path / "in"), tmp_path / "here")
    there = prepare(str(tmp_path / "in"), tmp_path / "there", ray_data_min_mb=0)
    assert (here.through_ray, there.through_ray) == (False, True)
    assert here.dataset.content_hash == there.dataset.content_hash
    assert here.dataset.manifest["merged"] == there.dataset.manifest["merged"]
    (tmp_path / "in" / "c.yaml").write_text("samples: 3\n")
    with pytest.raises(DataError, match=r"c\.yaml:1"):
        prepare(str(tmp_path / "in"), tmp_path / "broken", ray_data_min_mb=0)


def test_too_many_rejections_leave_no_output_but_a_list(samples_yaml: Write, tmp_path: Path) -> None:
    bad: list[dict[str, object]] = [{"id": f"bad_{i}", "label": "safe"} for i in range(5)]
    path = write(tmp_path / "s.yaml", make_samples(10) + bad)
    with pytest.raises(DataError, match="5 of 25 samples are refused"):
        prepare(str(path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len((tmp_path / "out.rejected.jsonl").read_text().splitlines()) == 5


def test_a_list_of_refused_samples_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "out.rejected.jsonl"
    bad: list[dict[str, object]] = [{"id": f"bad_{i}", "label": "safe"} for i in range(5)]
    path = write(tmp_path / "s.yaml", bad)
    with pytest.raises(DataError, match="5 of 5 samples are refused"):
        prepare(str(path), tmp_path / "out")
    before = listing.read_text()
    written = iter([{"id": "bad_0"}])

    def disk_is_full(_: object) -> dict[str, str]:
        for row in written:
            return row
        raise OSError(28, "full")

    monkeypatch.setattr("secauditai.data.prepare.asdict", disk_is_full)
    with pytest.raises(OSError, match="full"):
        prepare(str(path), tmp_path / "out")
    assert listing.read_text() == before
    assert sorted(tmp_path.iterdir()) == [listing, path]


def test_an_occupied_output_is_not_touched(samples_yaml: Write, tmp_path: Path) -> None:
    other = tmp_path / "out"
    other.mkdir()
    (other / "precious").write_text("x")
    with pytest.raises(DataError, match="not a dataset of ours"):
        prepare(str(samples_yaml()), other, overwrite=True)
    assert (other / "precious").read_text() == "x"
    prepare(str(samples_yaml()), tmp_path / "ours")
    with pytest.raises(DataError, match="--overwrite"):
        prepare(str(samples_yaml()), tmp_path / "ours")
    assert prepare(str(samples_yaml(5)), tmp_path / "ours", overwrite=True).kept == 10


def test_damage_is_noticed(samples_yaml: Write, tmp_path: Path) -> None:
    done = prepare(str(samples_yaml()), tmp_path / "out")
    with next(done.dataset.layout.samples.iterdir()).open("r+b") as file:
        file.seek(100)
        file.write(b"\x00\x01")
    with pytest.raises(DataError, match="differs from its manifest"):
        open_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"files": []}, "damaged manifest: 'files' is no dict"),
        ({"cleaning": None}, "damaged manifest: 'cleaning' is no dict"),
        ({"files": {"samples": {}}}, "samples differs from its manifest"),
        ({"files": {}}, r"samples/part-00000\.parquet is not in its manifest"),
        ("[" * 100_000, "damaged manifest: maximum recursion depth"),
    ],
)
def test_a_manifest_that_does_not_fit_is_damage(
    samples_yaml: Write, tmp_path: Path, change: dict[str, object] | str, words: str
) -> None:
    layout = prepare(str(samples_yaml()), tmp_path / "out").dataset.layout
    text = change if isinstance(change, str) else json.dumps(json.loads(layout.manifest.read_text()) | change)
    layout.manifest.write_text(text)
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path / "out")


@pytest.mark.slow
def test_killing_prepare_leaves_no_half_output(samples_yaml: Write, tmp_path: Path) -> None:
    path = samples_yaml(400)
    arguments = ["train", "prepare", "--dataset", str(path), "--output", "out"]
    command = [sys.executable, "-c", "from secauditai.cli.app import main; main()", *arguments]
    for delay in (0.3, 0.6, 0.8, 1.0):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        process.kill()
        process.wait()
        assert not (tmp_path / "out").exists() or open_dataset(tmp_path / "out").manifest["kept"] == 800


def test_validate_names_place_and_sample(tmp_path: Path) -> None:
    samples = make_samples(2)
    samples[1]["label"] = "maybe"
    result = validate(str(write(tmp_path / "s.yaml", samples)))
    assert not result.ok
    finding = next(item for item in result.findings if item.reason == "bad_label")
    line = (tmp_path / "s.yaml").read_text()[: (tmp_path / "s.yaml").read_text().index("maybe")].count("- category")
    assert (finding.id, line) == ("sample_0_s", 2)
    assert finding.where.startswith(f"{tmp_path}/s.yaml:")


@pytest.mark.slow
def test_open_data_takes_every_way_to_name_data(
    samples_yaml: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    path = samples_yaml(20, "task_data.yaml")
    raw = open_data(str(path), cache=cache, split=True)
    assert raw.splits() == ("train", "val", "test")
    assert open_data("task_data", cache=cache, split=True).content_hash == raw.content_hash
    prepare(str(path), tmp_path / "prepared")
    unsplit = open_data("prepared", cache=cache, split=True)
    assert unsplit.root.is_relative_to(cache)
    assert not open_dataset(tmp_path / "prepared").splits()
    alone = CleaningSettings(near_duplicates=False)
    prepare("task_data", tmp_path / "alone", alone)  # a name without its ending, as everywhere
    other = open_data("alone", cache=cache, split=True)
    assert other.content_hash == unsplit.content_hash
    assert other.root != unsplit.root  # clusters are no part of the content, and splits follow them
    one = open_data(str(raw.root / "test"), cache=cache)
    assert one.table().num_rows == raw.table("test").num_rows
    assert is_dataset(open_data("security_dataset", cache=cache).root)
    with pytest.raises(DataError, match="does not exist"):
        open_data("nowhere", cache=cache)
    assert any((cache / "datasets").iterdir())


def test_every_change_is_counted(tmp_path: Path) -> None:
    codes = {
        "plain": "def f(x):\n    return x\n",
        "ends": "def g(x):\r\n    return x + 1\r\n",
        "form": "def h(x):\n    return 'e\u0301'\n",
        "note": "def i(x):\n    return x * 5  # note\n",
    }
    samples = [{"id": name, "code": code, "label": "safe"} for name, code in codes.items()]
    samples.append({"id": "known", "code": "int k(void) { return 3; }", "label": "safe", "metadata": {"language": "c"}})
    (tmp_path / "s.json").write_text(json.dumps(samples))
    done = prepare(str(tmp_path / "s.json"), tmp_path / "d", CleaningSettings(strip_comments=True))
    changed = done.dataset.manifest["changed"]
    assert changed == {"line_ends": 1, "unicode": 1, "comments_stripped": 1, "language_detected": 4}


def test_a_prepared_dataset_and_its_splits_can_be_prepared_again(tmp_path: Path) -> None:
    again = {**make_samples(1)[0], "id": "z_copy", "metadata": {"group": "other"}}  # merging joins two groups
    first = prepare(str(write(tmp_path / "s.yaml", [*make_samples(20), again])), tmp_path / "first").dataset
    second = prepare(str(first.root), tmp_path / "second").dataset
    assert second.table().drop_columns("metadata") == first.table().drop_columns("metadata")
    assert prepare(str(second.root), tmp_path / "third").dataset.content_hash == second.content_hash
    split = split_dataset(first, SplitPlan())
    part = prepare(str(first.root / "test"), tmp_path / "part")
    assert part.kept == split.counts["test"]
    assert prepare(str(first.root), first.root, overwrite=True).dataset.content_hash == second.content_hash


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    odd = {**make_samples(1)[0], "id": "\ud800", "metadata": {}}
    more = {**make_samples(1)[1], "id": "odd", "metadata": {"x": "\ud800"}}
    (tmp_path / "s.json").write_text(json.dumps([*make_samples(9), odd, more]))
    done = prepare(str(tmp_path / "s.json"), tmp_path / "out", LENIENT)
    rejected = [json.loads(line) for line in done.dataset.layout.rejected.read_text().splitlines()]
    assert [(row["id"], row["reason"]) for row in rejected] == [("?", "bad_id"), ("odd", "bad_metadata")]


@pytest.mark.parametrize("depth", [400, 600, 900])
def test_deeply_nested_metadata_is_stored_or_refused(tmp_path: Path, depth: int) -> None:
    lines = [json.dumps(sample) for sample in make_samples(4)]
    nested = "[" * depth + "]" * depth
    lines.append(f'{{"id": "deep", "code": "x = 1", "label": "safe", "metadata": {{"x": {nested}}}}}')
    (tmp_path / "s.jsonl").write_text("\n".join(lines))
    done = prepare(str(tmp_path / "s.jsonl"), tmp_path / "out", LENIENT)
    rejected = [json.loads(line) for line in done.dataset.layout.rejected.read_text().splitlines()]
    assert done.read == 9
    assert [(row["id"], row["reason"]) for row in rejected] in ([], [("deep", "bad_metadata")])


def test_an_output_that_came_to_be_meanwhile_stays(tmp_path: Path) -> None:
    output = tmp_path / "out"

    def write_late() -> None:
        with replacing(output, overwrite=False) as partial:
            (partial / "late").touch()
            output.mkdir()
            (output / "early").touch()

    with pytest.raises(DataError, match="the output exists"):
        write_late()
    assert [path.name for path in output.iterdir()] == ["early"]
    with replacing(output) as partial:
        (partial / "last").touch()
    assert [path.name for path in output.iterdir()] == ["last"]
    assert list(tmp_path.iterdir()) == [output]


def test_an_interrupt_between_two_renames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").touch()
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), replacing(output) as partial:
        (partial / "new").touch()
    assert [path.name for path in output.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", make_samples(2))
    with pytest.raises(DataError, match="below: cannot be written"):
        prepare(str(path), path / "below")
