import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_records import BIG_VUL, DEVIGN, DIVERSEVUL, PRIMEVUL, SVEN

from secauditai.config.settings import CleaningSettings
from secauditai.data.prepare import prepare
from secauditai.data.readers import FORMATS, file_stems, find_source, read_file
from secauditai.data.readers.layouts import LAYOUTS, guess_layout
from secauditai.data.readers.trees import TREES
from secauditai.data.schema import SAMPLE_SCHEMA, Broken, Sample, SampleError, parse_sample
from secauditai.errors import DataError


def samples(path: Path, layout: str = "auto") -> list[Sample]:
    return [parse_sample(raw.value) for raw in read_file(path, layout)]


def write_lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_devign(tmp_path: Path) -> None:
    path = tmp_path / "devign.json"
    path.write_text(json.dumps([DEVIGN, {**DEVIGN, "target": 1}]))
    safe, vulnerable = samples(path)
    assert (safe.id, safe.label, vulnerable.label) == ("devign_0", "safe", "vulnerability")
    assert safe.metadata == {"project": "FFmpeg", "commit": "973b1a6b", "language": "c"}


def test_big_vul_pairs_share_a_group(tmp_path: Path) -> None:
    path = tmp_path / "msr.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, BIG_VUL)
        writer.writeheader()
        writer.writerows([BIG_VUL, {**BIG_VUL, "": 8, "vul": 0}])
    before, after, other = samples(path)
    assert [before.id, after.id, other.id] == ["msr_7_before", "msr_7_after", "msr_8"]
    assert [before.label, after.label, other.label] == ["vulnerability", "safe", "safe"]
    assert before.group == after.group == "msr_7"
    assert other.group == ""
    assert before.category == "cwe-362"
    assert after.category == "none"
    assert before.metadata["flaw_lines"] == [3, 4]  # an index counts from 0
    assert "flaw_lines" not in after.metadata
    assert before.metadata["cve"] == "CVE-2011-3638"


def test_primevul_and_its_paired_file(tmp_path: Path) -> None:
    (single,) = samples(write_lines(tmp_path / "primevul_train.jsonl", PRIMEVUL))
    assert (single.id, single.category, single.group) == ("primevul_train_31", "cwe-787", "")
    fixed = {**PRIMEVUL, "idx": 32, "target": 0}
    records = [PRIMEVUL, fixed, {**PRIMEVUL, "idx": 40}, {**fixed, "idx": 41}]
    paired = samples(write_lines(tmp_path / "primevul_train_paired.jsonl", *records))
    assert [sample.group[-1] for sample in paired] == ["0", "0", "1", "1"]
    assert [sample.label for sample in paired] == ["vulnerability", "safe"] * 2


def test_diversevul(tmp_path: Path) -> None:
    (sample,) = samples(write_lines(tmp_path / "diversevul.json", DIVERSEVUL))
    assert (sample.label, sample.metadata["cwe"], sample.category) == ("vulnerability", "CWE-20", "cwe-20")
    assert sample.metadata["cwes"] == ["CWE-20", "CWE-79"]


@pytest.mark.parametrize(
    ("cwe", "first", "all_of_them"),
    [
        (["CWE-787"], "CWE-787", None),
        ("CWE-79", "CWE-79", None),
        ("['CWE-020', 'CWE-79', 'CWE-20']", "CWE-20", ["CWE-20", "CWE-79"]),
        ("NVD-CWE-noinfo", "NVD-CWE-noinfo", None),
    ],
)
def test_all_weaknesses_are_kept(tmp_path: Path, cwe: object, first: str, all_of_them: list[str] | None) -> None:
    (sample,) = samples(write_lines(tmp_path / "d.json", {**DIVERSEVUL, "cwe": cwe}))
    assert (sample.metadata["cwe"], sample.metadata.get("cwes")) == (first, all_of_them)


def test_sven(tmp_path: Path) -> None:
    before, after = samples(write_lines(tmp_path / "cwe-078.jsonl", SVEN))
    assert before.metadata["flaw_lines"] == [2]
    assert before.language == after.language == "python"
    assert before.group == after.group
    assert (before.category, after.category) == ("cwe-78", "none")


