"""Broken inputs for every reader: one clear error or samples that add up, never a crash; 10,000 of each in `make soak`."""

import gzip
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from published_records import BIG_VUL, DEVIGN, DIVERSEVUL, PRIMEVUL, SVEN

from secauditai.config.settings import CleaningSettings
from secauditai.data.clean import clean
from secauditai.data.dataset import SCHEMA_VERSION, is_dataset
from secauditai.data.parse import parse_all
from secauditai.data.prepare import open_source
from secauditai.data.readers import Source, read_file
from secauditai.data.readers.registry import CONTAINERS
from secauditai.data.readers.streams import inner_suffix
from secauditai.data.readers.trees import TREES
from secauditai.data.schema import parse_sample
from secauditai.data.tasks import HERE
from secauditai.errors import DataError
from secauditai.progress import silent

pytestmark = pytest.mark.slow

EXAMPLES = 10_000 if os.environ.get("SOAK") else 300
SIGNS = [b"\t", b"\n", b":", b"-", b"{", b"}", b"[", b"]", b"&a", b"*a", b"!", b"|", b">", b"'", b'"', b"#", b"%", b"@"]
BYTES = [*SIGNS, b"`", b",", b"?", b" ", b"\x00", b"\xff", b"\xc3\xa9", b"\r", b"\xef\xbb\xbf", b"<", b"/", b"---\n"]
GUIDE = {"id": "a", "code": "x = 1\n", "label": "safe", "metadata": {"k": [1, 2]}}
YAML = b"samples:\n  - id: a\n    code: |\n      x = 1\n    label: safe\n    metadata: {k: [1, 2]}\n  - id: b\n    code: 'q'\n    label: safe\n"
JULIET = b"void CWE1_A__b_01_bad()\n{\n    /* FLAW */\n    f(badSource());\n}\nstatic void goodG2B() { f(0); }\n"
SARD = b'<container><testcase id="1"><file path="a.c"><flaw line="1" name="CWE-1"/></file></testcase></container>'
SARIF = {
    "runs": [
        {
            "properties": {"id": 1},
            "artifacts": [{"location": {"uri": "a.c"}}],
            "results": [
                {
                    "ruleId": "CWE-1",
                    "locations": [
                        {"physicalLocation": {"artifactLocation": {"uri": "a.c"}, "region": {"startLine": 1}}}
                    ],
                }
            ],
        }
    ]
}
Files = dict[str, bytes]


