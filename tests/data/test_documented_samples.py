"""Every sample of docs/data-format.md is read as the page says."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secauditai.data.prepare import open_source
from secauditai.data.readers import read_file
from secauditai.data.readers.layouts import LAYOUTS
from secauditai.data.readers.trees import TREES
from secauditai.data.schema import Sample, parse_sample
from secauditai.progress import silent

PAGE = (Path(__file__).parents[2] / "docs" / "data-format.md").read_text(encoding="utf-8")
OWN = {"yaml": "yaml", "json": "json", "jsonl": "jsonl", "csv": "csv"}
"""Language of a block about our own fields, to the ending of a file that holds it."""
ENDINGS = {"devign": "json", "big-vul": "csv"}


def block(after: str, language: str = r"\w*") -> str:
    """The first block of code behind some words."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE[PAGE.index(after) :], re.DOTALL)
    assert found is not None
    return found[1]


def read(path: Path) -> list[Sample]:
    return [parse_sample(raw.value) for raw in read_file(path)]


@pytest.mark.parametrize("language", OWN)
def test_the_guide_format(tmp_path: Path, language: str) -> None:
    path = tmp_path / f"samples.{OWN[language]}"
    path.write_text(block("## A sample", language))
    samples = read(path)
    assert samples[0].id == "sample_001"
    assert (samples[0].label, samples[0].group) == ("vulnerability", "pair_17")
    if len(samples) > 1:
        assert samples[1].group == "pair_17"


def test_the_guide_format_as_parquet(tmp_path: Path) -> None:
    rows = json.loads(block("as JSON (a list", "json"))["samples"]
    assert str(rows[0]["metadata"]).replace("'", '"') in block("as Parquet", "python")
    for name, metadata in (("struct", rows[0]["metadata"]), ("text", json.dumps(rows[0]["metadata"]))):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist([{**rows[0], "metadata": metadata}]), path)
        (sample,) = read(path)
        assert (sample.id, sample.group) == ("sample_001", "pair_17")


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"guide", "prepared"}))
def test_published_layouts(tmp_path: Path, layout: str) -> None:
    name = "primevul" if layout == "primevul-paired" else layout
    path = tmp_path / f"{layout.replace('-', '_')}.{ENDINGS.get(layout, 'jsonl')}"
    path.write_text(block(f"`{name}`"))
    samples = read(path)
    assert samples
    labels = [sample.label for sample in samples]
    if layout in ("big-vul", "primevul-paired", "sven"):
        assert labels[:2] == ["vulnerability", "safe"]
        assert samples[0].group == samples[1].group != ""
    assert all(sample.metadata["language"] or layout == "sven" for sample in samples)


@pytest.mark.parametrize("tree", sorted(TREES))
def test_directories_of_sources_have_a_sample(tree: str) -> None:
    assert f"`{tree}`" in PAGE[PAGE.index("## Directories of sources") :]


def test_the_documented_test_case_of_juliet(tmp_path: Path) -> None:
    (tmp_path / "CWE78_OS_Command_Injection__char_file_system_01.c").write_text(block("`juliet`", "c"))
    source = open_source(str(tmp_path), "auto", tmp_path, silent)
    values = [raw.value for case in source.cases for raw in TREES[source.tree].read_case(tmp_path, case)]
    assert sorted(parse_sample(value).label for value in values) == ["safe", "vulnerability"]
