"""SARD: test cases of NIST's Software Assurance Reference Dataset, labelled by `manifest.xml` or `manifest.sarif`.

A test case with flaws gives its flawed files as one vulnerable sample; one without gives its files as a safe one.
A vulnerable test case and its fixed version, where the manifest associates them, form a group.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from secauditai.data.readers.cases import ENDINGS, Case, files_below, inside, read_source
from secauditai.data.readers.raw import RawSample
from secauditai.errors import DataError

XML, SARIF = "manifest.xml", "manifest.sarif"
FLAWS = ("flaw", "mixed")


def manifests(root: Path) -> list[Path]:
    """The manifests below a directory; a `manifest.xml` at the top speaks for all."""
    top = root / XML
    if top.is_file():
        return [top] if b"<container" in top.open("rb").read(4096) else []
    return [path for path in files_below(root) if path.name == SARIF]


def list_cases(root: Path) -> list[Case]:
    """The test cases of all manifests.

    Raises:
        DataError: when a manifest cannot be read.
    """
    found = [
        case
        for path in manifests(root)
        for case in (_cases_of_xml(root, path) if path.name == XML else _cases_of_sarif(root, path))
    ]
    return sorted(found, key=lambda case: case.name)


def read_case(root: Path, case: Case) -> Iterator[RawSample]:
    """The one sample of a test case."""
    flaws: dict[str, list[int]] = case.fact("flaws")
    names = [name for name in case.files if name in flaws] or list(case.files)
    texts = [read_source(root / name) for name in names]
    code = None if None in texts else "\n".join(text for text in texts if text is not None)
    metadata: dict[str, Any] = {"source": "sard", "file": names[0] if names else ""}
    language = ENDINGS.get(Path(metadata["file"]).suffix.lower())
    metadata |= {key: value for key, value in (("cwe", case.fact("cwe")), ("language", language)) if value}
    if len(names) == 1 and flaws.get(names[0]):
        metadata["flaw_lines"] = sorted(set(flaws[names[0]]))
    metadata["group"] = f"sard_{case.fact('group')}"
    sample = {"id": f"sard_{case.name}", "code": code, "label": "vulnerability" if flaws else "safe"}
    if flaws and metadata.get("cwe"):
        sample["category"] = metadata["cwe"].lower()
    yield RawSample(f"{root / names[0]}:1" if names else f"{root}:{case.name}", {**sample, "metadata": metadata})


def _cases_of_xml(root: Path, path: Path) -> Iterator[Case]:
    try:
        parser: Any = ElementTree.XMLPullParser(["end"])
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                if b"<!DOCTYPE" in chunk or b"<!ENTITY" in chunk:
                    raise DataError("a document type is not accepted", where=str(path))
                parser.feed(chunk)
                for _, element in parser.read_events():
                    if element.tag == "testcase":
                        yield _case_of_element(root, element)
                        element.clear()
        parser.close()
    except ElementTree.ParseError as error:
        raise DataError(f"not valid XML: {error}", where=str(path)) from None


def _case_of_element(root: Path, element: ElementTree.Element) -> Case:
    files, flaws, weakness = [], {}, ""
    for item in element.iter("file"):
        name = item.get("path", "")
        if inside(root, name) is None and inside(root, f"testcases/{name}") is not None:
            name = f"testcases/{name}"
        if inside(root, name) is None or Path(name).suffix.lower() not in ENDINGS:
            continue
        files.append(name)
        found = [flaw for tag in FLAWS for flaw in item.iter(tag)]
        if found:
            flaws[name] = [int(flaw.get("line", "0")) for flaw in found if flaw.get("line", "").isdigit()]
            weakness = weakness or str(found[0].get("name", ""))
    number = element.get("id", "")
    pair = [item.get("testcaseid") or item.get("id") or "" for item in element.iter("association")]
    return _case(number, files, flaws, weakness, min([number, *filter(None, pair)]))


def _cases_of_sarif(root: Path, path: Path) -> Iterator[Case]:
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
        for run in runs:
            here = path.parent.relative_to(root)
            flaws: dict[str, list[int]] = {}
            weakness = ""
            for result in run.get("results", []):
                weakness = weakness or str(result.get("ruleId", ""))
                for location in result.get("locations", []):
                    place = location["physicalLocation"]
                    name = (here / place["artifactLocation"]["uri"]).as_posix()
                    flaws.setdefault(name, []).append(int(place.get("region", {}).get("startLine", 0)))
            listed = [(here / item["location"]["uri"]).as_posix() for item in run.get("artifacts", [])]
            files = [name for name in listed or flaws if inside(root, name) and Path(name).suffix.lower() in ENDINGS]
            number = str(run.get("properties", {}).get("id") or here.name)
            yield _case(number, files, {name: flaws[name] for name in files if name in flaws}, weakness, number)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"not a SARIF manifest: {error!r}", where=str(path)) from None


def _case(number: str, files: list[str], flaws: dict[str, list[int]], weakness: str, group: str) -> Case:
    found = re.search(r"CWE-?(\d+)", weakness, re.IGNORECASE)
    cwe = f"CWE-{int(found[1])}" if found else ""
    return Case(number, tuple(files), json.dumps({"flaws": flaws, "cwe": cwe, "group": group}))
