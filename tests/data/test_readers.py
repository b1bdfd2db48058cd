import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from secauditai.data.readers import find_source, list_files, read_file
from secauditai.data.readers.yaml_events import read_yaml_samples
from secauditai.data.remote import below_prefix
from secauditai.data.schema import Broken, SampleError, parse_sample
from secauditai.errors import DataError, SecAuditError

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz_", max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.sampled_from(["id", "code", "label", "metadata"]), VALUES), max_size=4))
def test_events_give_what_safe_load_gives(tmp_path_factory: pytest.TempPathFactory, samples: list[object]) -> None:
    path = tmp_path_factory.mktemp("y") / "s.yaml"
    path.write_text(yaml.safe_dump({"before": 1, "samples": samples}, allow_unicode=True), encoding="utf-8")
    assert [value for _, value in read_yaml_samples(path)] == yaml.safe_load(path.read_text(encoding="utf-8"))[
        "samples"
    ]


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_garbage_is_an_error_or_samples_but_never_a_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    for ending in (".yaml", ".json", ".jsonl", ".csv", ".parquet"):
        path = tmp_path_factory.mktemp("g") / f"s{ending}"
        path.write_bytes(data)
        try:
            list(read_file(path))
        except SecAuditError as error:
            assert str(path) in str(error)


@given(st.data())
def test_mutated_yaml_is_an_error_or_samples(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = "samples:\n  - id: a\n    code: |\n      x = 1\n    label: safe\n    metadata: {k: [1, 2]}\n  - id: b\n    code: 'q'\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from(list("\t\n:-{}[]&*!|>'\"#%@`,? \x00é")))
            + text[at + data.draw(st.integers(0, 2)) :]
        )
    path = tmp_path_factory.mktemp("m") / "s.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        list(read_file(path))
    except SecAuditError as error:
        assert str(path) in str(error)


def test_samples_know_their_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("# comment\nsamples:\n  - id: a\n    code: |\n      x\n  - id: b\n---\n- id: c\n")
    assert [raw.where for raw in read_file(path)] == [f"{path}:3", f"{path}:6", f"{path}:8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("samples:\n", "must be a list"),
        ("samples: {a: 1}\n", "not a mapping"),
        ("other: 1\n", "missing"),
        ("just text\n", "no `samples:`"),
        ("samples:\n\t- id: a\n", "tabs"),
        ("samples:\n  - !!python/object/apply:os.system [id]\n", "is not allowed"),
        ("samples:\n  - *nowhere\n", "s.yaml:2"),
        ("samples:\n  - id: [a\n", "s.yaml:"),
    ],
)
def test_unreadable_yaml_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_file(path))


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines) + "\nsamples: []\n")
    with pytest.raises(DataError, match="aliases stand for more"):
        list(read_file(path))


def test_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_bytes(b"samples:\n  - id: a\n    code: \xff\xfe\n")
    with pytest.raises(DataError, match=r"s\.yaml:3: not UTF-8"):
        list(read_file(path))
    sample = b'{"id": "a", "code": "x", "label": "safe"}'
    for name, text in (
        ("s.json", b"[" + sample + b",\n\n" + sample.replace(b"x", b"d\xe9j\xe0") + b"]"),
        ("s.jsonl", sample + b"\n\n" + sample.replace(b"x", b"\xe9")),
        ("s.csv", b'id,code,label\na,"\n\xe9",safe\n'),
        ("s.csv.gz", gzip.compress(b"id,code,label\na,x,safe\nb,\xe9,safe\n")),
    ):
        (tmp_path / name).write_bytes(text)
        with pytest.raises(DataError, match=rf"{name}:3: not UTF-8 text \(byte 0xe9\)"):
            list(read_file(tmp_path / name))


def test_all_formats_give_the_same_samples(tmp_path: Path) -> None:
    sample = {
        "id": "a",
        "code": "x = 1\n",
        "label": "safe",
        "severity": "none",
        "category": "none",
        "metadata": {"language": "c"},
    }
    (tmp_path / "a.yaml").write_text(yaml.safe_dump([sample]))
    (tmp_path / "a.json").write_text(json.dumps({"samples": [sample]}))
    (tmp_path / "a.jsonl").write_text(json.dumps(sample) + "\n\n")
    (tmp_path / "a.csv").write_text('id,code,label,severity,category,language\na,"x = 1\n",safe,none,none,c\n')
    flat = {key: [value] for key, value in sample.items() if key != "metadata"} | {"language": ["c"]}
    pq.write_table(pa.table(flat), tmp_path / "a.parquet")
    files = list_files(str(tmp_path))
    assert len(files) == 5
    assert [parse_sample(raw.value) for path in files for raw in read_file(path)] == [parse_sample(sample)] * 5


