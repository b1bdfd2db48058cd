"""OWASP Benchmark: one source file per test case, labels in `expectedresults-VERSION.csv`.

Its columns are test name, category, real vulnerability (true | false) and CWE number.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

from secauditai.data.readers.cases import ENDINGS, Case, files_below, inside, not_utf8, read_source
from secauditai.data.readers.raw import RawSample
from secauditai.errors import DataError

RESULTS = "expectedresults-*.csv"
LABELS = {"true": "vulnerability", "false": "safe"}
HEADER = re.compile(r"\A\s*(/\*.*?\*/|(#[^\n]*\n)+|(\"\"\".*?\"\"\"))\s*", re.DOTALL)
"""The licence at the top of each file, the same in all of them."""


def manifests(root: Path) -> list[Path]:
    """The table of expected results: the newest, when there are several."""
    return sorted((path for path in root.glob(RESULTS) if inside(root, path.name)), key=_version)[-1:]


def _version(table: Path) -> tuple[list[int], bool, str]:
    """What orders tables by age: 1.2 is before 1.10, and a 1.2beta before them."""
    text = table.stem.removeprefix("expectedresults-")
    rest = text.lstrip("0123456789.")
    return [int(part) for part in re.findall(r"\d+", text.removesuffix(rest))], not rest, rest


def list_cases(root: Path) -> list[Case]:
    """The rows of the table with the source of each.

    Raises:
        DataError: when the table is damaged.
    """
    found = manifests(root)
    if not found:
        return []
    sources = {path.stem: path for path in files_below(root) if path.suffix in ENDINGS}
    cases = [_case(root, row, place, sources) for row, place in _rows(found[0])]
    return sorted(cases, key=lambda case: case.name)


def _rows(table: Path) -> Iterator[tuple[list[str], str]]:
    """The rows of the table with the place of each; comments are left out."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            for number, row in enumerate(csv.reader(lines), 1):
                if row and not row[0].lstrip().startswith("#"):
                    yield row, f"{table.name}:{number}"
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a table of expected results: {error}", where=str(table)) from None


def _case(root: Path, row: list[str], place: str, sources: dict[str, Path]) -> Case:
    if len(row) < 4:
        raise DataError("a row needs test name, category, true or false, and CWE", where=f"{root}/{place}")
    name, category, real, cwe = (value.strip() for value in row[:4])
    path = sources.get(name)
    facts = {"category": category, "label": LABELS.get(real.lower(), real), "cwe": f"CWE-{cwe}", "row": place}
    return Case(name, (path.relative_to(root).as_posix(),) if path else (), json.dumps(facts))


def read_case(root: Path, case: Case) -> Iterator[RawSample]:
    """The one sample of a test case; names that tell its number or category are made neutral."""
    sample = {"id": case.name, "label": case.fact("label"), "category": case.fact("category")}
    if not case.files:
        yield RawSample(f"{root}/{case.fact('row')}", {**sample, "code": None})
        return
    path = root / case.files[0]
    code = read_source(path)
    if code is None:
        yield not_utf8(root, case.files[0], case, case.name)
        return
    code = HEADER.sub("", code, count=1)
    code = re.sub(r"BenchmarkTest\d+", "BenchmarkTest", code)
    code = re.sub(rf"/{re.escape(case.fact('category'))}-\d+/", "/", code)
    metadata = {"language": ENDINGS[path.suffix], "cwe": case.fact("cwe"), "file": case.files[0]}
    yield RawSample(f"{path}:1", {**sample, "code": code, "metadata": {**metadata, "project": "OWASP Benchmark"}})
