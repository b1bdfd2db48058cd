"""Comments, blank lines, spaces and dead code: what can stand between statements without a meaning."""

import random
import re
from dataclasses import dataclass
from typing import Any

from secauditai.data.augment.edits import Edit, insert, replace
from secauditai.data.augment.names import WORD
from secauditai.data.augment.outline import Outline, parts_of

COMMENTS = (
    *("note", "see above", "see below", "next step", "main part", "local part", "as before", "intermediate step"),
    *("keep in step with callers", "part of the request path", "order matters here", "used further down"),
)
MEANINGFUL = re.compile(
    r"^#!|@|-\*-|\bcoding[:=]|\b(type|vim|output|language|nolint\w*|sourceMappingURL|sourceURL|webpack\w+)\s*:"
    r"|^//\s*\+build|^//(go|line|export|sys|nolint)\b|\b(noqa|nosec|pragma|pylint|mypy|pyright|flake8|isort)\b"
    r"|\b(fmt|ruff)\b"
    r"|\b(eslint|jshint|jslint|istanbul|prettier|phpcs|phpstan|psalm|clang-format|NOLINT\w*|NOSONAR|CHECKSTYLE)\b"
    r"|\b(noinspection|SPDX|copyright|licen[sc]e|lint|globals?|exported)\b|__PURE__|fall[- ]?s?[- ]?thr"
    r"|^/\*[!#]|\?>|\\\n",
    re.IGNORECASE,
)
"""Comments that tools or compilers read."""
REPLACED, DROPPED, ADDED, BLANK_ADDED, BLANK_DROPPED, RESPACED = 0.3, 0.2, 0.06, 0.05, 0.5, 0.3
"""How often each is done."""
SPARE = ("spare", "scratch", "extra", "filler", "unset", "reserve", "leftover", "placeholder", "surplus", "idle")
"""Names in dead code, which renaming does not use."""
DEAD_PIECES = 2
"""Pieces of dead code in a sample, on average, where there is room."""
ARGUMENTS = {"argument_list", "arguments"}


@dataclass(frozen=True)
class Slot:
    """A statement that begins its line, so that lines can be added in front of it."""

    start: int
    line: int
    indent: str
    blank: int
    """Where the blank lines in front of it begin; `line` when there are none."""
    takes_code: bool


@dataclass(frozen=True)
class Comment:
    """A comment that says nothing to machines."""

    start: int
    end: int
    marker: str
    drop: tuple[int, int] | None
    """What goes when it is dropped; None when something else on the line needs it."""


def find_slots(outline: Outline) -> list[Slot]:
    """The places between statements, in order of the text."""
    grammar, slots = outline.grammar, []
    for node in outline.nodes:
        if node.type in grammar.blocks or node.type in grammar.roots:
            children = parts_of(node)
            tops = [index for index, child in enumerate(children) if child.type in grammar.prologue]
            first = max(tops) + 1 if tops and node.type in grammar.roots else 0
            closed = _is_closed(outline, node)
            for index, child in enumerate(children):
                if child.type in grammar.outside:
                    continue
                code = not closed and index >= first and child.type not in grammar.not_before and not _is_text(child)
                shown = index > 0 and outline.source.endswith(b"<?=", 0, children[index - 1].end_byte)
                slot = _slot(outline, child, code and not shown)
                if slot is not None:
                    slots.append(slot)
    return slots


def find_comments(outline: Outline) -> list[Comment]:
    """The comments that may be replaced."""
    if outline.language == "go" and b'"C"' in outline.source:
        return []  # comments above that import are C
    found = []
    for node in outline.nodes:
        if "comment" in node.type and outline.is_free(node.start_byte):
            text = outline.text(node)
            marker = next((mark for mark in ("/*", "//", "#") if text.startswith(mark)), None)
            if marker is not None and not MEANINGFUL.search(text) and node.type != "html_comment":
                comment = _comment(outline.source, node.start_byte, node.end_byte, marker)
                if comment.drop is not None or "\n" not in text:
                    found.append(comment)
    return found


def find_commas(outline: Outline) -> list[tuple[int, int]]:
    """The white space after each comma between arguments, where it does not end the line."""
    found = []
    for node in outline.nodes:
        if node.type in ARGUMENTS and outline.is_free(node.start_byte):
            commas = [child.end_byte for child in node.children if child.type == ","]
            for start in commas:
                end = start
                while outline.source[end : end + 1] == b" ":
                    end += 1
                if outline.source[end : end + 1] not in (b"\n", b"\r", b"\t", b")", b"", b"/", b"#"):
                    found.append((start, end))
    return found