@pytest.mark.parametrize("record", [DEVIGN, BIG_VUL, PRIMEVUL, DIVERSEVUL, SVEN])
def test_every_container_carries_every_layout(tmp_path: Path, record: dict[str, Any]) -> None:
    flat = {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in record.items()}
    write_lines(tmp_path / "d.jsonl", flat)
    (tmp_path / "d.json").write_text(json.dumps([flat]))
    pq.write_table(pa.Table.from_pylist([flat]), tmp_path / "d.parquet")
    found = [samples(tmp_path / f"d.{ending}") for ending in ("jsonl", "json", "parquet")]
    assert found[0] == found[1] == found[2]
    assert found[0]


def test_the_layout_can_be_named_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", {"text": "int x;", "y": 1})
    with pytest.raises(DataError, match="no known dataset; their fields are 'text', 'y'"):
        list(read_file(path))
    assert samples(write_lines(tmp_path / "y.jsonl", PRIMEVUL), "devign")[0].label == "vulnerability"
    assert set(FORMATS) == {"auto", *LAYOUTS, *TREES}
    assert set(FORMATS) == set(CleaningSettings.model_fields["data_format"].annotation.__args__)  # type: ignore[union-attr]
    assert guess_layout({"code": "x", "label": "safe"}, path).name == "guide"


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_compressed_files(tmp_path: Path, ending: str) -> None:
    plain = write_lines(tmp_path / "d.jsonl", DEVIGN, {**DEVIGN, "target": 1})
    packed = tmp_path / f"d.jsonl.{ending}"
    with pa.output_stream(str(packed), compression={"gz": "gzip", "zst": "zstd"}[ending]) as out:
        out.write(plain.read_bytes())
    assert samples(packed) == samples(plain)
    yaml_file = tmp_path / f"s.yaml.{ending}"
    with pa.output_stream(str(yaml_file), compression={"gz": "gzip", "zst": "zstd"}[ending]) as out:
        out.write(b"samples:\n  - id: a\n    code: x = 1\n    label: safe\n")
    assert [sample.id for sample in samples(yaml_file)] == ["a"]
    packed.write_bytes(packed.read_bytes()[:40])
    with pytest.raises(DataError, match=r"d\.jsonl"):
        samples(packed)


def test_a_compression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(100):
            file.write(b" " * (1 << 20))
    with pytest.raises(DataError, match="unpacks to more than"):
        list(read_file(path))


def test_a_record_that_lacks_its_fields_is_refused_by_itself(tmp_path: Path) -> None:
    write_lines(
        tmp_path / "d.jsonl",
        DEVIGN,
        {**DEVIGN, "func": None},
        {"other": 1},
        {**DEVIGN, "target": "maybe", "func": "int g;"},
    )
    done = prepare(str(tmp_path / "d.jsonl"), tmp_path / "out", CleaningSettings(max_rejected=1.0))
    assert (done.read, done.kept, done.rejected) == (4, 1, 3)


@pytest.mark.parametrize("metadata", ["", None, "[1]", "no json", '{"cwe": "CWE-79"}', {"cwe": "CWE-79"}])
def test_an_export_of_a_prepared_dataset_may_hold_any_metadata(tmp_path: Path, metadata: object) -> None:
    row = {**dict.fromkeys(SAMPLE_SCHEMA.names, "x"), "label": "safe", "severity": "none", "cluster": "k"}
    path = tmp_path / "s.jsonl"
    path.write_text(json.dumps({**row, "group": "g", "metadata": metadata}))
    (raw,) = read_file(path)
    if metadata in ("[1]", "no json"):
        with pytest.raises(SampleError, match="'metadata' must be a mapping"):
            parse_sample(raw.value)
    else:
        assert parse_sample(raw.value).group == "g"


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "0.0", "False", " 0 "])
def test_labels_may_be_numbers_texts_or_booleans(tmp_path: Path, value: object) -> None:
    bad = {"0": "1", "0.0": "1.0", " 0 ": " 1 ", "False": "True"}[value] if isinstance(value, str) else type(value)(1)
    (safe,) = samples(write_lines(tmp_path / "d.jsonl", {**DEVIGN, "target": value}))
    (vulnerable,) = samples(write_lines(tmp_path / "d.jsonl", {**DEVIGN, "target": bad}))
    assert (safe.label, vulnerable.label) == ("safe", "vulnerability")
    (unchanged,) = samples(write_lines(tmp_path / "b.jsonl", {**BIG_VUL, "vul": value}))
    pair = samples(write_lines(tmp_path / "b.jsonl", {**BIG_VUL, "vul": bad}))
    assert [sample.label for sample in (unchanged, *pair)] == ["safe", "vulnerability", "safe"]


