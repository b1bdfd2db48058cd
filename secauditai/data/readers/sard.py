"""SARD: test cases of NIST's Software Assurance Reference Dataset, labelled by `manifest.xml` or `manifest.sarif`.

A test case with flaws gives its flawed files as one vulnerable sample; one without gives its files as a safe one.
Where SARIF states that a test case is good or bad, that counts: it lists weaknesses of good ones too, as passed.
Test cases that a manifest associates, as a vulnerable one and its fixed version, are one group, over any chain of them.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from secauditai.data.readers.cases import ENDINGS, Case, files_below, inside, not_utf8, read_source
from secauditai.data.readers.raw import RawSample
from secauditai.errors import DataError

XML, SARIF = "manifest.xml", "manifest.sarif"
FLAWS = ("flaw", "mixed")
VERSION = re.compile(r"-v[\d.]+\Z")
"""What follows the number of a test case in its identifier, such as `149076-v1.0.0`."""


def manifests(root: Path) -> list[Path]:
    """The manifests below a directory; a `manifest.xml` at the top speaks for all."""
    top = root / XML
    if inside(root, XML):
        return [top] if b"<container" in top.open("rb").read(4096) else []
    return [path for path in files_below(root) if path.name == SARIF]


def list_cases(root: Path) -> list[Case]:
    """The test cases of all manifests; one of which a test suite's and its own manifest tell the same is listed once.

    Raises:
        DataError: when a manifest cannot be read.
    """
    found = dict.fromkeys(
        case
        for path in manifests(root)
        for case in (_cases_of_xml(root, path) if path.name == XML else _cases_of_sarif(root, path))
    )
    groups = _groups([case.name, *case.fact("linked")] for case in found)
    named = [replace(case, facts=json.dumps({**json.loads(case.facts), "group": groups[case.name]})) for case in found]
    return sorted(named, key=lambda case: case.name)


def _groups(links: Iterable[list[str]]) -> dict[str, str]:
    """The smallest of all numbers that a number is linked to, over whatever links and in whichever direction."""
    parents: dict[str, str] = {}

    def root_of(number: str) -> str:
        parents.setdefault(number, number)
        while (above := parents[number]) != number:
            parents[number] = number = parents[above]
        return number

    for first, *others in links:
        for other in others:
            low, high = sorted((root_of(first), root_of(other)))
            parents[high] = low
        root_of(first)
    return {number: root_of(number) for number in list(parents)}


def read_case(root: Path, case: Case) -> Iterator[RawSample]:
    """The one sample of a test case."""
    flaws: dict[str, list[int]] = case.fact("flaws")
    names = [name for name in case.files if name in flaws] or list(case.files)
    texts = {name: read_source(root / name) for name in names}
    if unread := [name for name in names if texts[name] is None]:
        yield not_utf8(root, unread[0], case, f"sard_{case.name}")
        return
    code = "\n".join(text for text in texts.values() if text is not None)
    metadata: dict[str, Any] = {"source": "sard", "file": names[0] if names else ""}
    language = ENDINGS.get(Path(metadata["file"]).suffix.lower())
    metadata |= {key: value for key, value in (("cwe", case.fact("cwe")), ("language", language)) if value}
    if len(names) == 1 and flaws.get(names[0]):
        metadata["flaw_lines"] = sorted(set(flaws[names[0]]))
    metadata["group"] = f"sard_{case.fact('group')}"
    bad = case.fact("bad")
    sample = {"id": f"sard_{case.name}", "code": code, "label": "vulnerability" if bad else "safe"}
    if bad and metadata.get("cwe"):
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
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # also of an encoding that is not known
        raise DataError(f"not valid XML: {error}", where=str(path)) from None


def _case_of_element(root: Path, element: ElementTree.Element) -> Case:
    files, flaws, weakness = [], {}, ""
    for item in element.iter("file"):
        name = item.get("path", "")
        found = [flaw for tag in FLAWS for flaw in item.iter(tag)]
        if inside(root, name) is None and inside(root, f"testcases/{name}") is not None:
            name = f"testcases/{name}"
        if inside(root, name) is not None and Path(name).suffix.lower() in ENDINGS:
            files.append(name)
        if found:
            flaws[name] = [int(flaw.get("line", "0")) for flaw in found if flaw.get("line", "").isdecimal()]
            weakness = weakness or str(found[0].get("name", ""))
    linked = [item.get("testcaseid") or item.get("id") or "" for item in element.iter("association")]
    return _case(element.get("id", ""), files, flaws, weakness, linked)


def _cases_of_sarif(root: Path, path: Path) -> Iterator[Case]:
    """The test case of a manifest, or all of a test suite's manifest, which holds one SARIF document for each."""
    here = path.parent.relative_to(root)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        suite = [(item["identifier"], item["sarif"]) for item in document.get("testCases", [])]
        for identifier, sarif in suite or [("", document)]:
            for run in sarif["runs"]:
                yield _case_of_run(root, here, run, identifier)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(f"not a SARIF manifest: {error!r}", where=str(path)) from None


def _case_of_run(root: Path, here: Path, run: dict[str, Any], identifier: str) -> Case:
    """A test case of SARIF.

    Args:
        root: the directory of all test cases.
        here: that of the manifest, below the root.
        run: what the manifest says about the test case.
        identifier: such as `149076-v1.0.0`; "" when only the directory's name and the run tell it.
    """
    facts = run.get("properties", {})
    flaws: dict[str, list[int]] = {}
    weakness = ""
    for result in run.get("results", []):
        weakness = weakness or str(result.get("ruleId", ""))
        if facts.get("state") == "good" or result.get("kind", "fail") != "fail":
            continue
        for location in result.get("locations", []):
            place = location["physicalLocation"]
            name = (here / place["artifactLocation"]["uri"]).as_posix()
            flaws.setdefault(name, []).append(int(place.get("region", {}).get("startLine", 0)))
    listed = [(here / item["location"]["uri"]).as_posix() for item in run.get("artifacts", [])]
    files = [name for name in listed or flaws if inside(root, name) and Path(name).suffix.lower() in ENDINGS]
    known = str(facts.get("id") or VERSION.sub("", identifier) or here.name)
    # Pairs are named by identifier, and the run's own id may be an older number of the same test case.
    own = [facts.get("id"), identifier or (here.name if VERSION.search(here.name) else None)]
    linked = [VERSION.sub("", str(name)) for name in (*own, *(facts.get("pairs") or [])) if name]
    return _case(known, files, flaws, weakness, linked, bad=facts.get("state") in ("bad", "mixed"))


def _case(
    number: str, files: list[str], flaws: dict[str, list[int]], weakness: str, linked: list[str], *, bad: bool = False
) -> Case:
    """A test case; without files, so that it is refused, when none of its flawed ones can be read."""
    found = re.search(r"CWE-?(\d+)", weakness, re.IGNORECASE)
    known = {name: flaws[name] for name in files if name in flaws}
    facts = {
        "flaws": known,
        "bad": bad or bool(flaws),
        "cwe": f"CWE-{int(found[1])}" if found else "",
        "linked": [name for name in linked if name and name != number],
    }
    return Case(number, tuple(files) if known or not flaws else (), json.dumps(facts))