def edit_comments(comments: list[Comment], random_source: random.Random) -> list[Edit]:
    """Replace some comments and drop some."""
    edits = []
    for comment in comments:
        choice = random_source.random()
        if choice < DROPPED and comment.drop is not None:
            edits.append(replace(comment.drop, ""))
        elif choice < DROPPED + REPLACED:
            text = random_source.choice(COMMENTS)
            edits.append(replace((comment.start, comment.end), f"{comment.marker} {text}{_closing(comment.marker)}"))
    return edits


def edit_lines(slots: list[Slot], outline: Outline, random_source: random.Random) -> list[Edit]:
    """Add comments, and add and drop blank lines."""
    edits = []
    for slot in slots:
        if random_source.random() < ADDED:
            text = random_source.choice(outline.grammar.line_comments).format(random_source.choice(COMMENTS))
            edits.append(insert(slot.start, f"{text}\n{slot.indent}"))
        if slot.blank < slot.line:
            if random_source.random() < BLANK_DROPPED:
                edits.append(replace((slot.blank, slot.line), ""))
        elif random_source.random() < BLANK_ADDED:
            edits.append(insert(slot.line, "\n"))
    return edits


def edit_spaces(commas: list[tuple[int, int]], random_source: random.Random) -> list[Edit]:
    """One way to space arguments in all of the sample."""
    if random_source.random() >= RESPACED:
        return []
    space = random_source.choice(("", " "))
    return [replace(comma, space) for comma in commas if comma[1] - comma[0] != len(space)]


def add_dead_code(slots: list[Slot], outline: Outline, random_source: random.Random) -> list[Edit]:
    """Put statements without effect in front of some others."""
    slots = [slot for slot in slots if slot.takes_code]
    taken = set(WORD.findall(outline.source.decode("utf-8")))
    names = [name for name in SPARE if name not in taken]
    if not slots or not names or (outline.language == "c++" and b"constexpr" in outline.source):
        return []
    unit = "\t" if outline.language == "go" or any("\t" in slot.indent for slot in slots) else "    "
    edits = []
    for slot in slots:
        if random_source.random() < min(0.3, DEAD_PIECES / len(slots)):
            text = random_source.choice(outline.grammar.dead).replace("{name}", random_source.choice(names))
            lines = text.replace("\t", unit).split("\n")
            edits.append(insert(slot.start, "".join(f"{line}\n{slot.indent}" for line in lines)))
    return edits


def _closing(marker: str) -> str:
    return " */" if marker == "/*" else ""


def _is_closed(outline: Outline, block: Any) -> bool:
    """Whether a block holds declarations or cases rather than statements."""
    parent = outline.parents.get(block.id)
    return parent is not None and parent.type in ("class_definition", "switch_statement")


def _is_text(statement: Any) -> bool:
    """Whether a statement is just a string, such as documentation or a directive."""
    children = parts_of(statement)
    return len(children) == 1 and "string" in children[0].type


def _slot(outline: Outline, statement: Any, takes_code: bool) -> Slot | None:
    source, start = outline.source, statement.start_byte
    line = _line(source, start)
    indent = source[line:start]
    if indent.strip() or not outline.is_free(start) or source.endswith((b"\\\n", b"\\\r\n"), 0, line):
        return None
    blank = line
    while blank and not source[(above := _line(source, blank - 1)) : blank].strip():
        blank = above
    if source.endswith(b"\\\n", 0, blank) or blank <= len(outline.prefix):
        blank = line
    return Slot(start, line, indent.decode("utf-8"), blank, takes_code)


def _line(source: bytes, at: int) -> int:
    """Where the line of a byte begins."""
    return source.rfind(b"\n", 0, at) + 1


def _comment(source: bytes, start: int, end: int, marker: str) -> Comment:
    line, stop = _line(source, start), source.find(b"\n", end)
    stop = len(source) if stop < 0 else stop
    if source[end:stop].strip() or source.endswith(b"\\\n", 0, line):
        return Comment(start, end, marker, None)
    before = source[line:start]
    if not before.strip():
        return Comment(start, end, marker, (line, min(stop + 1, len(source))))
    return Comment(start, end, marker, (line + len(before.rstrip()), end))
