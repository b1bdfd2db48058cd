"""Code to score needs no labels, and no sample of it vanishes."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from conftest import make_samples

from secauditai.data.prepare import prepare
from secauditai.data.scoring import read_for_scoring
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