def test_directories_do_not_follow_links_out(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside.yaml", tmp_path / "in"
    outside.write_text("samples: []")
    inside.mkdir()
    (inside / "a.yaml").write_text("samples: []")
    (inside / "b.yaml").symlink_to(outside)
    assert list_files(str(inside)) == [inside / "a.yaml"]


@pytest.mark.parametrize(
    ("spec", "message"), [("nothing.yaml", "does not exist"), ("*.yaml", "no data files"), ("a.txt", "kind of file")]
)
def test_missing_data_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=message):
        list_files(spec)


def test_hidden_files_prepared_data_and_loops_of_links_are_passed_over(tmp_path: Path) -> None:
    refused, prepared = "out.rejected.jsonl", ("out/samples/part-0.parquet", "out/manifest.json")
    for name in ("a.yaml", ".git/b.yaml", *prepared, "deep/c.yaml", refused):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("samples: []")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    assert list_files(str(tmp_path)) == [tmp_path / "a.yaml", tmp_path / "deep" / "c.yaml"]
    paths = [str(path) for path in tmp_path.rglob("*") if path.is_file()]
    assert below_prefix(paths, str(tmp_path)) == {str(tmp_path / "a.yaml"), str(tmp_path / "deep" / "c.yaml")}
    assert below_prefix(paths, str(tmp_path / "out")) == {str(tmp_path / "out" / "samples" / "part-0.parquet")}
    assert below_prefix(["b/in//a.yaml", "b/in/.x/a.csv"], "b/in") == {"b/in//a.yaml"}


def test_a_directory_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.yaml", "locked/b.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("samples: []")
    real = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match="locked: cannot be read: Permission denied"):
        list_files(str(tmp_path))


def test_a_file_that_a_glob_matches_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "s.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("samples: []")
    assert list_files(f"{tmp_path}/**/**/*.yaml") == [path]


def test_a_sample_with_a_key_twice_is_refused_and_its_neighbours_are_not(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("samples:\n  - {id: a, code: x}\n  - {id: b, code: x, id: c, code: y}\n  - {id: d}\n")
    assert [raw.value for raw in read_file(path)] == [
        {"id": "a", "code": "x"},
        Broken("repeated_key", "the key 'code' stands twice"),
        {"id": "d"},
    ]


def test_a_quote_that_nothing_closes_does_not_swallow_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text('id,code,label\na,"x\ny",safe\nb,"z,safe\nc,w,safe\n')
    with pytest.raises(DataError, match=r"s\.csv:4: .*a quote of this row is never closed"):
        list(read_file(path))
    path.write_text('id,code,label\na,"x\ny",safe\nb,z,safe\n')
    assert [sample.where for sample in read_file(path)] == [f"{path}:2", f"{path}:4"]


@pytest.mark.parametrize("name", ["s.json", "s.jsonl", "s.csv"])
def test_records_are_as_strict_about_their_fields_as_yaml(tmp_path: Path, name: str) -> None:
    sample = {"id": "a", "code": "x", "label": "safe", "sevrity": "high"}
    path = tmp_path / name
    path.write_text(
        "id,code,label,sevrity\na,x,safe,high\n"
        if name == "s.csv"
        else json.dumps([sample] if name == "s.json" else sample)
    )
    (raw,) = read_file(path)
    with pytest.raises(SampleError, match="did you mean 'severity'"):
        parse_sample(raw.value)


def test_metadata_that_is_no_mapping_is_refused_in_every_format(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    for value in ([1], "text"):
        path.write_text(json.dumps({"id": "a", "code": "x", "label": "safe", "metadata": value}))
        (raw,) = read_file(path)
        with pytest.raises(SampleError, match="'metadata' must be a mapping"):
            parse_sample(raw.value)


@pytest.mark.parametrize(("ending", "kind"), [("gz", "gzip"), ("zst", "zstd")])
def test_parquet_may_be_compressed_as_well(tmp_path: Path, ending: str, kind: str) -> None:
    plain = tmp_path / "s.parquet"
    pq.write_table(pa.table({"id": ["a"], "code": ["x"], "label": ["safe"]}), plain)
    packed = tmp_path / f"t.parquet.{ending}"
    with pa.output_stream(str(packed), compression=kind) as file:
        file.write(plain.read_bytes())
    assert [sample.value for sample in read_file(packed)] == [sample.value for sample in read_file(plain)]


def test_rows_with_too_many_cells_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("id,code,label\na,f(x, y),safe\nb,z,safe\n")
    values = [raw.value for raw in read_file(path)]
    assert isinstance(values[0], Broken)
    assert "more cells" in values[0].message
    assert values[1] == {"id": "b", "code": "z", "label": "safe"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("s.csv", "id,id,code,label\n", "'id' stands twice"),
        ("s.json", '[{"id": ' + "9" * 5000 + "}]", "not valid JSON"),
        ("s.jsonl", '{"id": ' + "9" * 5000 + "}", ":1: not valid JSON"),
        ("s.yaml", "samples:\n  - id: " + "9" * 5000, ":2: '9{40}' is no int"),
        ("s.yaml", "samples:\n  - id: 0x" + "f" * 5000, ":2: '0xf{38}' is no int"),
        (
            "s.yaml",
            "samples:\n  - id: a\n    code: |\n      \x1b[0m\n",
            r":4: the character 0x1b cannot .* double quotes",
        ),
    ],
)
def test_unreadable_containers_are_one_clear_error(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_file(tmp_path / name))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s\udcff.yaml").write_text("samples: []")
    for spec, message in ((str(tmp_path), "not UTF-8"), ("", "no data is named")):
        with pytest.raises(DataError, match=message):
            find_source(spec)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"id": "a", "code": "x", "label": "safe", "label": "vulnerability"}', "label"),
        ('{"id": "a", "code": "x", "label": "safe", "metadata": {"k": [{"deep": 1, "deep": 1}]}}', "deep"),
    ],
)
def test_a_json_sample_with_a_key_twice_is_refused_and_its_neighbours_are_not(
    tmp_path: Path, text: str, key: str
) -> None:
    good = {"id": "b", "code": "x", "label": "safe", "metadata": {"id": {"id": 1}}}
    expected = [good, Broken("repeated_key", f"the key '{key}' stands twice"), good]
    (tmp_path / "s.json").write_text(f"[{json.dumps(good)}, {text}, {json.dumps(good)}]")
    (tmp_path / "t.json").write_text(f'{{"samples": [{json.dumps(good)}, {text}, {json.dumps(good)}]}}')
    (tmp_path / "s.jsonl").write_text(f"{json.dumps(good)}\n{text}\n{json.dumps(good)}\n")
    (tmp_path / "u.json").write_bytes((tmp_path / "s.jsonl").read_bytes())
    for name in ("s.json", "t.json", "s.jsonl", "u.json"):
        assert [raw.value for raw in read_file(tmp_path / name)] == expected


