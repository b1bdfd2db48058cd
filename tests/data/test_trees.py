"""Directories of sources: Juliet, SARD and OWASP Benchmark."""

import json
from pathlib import Path

import pytest

from secauditai.config.settings import CleaningSettings
from secauditai.data.prepare import prepare
from secauditai.data.readers import find_source, list_files
from secauditai.data.readers.trees import TREES
from secauditai.data.schema import Sample, parse_sample
from secauditai.errors import DataError

CASE = "CWE78_OS_Command_Injection__char_demo"
C_FILE = f"""
#include "std_testcase.h"
#ifndef OMITBAD
static char * badSource(char * data)
{{
    /* POTENTIAL FLAW: read from outside */
    return getenv(data);
}}
void {CASE}_01_bad()
{{
    char * data = badSource("X"); // the way in
    {CASE}_badGlobal = 1;
    /* POTENTIAL FLAW: run it */
    system(data);
}}
#endif
static char * goodG2BSource(char * data) {{ return "good"; }}
static void goodG2B1() {{ system(goodG2BSource("X")); }}
static void goodG2B2() {{ if (1) system(goodG2BSource("X")); }}
void {CASE}_01_good() {{ goodG2B1(); goodG2B2(); }}
int main() {{ {CASE}_01_bad(); return 0; }}
"""
JAVA_A = """package testcases;
public class CWE89_SQL__demo_81a extends AbstractTestCase {
    public void bad() throws Throwable { CWE89_SQL__demo_81_base object = new CWE89_SQL__demo_81_bad(); object.action("x"); }
    public void good() throws Throwable { goodG2B(); }
    private void goodG2B() throws Throwable { CWE89_SQL__demo_81_base object = new CWE89_SQL__demo_81_goodG2B(); object.action("y"); }
}
"""
JAVA_B = """package testcases;
public class CWE89_SQL__demo_81_bad extends CWE89_SQL__demo_81_base {
    public CWE89_SQL__demo_81_bad() { }
    public void action(String data) { run("select " + data); }
}
"""


def samples(root: Path, kind: str) -> dict[str, Sample]:
    source = find_source(str(root))
    assert source.tree == kind
    found = [raw for case in source.cases for raw in TREES[kind].read_case(root, case)]
    return {sample.id: sample for sample in (parse_sample(raw.value) for raw in found)}


def test_juliet(tmp_path: Path) -> None:
    (tmp_path / "s01").mkdir()
    (tmp_path / "s01" / f"{CASE}_01.c").write_text(C_FILE)
    (tmp_path / "s01" / "main.cpp").write_text("int main() { return 0; }")
    (tmp_path / "CWE89_SQL__demo_81a.java").write_text(JAVA_A)
    (tmp_path / "CWE89_SQL__demo_81_bad.java").write_text(JAVA_B)
    (tmp_path / "CWE89_SQL__demo_81_goodG2B.java").write_text(JAVA_B.replace("_bad", "_goodG2B").replace("+ data", ""))
    found = samples(tmp_path, "juliet")
    assert set(found) == {
        *(f"{CASE}_01_{name}" for name in ("bad", "goodG2B1", "goodG2B2")),
        *("CWE89_SQL__demo_81_bad", "CWE89_SQL__demo_81_goodG2B"),
    }
    bad = found[f"{CASE}_01_bad"]
    assert (bad.label, bad.category, bad.language) == ("vulnerability", "cwe-78", "c")
    assert bad.group == f"{CASE}_01" == found[f"{CASE}_01_goodG2B2"].group
    lines = bad.code.splitlines()
    assert [lines[number - 1].strip() for number in bad.metadata["flaw_lines"]] == [
        "return getenv(data);",
        "system(data);",
    ]
    assert found[f"{CASE}_01_goodG2B1"].label == "safe"
    assert "flaw_lines" not in found[f"{CASE}_01_goodG2B1"].metadata
    assert 'select " + data' in found["CWE89_SQL__demo_81_bad"].code
    assert "select" in found["CWE89_SQL__demo_81_goodG2B"].code
    for sample in found.values():
        code = sample.code.lower()
        assert not any(word in code for word in ("bad", "good", "flaw", "cwe", "static", "private", "/*", "//")), code
        assert "process(" in code