def lines(*records: dict[str, object]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def parquet(record: dict[str, object]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([record]), sink)
    return bytes(sink.getvalue())


def sealed(parts: Files) -> Files:
    """A dataset directory: its files, and a manifest that knows them as they are."""
    described = {name: {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()} for name, part in parts.items()}
    manifest = {**MANIFEST, "schema_version": SCHEMA_VERSION, "files": described}
    return {**parts, "manifest.json": json.dumps(manifest).encode()}


CSV = b'id,code,label,project\na,x = 1,safe,p\nb,"y\n= 2",vulnerability,\n'
MANIFEST = {"content_hash": "0", "read": 1, "merged": [], "cleaning": {}, "splits": {"counts": {"train": 1}}}
STORED = parquet(parse_sample({**GUIDE, "metadata": {"group": "g", "k": [1]}}).row() | {"cluster": "a"})
FLAT = {key: value for key, value in GUIDE.items() if key != "metadata"}
INPUTS: dict[str, Files] = {
    "yaml": {"s.yaml": YAML},
    "json": {"s.json": json.dumps([GUIDE, {**GUIDE, "id": "b"}]).encode()},
    "jsonl": {"s.jsonl": lines(GUIDE, {**GUIDE, "id": "b"})},
    "csv": {"s.csv": CSV},
    "parquet": {"s.parquet": parquet(FLAT)},
    "gzip": {"s.yaml.gz": gzip.compress(YAML, mtime=0)},
    "zstd": {"s.yaml.zst": pa.compress(YAML, "zstd", asbytes=True)},
    "devign": {"s.jsonl": lines(DEVIGN, {**DEVIGN, "target": 1, "func": "int g();"})},
    "big-vul": {"s.jsonl": lines(BIG_VUL)},
    "primevul": {"s.jsonl": lines(PRIMEVUL)},
    "primevul-paired": {"s_paired.jsonl": lines(PRIMEVUL, {**PRIMEVUL, "idx": 32, "target": 0, "func": "void f() {}"})},
    "diversevul": {"s.jsonl": lines(DIVERSEVUL)},
    "sven": {"s.jsonl": lines(SVEN)},
    "juliet": {"CWE1_A__b_01.c": JULIET},
    "juliet-files": {"CWE1_A__b_01a.c": JULIET, "CWE1_A__b_01b.c": b"void badSource()\n{\n    g();\n}\n"},
    "sard": {"manifest.xml": SARD, "a.c": b"int a;\n"},
    "sarif": {"manifest.sarif": json.dumps(SARIF).encode(), "a.c": b"int a;\n"},
    "owasp": {"expectedresults-1.csv": b"# head\nT1,hash,true,328\nT2,xss,false,79\n", "T1.java": b"class T1 {}\n"},
    "prepared": sealed(
        {"rejected.jsonl": b"", "samples/part-00000.parquet": STORED, "train/part-00000.parquet": STORED}
    ),
}


def mutate(data: st.DataObject, content: bytes) -> bytes:
    for _ in range(data.draw(st.integers(1, 4))):
        at, gone = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 3))
        kind = data.draw(st.sampled_from(["replace", "repeat", "cut"]))
        if kind == "replace":
            content = content[:at] + data.draw(st.sampled_from(BYTES)) + content[at + gone :]
        elif kind == "repeat":
            content = content[:at] + content[max(0, at - 20) : at] + content[at:]
        else:
            content = content[:at] + content[at + 10 * gone :]
    return content


def write(files: Files, root: Path) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def check_nothing_is_lost(source: Source) -> None:
    """Every record and every test case must come out of its reader, if only to be refused."""
    for case in source.cases:
        assert list(TREES[source.tree].read_case(Path(source.spec), case)), case.name
    for path in source.files:
        if not source.tree and inner_suffix(path) in CONTAINERS:
            read = {raw.where for raw in read_file(path)}
            assert read == {place for place, _ in CONTAINERS[inner_suffix(path)](path)}


def check(files: Files) -> None:
    """Parse and clean; what is read must be kept, refused or merged."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write(files, root / "in")
        staging = root / "staging"
        staging.mkdir()
        wanted = CleaningSettings(near_duplicates=False)
        try:
            source = open_source(str(root / "in"), "auto", staging, silent)
            check_nothing_is_lost(source)
            cleaned = clean(parse_all(source, staging, wanted, HERE, silent))
        except DataError as error:
            assert str(error)
            return
        assert cleaned.read == len(cleaned.kept) + len(cleaned.rejected) + len(cleaned.merged)
        assert all(item.where and item.reason for item in cleaned.rejected)


@pytest.mark.parametrize("kind", INPUTS)
def test_broken_input_is_an_error_or_adds_up(kind: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=60_000, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def attack(data: st.DataObject) -> None:
        files = dict(INPUTS[kind])
        name = data.draw(st.sampled_from(sorted(files)))
        files[name] = mutate(data, files[name])
        if kind == "prepared" and name != "manifest.json" and data.draw(st.booleans()):
            del files["manifest.json"]
            files = sealed(files)  # so that the damage is met where samples are read
        check(files)

    attack()


@pytest.mark.parametrize("kind", INPUTS)
def test_the_unbroken_inputs_are_read(kind: str, tmp_path: Path) -> None:
    write(INPUTS[kind], tmp_path)
    assert is_dataset(tmp_path) == (kind == "prepared")
    (tmp_path / "staging").mkdir()
    source = open_source(str(tmp_path), "auto", tmp_path / "staging", silent)
    cleaned = clean(parse_all(source, tmp_path / "staging", CleaningSettings(near_duplicates=False), HERE, silent))
    assert len(cleaned.kept) >= 1
