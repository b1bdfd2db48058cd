"""Code to score needs no labels, and no sample of it vanishes."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import make_samples

from secauditai.data.prepare import prepare
from secauditai.data.scoring import labelled_for_scoring, read_for_scoring
from secauditai.errors import DataError


def read(spec: Path | str, cache: Path) -> tuple[dict[str, list[str]], list[str]]:
    table, refused = read_for_scoring(str(spec), cache=cache)
    return table.to_pydict(), [f"{sample.where} {sample.id} {sample.reason}" for sample in refused]


def test_neither_labels_nor_ids_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    path.write_text('{"code": "int a;"}\n{"code": "int a;"}\n{"id": "known", "code": "int b;"}\n')
    found, refused = read(path, tmp_path / "cache")
    assert found == {
        "id": [f"{path}:1", f"{path}:2", "known"],
        "code": ["int a;\n", "int a;\n", "int b;\n"],  # duplicates are scored as well
    }
    assert refused == []


def test_what_has_no_code_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "code.yaml"
    path.write_text('samples:\n  - id: good\n    code: x = 1\n  - id: empty\n    code: ""\n  - nothing\n')
    found, refused = read(path, tmp_path / "cache")
    assert found["id"] == ["good"]
    assert refused == [f"{path}:4 empty no_code", f"{path}:6  not_a_mapping"]


def test_nothing_to_score_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "code.yaml"
    path.write_text("samples:\n  - id: empty\n")
    with pytest.raises(DataError, match=r"no sample has code to score; the first: .*code.yaml:2: 'code' is missing"):
        read(path, tmp_path / "cache")


def test_labelled_data_prepared_data_and_the_built_in_dataset_are_scored_too(tmp_path: Path) -> None:
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps({"samples": make_samples(12)}))
    prepare(str(raw), tmp_path / "prepared")
    from_raw, _ = read_for_scoring(str(raw), cache=tmp_path / "cache")
    from_prepared, _ = read_for_scoring(str(tmp_path / "prepared"), cache=tmp_path / "cache")
    assert from_raw.sort_by("id").cast(pa.schema(from_prepared.schema)) == from_prepared
    built_in, refused = read_for_scoring("security_dataset", cache=tmp_path / "cache")
    assert built_in.num_rows > 1900
    assert refused == []


def test_a_model_that_never_saw_comments_is_not_shown_any(tmp_path: Path) -> None:
    code, other = "# why\ndef f(x):\n    return x\n", "# why\ndef g(x):\n    return eval(x)\n"
    raw = [
        {"id": "a", "code": code, "label": "safe", "metadata": {"language": "python"}},
        {"id": "b", "code": other, "label": "vulnerability"},
        {"id": "c", "code": "-- why\nselect 1\n", "label": "safe", "language": "sql"},
    ]
    path = tmp_path / "raw.json"
    path.write_text(json.dumps(raw))
    stripped = [code.removeprefix("# why\n"), other.removeprefix("# why\n"), "-- why\nselect 1\n"]
    found, refused = read_for_scoring(str(path), cache=tmp_path / "cache", comments=False)
    assert (found.column("code").to_pylist(), refused) == (stripped, [])

    dataset = prepare(str(path), tmp_path / "prepared").dataset
    found, _ = read_for_scoring(str(dataset.root), cache=tmp_path / "cache", comments=False)
    assert found.column("code").to_pylist() == stripped
    assert labelled_for_scoring(dataset, comments=False).column("code").to_pylist() == stripped
    assert labelled_for_scoring(dataset).column("code").to_pylist()[0] == code


def test_what_is_nothing_but_comments_is_refused_when_they_go(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    path.write_text('{"code": "x = 1"}\n{"code": "# x = 1", "metadata": {"language": "python"}}\n')
    table, refused = read_for_scoring(str(path), cache=tmp_path / "cache", comments=False)
    assert table.column("code").to_pylist() == ["x = 1\n"]
    assert [(sample.where, sample.reason) for sample in refused] == [(f"{path}:2", "no_code")]