def test_a_json_document_with_its_list_twice_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"samples": [], "samples": []}')
    with pytest.raises(DataError, match="the key 'samples' stands twice"):
        list(read_file(path))


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_a_key_twice_in_the_json_of_a_cell_is_refused_as_in_a_json_file(tmp_path: Path, name: str) -> None:
    rows = [
        {"id": "a", "code": "x = 1", "label": "safe", "metadata": '{"group": "g", "k": {"group": 1}}'},
        {"id": "b", "code": "x = 2", "label": "safe", "metadata": '{"group": "g", "group": "h"}'},
    ]
    table = pa.Table.from_pylist(rows)
    path = tmp_path / name
    if name == "s.csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    good, bad = [raw.value for raw in read_file(path)]
    assert parse_sample(good).metadata == {"group": "g", "k": {"group": 1}}
    assert bad == Broken("repeated_key", "the key 'group' stands twice", "b")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"k": ' + "9" * 5_000 + "}", "{'k': 1}"])
def test_a_cell_that_no_json_parser_takes_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.parquet"
    pq.write_table(pa.table({"id": ["a"], "code": ["x"], "label": ["safe"], "metadata": [text]}), path)
    (raw,) = read_file(path)
    with pytest.raises(SampleError, match="'metadata' must be a mapping"):
        parse_sample(raw.value)


def test_blank_lines_do_not_move_the_places_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text('id,code,label\n\n\na,"x\n\ny",safe\n\nb,z\n')
    read = [(raw.where, raw.value) for raw in read_file(path)]
    assert [where for where, _ in read] == [f"{path}:4", f"{path}:8"]
    assert read[1][1] == {"id": "b", "code": "z"}


def test_parquet_with_a_column_twice_is_one_clear_error_as_in_csv(tmp_path: Path) -> None:
    columns = {"id": ["a"], "code": ["x"], "label": ["safe"]}
    table = pa.table([*columns.values(), ["b"]], names=[*columns, "id"])
    pq.write_table(table, tmp_path / "s.parquet")
    with pytest.raises(DataError, match="the column 'id' stands twice"):
        list(read_file(tmp_path / "s.parquet"))


def test_a_time_that_no_calendar_has_is_one_clear_error(tmp_path: Path) -> None:
    columns = {"id": ["a"], "code": ["x"], "label": ["safe"], "time": pa.array([2**60], pa.timestamp("us"))}
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    with pytest.raises(DataError, match=r"s\.parquet: a date or time is out of range"):
        list(read_file(tmp_path / "s.parquet"))