def test_labels_of_tables_written_as_floats(tmp_path: Path) -> None:
    path = tmp_path / "devign.csv"
    path.write_text("func,target\nint f;,1.0\nint g;,0.0\n")
    assert [sample.label for sample in samples(path)] == ["vulnerability", "safe"]


@pytest.mark.parametrize("value", [2, "0.5", "10", None, "maybe"])
def test_other_labels_are_refused(tmp_path: Path, value: object) -> None:
    for record in ({**DEVIGN, "target": value}, {**BIG_VUL, "vul": value}):
        with pytest.raises(SampleError, match="'label'"):
            samples(write_lines(tmp_path / "d.jsonl", record))


def test_files_of_one_name_in_several_directories_are_told_apart(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cwe-078", "val/cwe-078", "val/cwe-089")):
        sides = {"func_src_before": f"def run(c):\n    os.system(c, {number})\n", "func_src_after": f"run = {number}\n"}
        (tmp_path / "sven" / name).parent.mkdir(parents=True, exist_ok=True)
        write_lines(tmp_path / "sven" / f"{name}.jsonl", {**SVEN, **sides})
    done = prepare(str(tmp_path / "sven"), tmp_path / "out", CleaningSettings(near_duplicates=False))
    assert (done.read, done.rejected) == (6, 0)
    rows = done.dataset.table().to_pylist()
    assert {row["group"] for row in rows} == {"train/cwe-078_0", "val/cwe-078_0", "cwe-089_0"}
    assert {row["id"] for row in rows} >= {"train/cwe-078_0_before", "val/cwe-078_0_after", "cwe-089_0_after"}


def test_stems_are_as_short_as_they_can_be() -> None:
    names = ["d/a.jsonl", "d/x/b.json", "d/y/b.json.gz", "d/y/c.v1.json", "d/y/c.v2.json"]
    assert list(file_stems(map(Path, names)).values()) == ["a", "x/b", "y/b", "y/c.v1.json", "y/c.v2.json"]
    assert file_stems([Path("b.x.json")]) == {Path("b.x.json"): "b"}
    assert file_stems([Path("b.json"), Path("x/b.json")]) == {Path("b.json"): "b", Path("x/b.json"): "x/b"}


@pytest.mark.parametrize("empty", ["", " \n", None, float("nan")])
def test_a_pair_without_code_is_refused_and_not_lost(tmp_path: Path, empty: object) -> None:
    for record in (
        {**SVEN, "func_src_before": empty, "func_src_after": empty},
        {**BIG_VUL, "func_before": empty, "func_after": empty},
    ):
        (raw,) = read_file(write_lines(tmp_path / "d.jsonl", record))
        with pytest.raises(SampleError) as refused:
            parse_sample(raw.value)
        assert refused.value.reason == "no_code"
    (after,) = samples(write_lines(tmp_path / "d.jsonl", {**SVEN, "func_src_before": empty}))
    assert after.label == "safe"


def test_code_of_a_pair_that_is_no_text_is_refused(tmp_path: Path) -> None:
    before, after = read_file(write_lines(tmp_path / "d.jsonl", {**SVEN, "func_src_before": 5}))
    with pytest.raises(SampleError, match="'code' must be a string"):
        parse_sample(before.value)
    assert parse_sample(after.value).label == "safe"


def test_a_broken_first_record_does_not_fix_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "msr.csv"
    path.write_text("func_before,func_after,vul\nint f(a, b),int f(c),1\nint g;,int g;,0\n")
    broken, good = read_file(path)
    assert isinstance(broken.value, Broken)
    assert parse_sample(good.value).id == "msr_1"
    lines = tmp_path / "d.jsonl"
    lines.write_text(f"[1]\n{json.dumps(DEVIGN)}\n")
    assert [isinstance(raw.value, dict) for raw in read_file(lines)] == [False, True]


def test_a_layout_of_records_does_not_apply_to_yaml(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("samples:\n  - {id: a, code: x, label: safe}\n")
    assert len(samples(path, "guide")) == 1
    for read in (lambda: find_source(str(tmp_path), "devign"), lambda: samples(path, "devign")):
        with pytest.raises(DataError, match="--format devign does not apply to YAML"):
            read()


def test_line_changes_that_list_nothing_give_no_flaw_lines(tmp_path: Path) -> None:
    record = {**SVEN, "line_changes": {"deleted": 5}}
    before, _ = samples(write_lines(tmp_path / "sven.jsonl", record))
    assert before.metadata["flaw_lines"] == []
