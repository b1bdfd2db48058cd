"""Juliet: NIST's test suites for C, C++ and Java, labelled by the names of functions.

A test case is one file, or several that differ in a letter or a word after the number of their flow variant. Its `bad`
function is vulnerable, `good1`, `goodG2B`, `goodB2G` … are safe; with each go the functions that it calls and that
bear its name (`badSource`, `goodG2BSink`), from whichever file. `good` alone only calls the others. Comments, and names
that tell the answer, are removed.
"""

import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secauditai.data.readers.cases import Case, files_below, not_utf8, read_source
from secauditai.data.readers.raw import RawSample

FILE = re.compile(r"(CWE(\d+)_.+?__.+?)_(\d\d)(?:[a-e]|_(?P<flavour>bad|good\w*|base))?\.(c|cpp|java)")
NAME = re.compile(r"(?:helper)?(bad|good(?:G2B|B2G)?\d*)(.*)", re.IGNORECASE | re.DOTALL)
TELLING = re.compile(r"\b(?=\w*(?:bad|good)|CWE\d)[A-Za-z_]\w*", re.IGNORECASE)
VISIBILITY = re.compile(r"\A(static|public|private|protected)\s+")
"""Only good functions are static or private, which would tell them."""
LANGUAGES = {".c": "c", ".cpp": "c++", ".java": "java"}
FUNCTIONS = ("function_definition", "method_declaration", "constructor_declaration")
WRAPPER = "good"


@dataclass(frozen=True)
class Function:
    """One function of a test case."""

    flavour: str
    """bad, good1, goodG2B, …"""
    helper: bool
    name: str
    """As declared."""
    text: str
    file: str
    line: int


def list_cases(root: Path) -> list[Case]:
    """The test cases below a directory, by the names of their files."""
    files: dict[str, list[str]] = defaultdict(list)
    for path in files_below(root):
        found = FILE.fullmatch(path.name)
        if found:
            files[f"{found[1]}_{found[3]}"].append(path.relative_to(root).as_posix())
    return [Case(name, tuple(sorted(files[name]))) for name in sorted(files)]


def read_case(root: Path, case: Case) -> Iterator[RawSample]:
    """The vulnerable and the safe samples of a test case; one that is refused when it cannot be read whole."""
    codes = {name: read_source(root / name) for name in case.files}
    if unread := [name for name in case.files if codes[name] is None]:
        yield not_utf8(root, unread[0], case, case.name)
        return
    functions = [function for name, code in codes.items() if code for function in _functions(name, code)]
    chosen = [function for function in functions if not function.helper and function.flavour != WRAPPER]
    for main in chosen:
        parts = [f for f in functions if f is main or (f.helper and _belongs(f.flavour, main.flavour))]
        yield RawSample(f"{root / main.file}:{main.line}", _sample(case, main, parts))
    if not chosen:
        where = f"{root / case.files[0]}:1"
        yield RawSample(where, {"id": case.name, "code": None, "label": "safe"})


def _belongs(helper: str, main: str) -> bool:
    """Whether a helper is the main function's: `goodG2BSource` serves `goodG2B1` and `goodG2B2` alike."""
    return helper == main or (helper != WRAPPER and re.fullmatch(re.escape(helper) + r"\d", main) is not None)


def _functions(name: str, code: str) -> Iterator[Function]:
    """The functions of a file that have a part in its test case."""
    from secauditai.data.syntax import parse_code, walk

    found = FILE.fullmatch(Path(name).name)
    if found is None:
        return
    for node in walk(parse_code(code, LANGUAGES[Path(name).suffix]).root_node):
        if node.type not in FUNCTIONS:
            continue
        declared = _declared_name(node)
        called = re.sub(rf"^{re.escape(found[1])}_\d\d[a-e]?_", "", declared)
        told = NAME.fullmatch(called)
        text = VISIBILITY.sub("", textwrap.dedent(" " * node.start_point[1] + node.text.decode()), count=1)
        place = (name, node.start_point[0] + 1)
        if told and not (found["flavour"] and _is_constructor(node)):
            helper = bool(told[2]) or called.lower().startswith("helper")
            flavour = told[1][0].lower() + told[1][1:]
            yield Function(flavour, helper, declared, text, *place)
        elif found["flavour"] and found["flavour"] != "base":
            yield Function(found["flavour"], True, declared, text, *place)


def _declared_name(node: Any) -> str:
    """The name of a function, without its class and namespace."""
    item = node.child_by_field_name("name") or node.child_by_field_name("declarator")
    while (inner := item.child_by_field_name("declarator")) is not None:
        item = inner
    return str(item.text.decode()).rpartition("::")[2]


def _is_constructor(node: Any) -> bool:
    """Whether it is one, which bears the name of its class."""
    declared = node.child_by_field_name("declarator")
    return node.type == "constructor_declaration" or (declared is not None and b"::" in declared.text)


def _sample(case: Case, main: Function, parts: list[Function]) -> dict[str, Any]:
    language = LANGUAGES[Path(main.file).suffix]
    bad = main.flavour == "bad"
    code, flaws = _without_comments("\n".join(part.text for part in parts), language)
    found = FILE.fullmatch(Path(main.file).name)
    cwe = f"CWE-{int(found[2])}" if found else ""
    metadata: dict[str, Any] = {"language": language, "cwe": cwe, "group": case.name, "template": case.name[:-3]}
    metadata |= {"file": main.file, "source": "juliet"}
    if bad and flaws:
        metadata["flaw_lines"] = flaws
    sample = {"id": f"{case.name}_{main.flavour}", "code": _neutral(code, main.name), "metadata": metadata}
    return {**sample, "label": "vulnerability" if bad else "safe", **({"category": cwe.lower()} if bad else {})}


def _without_comments(code: str, language: str) -> tuple[str, list[int]]:
    """The code without comments and empty lines, and the lines that comments with FLAW stood before."""
    from secauditai.data.syntax import parse_code, walk

    source, out, marks, position = code.encode(), bytearray(), [], 0
    for node in walk(parse_code(code, language).root_node):
        if "comment" in node.type:
            out += source[position : node.start_byte]
            if b"FLAW" in node.text:
                marks.append(len(out))
            position = node.end_byte
    out += source[position:]
    lines: list[bytes] = []
    flaws, start = set(), 0
    for line in bytes(out).split(b"\n"):
        if line.strip():
            lines.append(line.rstrip())
            end = start + len(line)
            if any(mark <= end for mark in marks):
                marks = [mark for mark in marks if mark > end]
                flaws.add(len(lines))
        start += len(line) + 1
    return b"\n".join(lines).decode() + "\n", sorted(flaws)


def _neutral(code: str, main: str) -> str:
    """The code with names that tell its label or weakness replaced, the same for good and bad versions."""
    names: dict[str, str] = {}

    def rename(found: re.Match[str]) -> str:
        word = found[0]
        known = "process" if word == main else f"name{len(names) + 1}"
        return names.setdefault(word, known)

    return TELLING.sub(rename, code)