def test_owasp_benchmark(tmp_path: Path) -> None:
    table = "# test name, category, real vulnerability, cwe, Benchmark version: 1.2, 2016-06-1\n"
    rows = (
        "BenchmarkTest00001,pathtraver,true,22\nBenchmarkTest00002,hash,false,328\nBenchmarkTest00003,hash,true,328\n"
    )
    (tmp_path / "expectedresults-1.2.csv").write_text(table + rows)
    (tmp_path / "pom.xml").write_text("<project/>")
    sources = tmp_path / "src" / "org"
    sources.mkdir(parents=True)
    for number in (1, 2):
        path = f'@WebServlet("/pathtraver-00/BenchmarkTest0000{number}")'
        (sources / f"BenchmarkTest0000{number}.java").write_text(
            f"/* licence {number} */\npackage org;\n{path}\nclass A{number} {{}}\n"
        )
    settings = CleaningSettings(max_rejected=0.5)
    prepared = prepare(str(tmp_path), tmp_path / "out", settings)
    assert (prepared.read, prepared.kept, prepared.rejected) == (3, 2, 1)
    refused = json.loads(prepared.dataset.layout.rejected.read_text())
    assert refused["id"] == "BenchmarkTest00003"
    assert refused["where"] == f"{tmp_path}/expectedresults-1.2.csv:4"
    first, second = prepared.dataset.table().to_pylist()
    assert first["code"] == 'package org;\n@WebServlet("/BenchmarkTest")\nclass A1 {}\n'
    assert (first["label"], first["category"], first["language"]) == ("vulnerability", "pathtraver", "java")
    assert json.loads(second["metadata"])["cwe"] == "CWE-328"
    assert prepared.dataset.manifest["source"]["format"] == "owasp-benchmark"


def test_sard_manifest(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.c").write_text(f"int {name};\n")
    (tmp_path / "a" / "io.c").write_text("int io;\n")
    (tmp_path / "manifest.xml").write_text(
        '<?xml version="1.0"?><container>'
        '<testcase id="7"><file path="a/x.c"><flaw line="1" name="CWE-121: Stack"/></file><file path="a/io.c"/></testcase>'
        '<testcase id="8"><file path="b/x.c"/><association type="pair" testcaseid="7"/></testcase>'
        '<testcase id="9"><file path="../outside.c"/><file path="c/x.c"/></testcase></container>'
    )
    (tmp_path.parent / "outside.c").write_text("int secret;\n")
    found = samples(tmp_path, "sard")
    assert {name: sample.code for name, sample in found.items()} == {
        "sard_7": "int a;\n",
        "sard_8": "int b;\n",
        "sard_9": "int c;\n",
    }
    assert (found["sard_7"].label, found["sard_7"].category) == ("vulnerability", "cwe-121")
    assert found["sard_7"].metadata["flaw_lines"] == [1]
    assert found["sard_8"].label == "safe"
    assert found["sard_8"].group == found["sard_7"].group != found["sard_9"].group


def test_sard_sarif(tmp_path: Path) -> None:
    for number, results in ((1, True), (2, False)):
        case = tmp_path / f"{number}-v1.0.0"
        case.mkdir()
        (case / "m.php").write_text(f"<?php echo {number};\n")
        place = {"physicalLocation": {"artifactLocation": {"uri": "m.php"}, "region": {"startLine": 1}}}
        run = {
            "properties": {"id": number},
            "artifacts": [{"location": {"uri": "m.php"}}],
            "results": [{"ruleId": "CWE-79", "locations": [place]}] if results else [],
        }
        (case / "manifest.sarif").write_text(json.dumps({"version": "2.1.0", "runs": [run]}))
    found = samples(tmp_path, "sard")
    assert {name: sample.label for name, sample in found.items()} == {"sard_1": "vulnerability", "sard_2": "safe"}
    assert found["sard_1"].language == "php"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("manifest.xml", "<container><testcase id='1'>", "not valid XML"),
        ("manifest.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><container/>", "document type"),
        ("manifest.sarif", '{"runs": [{"results": [{"locations": [{}]}]}]}', "not a SARIF"),
        ("expectedresults-1.csv", "BenchmarkTest1,hash\n", "a row needs"),
    ],
)
def test_damaged_manifests(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        find_source(str(tmp_path))


def test_a_wanted_kind_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("samples: []\n")
    with pytest.raises(DataError, match="no test cases of juliet"):
        find_source(str(tmp_path), "juliet")
    assert find_source(str(tmp_path)).files == list_files(str(tmp_path))
