"""Directories of sources: Juliet, SARD and OWASP Benchmark."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from secauditai.config.settings import CleaningSettings
from secauditai.data.prepare import prepare
from secauditai.data.readers import find_source, list_files
from secauditai.data.readers.trees import TREES
from secauditai.data.schema import Sample, SampleError, parse_sample
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


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("owasp-benchmark", "expectedresults-1.2.csv", "a,hash,true,328\n"),
        ("sard", "manifest.xml", '<container><testcase id="1"><file path="a.java"/></testcase></container>'),
    ],
)
def test_a_link_to_a_manifest_does_not_lead_out(tmp_path: Path, kind: str, name: str, text: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.java").write_text("class A {}\n")
    (tmp_path / "outside").write_text(text)
    (root / name).symlink_to("../outside")
    with pytest.raises(DataError, match=f"holds no test cases of {kind}"):
        find_source(str(root), kind)
    (root / name).unlink()
    (root / "inside").write_text(text)
    (root / name).symlink_to("inside")
    assert len(find_source(str(root), kind).cases) == 1


def test_sard_manifest(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.c").write_text(f"int {name};\n")
    (tmp_path / "a" / "io.c").write_text("int io;\n")
    (tmp_path / "manifest.xml").write_text(
        '<?xml version="1.0"?><container>'
        '<testcase id="7"><file path="a/x.c"><flaw line="1" name="CWE-121: Stack"/><flaw line="²"/></file>'
        '<file path="a/io.c"/></testcase>'
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
        ("manifest.xml", "<?xml version='1.0' encoding='nonsense'?><container/>", "not valid XML: unknown encoding"),
        ("manifest.xml", "<?xml version='1.0' encoding='gbk'?><container/>", "not valid XML: multi-byte encodings"),
        ("manifest.sarif", '{"runs": [{"results": [{"locations": [{}]}]}]}', "not a SARIF"),
        ("manifest.sarif", "[" * 100_000, "not a SARIF"),
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


def test_a_juliet_case_with_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CWE89_SQL__demo_81a.java").write_text(JAVA_A)
    (tmp_path / "CWE89_SQL__demo_81_bad.java").write_bytes(JAVA_B.encode() + b"// \xe9\n")
    (raw,) = TREES["juliet"].read_case(tmp_path, find_source(str(tmp_path)).cases[0])
    assert raw.where == f"{tmp_path}/CWE89_SQL__demo_81_bad.java:{JAVA_B.count(chr(10)) + 1}"
    with pytest.raises(SampleError, match=r"CWE89_SQL__demo_81_bad\.java is not UTF-8") as refused:
        parse_sample(raw.value)
    assert refused.value.reason == "not_utf8"


def write_sard(root: Path) -> None:
    (root / "manifest.xml").write_text(
        '<container><testcase id="7"><file path="old.c"><flaw line="1" name="CWE-1"/></file></testcase></container>'
    )


def write_owasp(root: Path) -> None:
    (root / "expectedresults-1.csv").write_text("# test name\nold,hash,true,328\n")


@pytest.mark.parametrize(("write", "name"), [(write_sard, "sard_7"), (write_owasp, "old")])
def test_a_test_case_that_is_not_utf8_is_listed_with_its_file(
    tmp_path: Path, write: Callable[[Path], None], name: str
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    (tmp_path / "in" / "old.c").write_bytes("int a;\n/* d\xe9j\xe0 */\n".encode("cp1252"))
    with pytest.raises(DataError, match="1 of 1 samples are refused"):
        prepare(str(tmp_path / "in"), tmp_path / "out")
    refused = json.loads((tmp_path / "out.rejected.jsonl").read_text())
    assert (refused["where"], refused["id"], refused["reason"]) == (f"{tmp_path}/in/old.c:2", name, "not_utf8")
    assert refused["message"].startswith("old.c is not UTF-8 text (byte 0xe9), so the test case ")


def sard_xml(root: Path, **linked: str) -> None:
    """Write one safe test case for each number, with the numbers that it is associated with."""
    cases = []
    for name, others in linked.items():
        (root / f"{name}.c").write_text(f"int {name};\n")
        pairs = "".join(f'<association type="pair" testcaseid="{other}"/>' for other in others.split())
        cases.append(f'<testcase id="{name[1:]}"><file path="{name}.c"/>{pairs}</testcase>')
    (root / "manifest.xml").write_text(f"<container>{''.join(cases)}</container>")


def test_sard_pairs_are_one_group_whichever_names_the_other(tmp_path: Path) -> None:
    sard_xml(tmp_path, n1="2", n2="", n3="5", n4="", n5="4", n6="9", n7="9", n8="")
    groups = {name.removeprefix("sard_"): sample.group for name, sample in samples(tmp_path, "sard").items()}
    found: dict[str, set[str]] = {}
    for name, group in groups.items():
        found.setdefault(group, set()).add(name)
    assert sorted(map(sorted, found.values())) == [["1", "2"], ["3", "4", "5"], ["6", "7"], ["8"]]
    assert groups["5"] == "sard_3"


def test_a_sard_case_whose_flawed_file_is_missing_is_not_safe(tmp_path: Path) -> None:
    sard_xml(tmp_path, n1="")
    text = (tmp_path / "manifest.xml").read_text()
    flawed = '<file path="gone.c"><flaw line="1" name="CWE-1"/></file></testcase>'
    (tmp_path / "manifest.xml").write_text(text.replace("</testcase>", flawed))
    (raw,) = TREES["sard"].read_case(tmp_path, find_source(str(tmp_path)).cases[0])
    with pytest.raises(SampleError, match="'code' is empty"):
        parse_sample(raw.value)


def sarif_run(number: int, state: str, uri: str, kind: str = "", pairs: tuple[str, ...] = ()) -> dict[str, object]:
    """A run as NIST writes it; a good case lists what it avoids as passed."""
    place = {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}
    result = {"ruleId": "CWE-415", "locations": [place], **({"kind": kind} if kind != "fail" else {})}
    return {
        "properties": {"id": number, "state": state, "pairs": list(pairs)},
        "artifacts": [{"location": {"uri": uri}}],
        "results": [result] if kind else [],
    }


def test_sard_sarif_states_and_pairs(tmp_path: Path) -> None:
    runs = {
        "149075-v2.0.0": sarif_run(149075, "bad", "src/m.c", "fail"),
        "149076-v1.0.0": sarif_run(1591, "good", "src/m.c", "pass", ("149075-v1.0.0",)),
        "98-v1.0.0": sarif_run(98, "bad", "src/m.c"),
    }
    for number, (name, run) in enumerate(runs.items()):
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src" / "m.c").write_text(f"int m{number};\n")
        (tmp_path / name / "manifest.sarif").write_text(json.dumps({"runs": [run]}))
    found = samples(tmp_path, "sard")
    labels = {name: (sample.label, sample.category) for name, sample in found.items()}
    assert labels == {
        "sard_149075": ("vulnerability", "cwe-415"),
        "sard_1591": ("safe", "none"),
        "sard_98": ("vulnerability", "none"),
    }
    assert found["sard_149075"].group == found["sard_1591"].group != found["sard_98"].group
    assert found["sard_149075"].metadata["flaw_lines"] == [1]
    assert "flaw_lines" not in found["sard_1591"].metadata


def test_sard_sarif_of_a_test_suite(tmp_path: Path) -> None:
    cases = []
    for number, state, kind, pairs in ((9, "bad", "fail", ("10-v1.0.0",)), (10, "good", "pass", ())):
        name = f"{number}-v1.0.0"
        (tmp_path / name / "src").mkdir(parents=True)
        (tmp_path / name / "src" / "m.c").write_text(f"int m{number};\n")
        run = sarif_run(number, state, f"{name}/src/m.c", kind, pairs)
        cases.append({"identifier": name, "sarif": {"runs": [run]}})
        own = sarif_run(number, state, "src/m.c", kind, pairs)
        (tmp_path / name / "manifest.sarif").write_text(json.dumps({"runs": [own]}))
    (tmp_path / "manifest.sarif").write_text(json.dumps({"testCases": cases}))
    assert len(find_source(str(tmp_path)).cases) == 2
    found = samples(tmp_path, "sard")
    assert {name: sample.label for name, sample in found.items()} == {"sard_9": "vulnerability", "sard_10": "safe"}
    assert found["sard_9"].group == found["sard_10"].group


def test_data_files_beside_test_cases_are_not_dropped(tmp_path: Path) -> None:
    (tmp_path / f"{CASE}_01.c").write_text(C_FILE)
    data = [{"id": str(number), "code": f"int x{number};", "label": "safe"} for number in range(40)]
    (tmp_path / "data.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"test cases of juliet and data files, such as data\.json"):
        find_source(str(tmp_path))
    assert find_source(str(tmp_path), "juliet").tree == "juliet"
    assert find_source(str(tmp_path), "guide").files == [tmp_path / "data.json"]


def test_settings_and_results_of_tools_are_no_data_files(tmp_path: Path) -> None:
    (tmp_path / "BenchmarkTest00001.java").write_text("class A {}\n")
    for version in ("1.1", "1.2"):
        (tmp_path / f"expectedresults-{version}.csv").write_text("# test name\nBenchmarkTest00001,hash,true,328\n")
    (tmp_path / "compose.yml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "steps.yml").write_text("- {name: a, run: b}\n")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    (tmp_path / "results.json").write_text('[{"file": "a.java", "line": 1}]')
    (tmp_path / "settings.json").write_text("{ // not JSON\n}")
    assert find_source(str(tmp_path)).tree == "owasp-benchmark"


def test_the_newest_owasp_table_is_that_of_the_highest_version(tmp_path: Path) -> None:
    (tmp_path / "BenchmarkTest00001.java").write_text("class A {}\n")
    for version, real in (("1.10", "true"), ("1.10beta", "false"), ("1.2", "false"), ("1.9.9", "false")):
        (tmp_path / f"expectedresults-{version}.csv").write_text(f"BenchmarkTest00001,hash,{real},328\n")
    assert samples(tmp_path, "owasp-benchmark")["BenchmarkTest00001"].label == "vulnerability"
    assert tmp_path / "expectedresults-1.10.csv" in find_source(str(tmp_path)).files


def test_a_manifest_may_name_files_that_no_disk_can_hold(tmp_path: Path) -> None:
    sard_xml(tmp_path, n1="")
    text = (tmp_path / "manifest.xml").read_text()
    (tmp_path / "manifest.xml").write_text(text.replace("</testcase>", f'<file path="{"x" * 5000}.c"/></testcase>'))
    assert samples(tmp_path, "sard")["sard_1"].code == "int n1;\n"
