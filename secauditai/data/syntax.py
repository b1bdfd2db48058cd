"""Syntax trees of seven languages: which language some code is in, and where its comments are."""

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "java": ("tree_sitter_java", "language"),
    "c": ("tree_sitter_c", "language"),
    "c++": ("tree_sitter_cpp", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "php": ("tree_sitter_php", "language_php"),
    "go": ("tree_sitter_go", "language"),
}
"""Language, as samples name it, to the package that holds its grammar and the function that returns it."""
ALIASES = {"cpp": "c++", "cxx": "c++", "js": "javascript", "py": "python", "golang": "go"}
MARKERS = {
    "php": r"<\?php|\$\w+\s*(=|->)",
    "python": r"^\s*(def \w+\(.*|class \w+.*|if .+|for .+ in .+|with .+):\s*(#.*)?$|^(import|from) [\w.]+",
    "java": r"\b(public|private|protected)\s+(static\s+)?[\w<>\[\]]+\s+\w+\s*\(|\bimport java|\bnew \w+<",
    "go": r"^func\b|:=|^package \w+$",
    "javascript": r"\b(function\b|const \w|let \w|var \w)|=>|\brequire\(|===|\bdocument\.",
    "c++": r"\w::\w|\btemplate\s*<|\bnamespace\b|\bnew \w+\[|\bstd::",
    "c": r"^#\s*include|\b(int|char|void|size_t|struct \w+)\s*\**\s*\w+\s*[(=;\[]|\w->\w",
}
"""What code of a language often has and code of the others seldom."""
LOOKED_AT = 8_000
"""Characters from which a language is told."""
MAX_ERROR_SHARE = 0.3


def canonical(language: str) -> str:
    """The name that `GRAMMARS` has for a language."""
    return ALIASES.get(language, language)


def detect_language(code: str) -> str:
    """The language some code is in, by marks of the languages and by which grammar fits; "" when none does."""
    head = code[:LOOKED_AT]
    hits = {name: len(pattern.findall(head)) for name, pattern in _markers().items()}
    candidates = [name for name, count in hits.items() if count] or [name for name in GRAMMARS if name != "php"]
    shares = {name: _error_share(head, name) for name in candidates}
    limit = MAX_ERROR_SHARE if any(hits.values()) else 0.0
    best = min(shares, key=lambda name: (shares[name] > MAX_ERROR_SHARE, round(shares[name], 2), -hits[name]))
    return best if shares[best] <= limit else ""


def strip_comments(code: str, language: str, lines: Sequence[int] = ()) -> tuple[str, list[int]]:
    """The code without its comments and the lines that only held them; unchanged in a language without a grammar.

    Args:
        code: the code.
        language: as samples name it.
        lines: numbers of lines, from 1.

    Returns:
        The code, and where these lines are in it; those that are gone are left out.
    """
    tree = parse_code(code, language)
    if tree is None:
        return code, list(lines)
    source = code.encode("utf-8")
    spans = _comment_spans(source, tree.root_node)
    starts, ends = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(source)]
    kept = b"".join(source[start:end] for start, end in zip(starts, ends, strict=True))
    return kept.decode("utf-8", "replace"), _moved_lines(source, spans, lines)


def _comment_spans(source: bytes, root: Any) -> list[tuple[int, int]]:
    """Where comments are, from start to end in bytes, in order and apart; whole lines where they hold no more."""
    spans: list[tuple[int, int]] = []
    for node in walk(root):
        if "comment" not in node.type or node.text.startswith(b"#!"):
            continue
        start, end = node.start_byte, node.end_byte
        alone = source.rfind(b"\n", 0, start) + 1
        if not source[alone:start].strip() and source[end : end + 1] in (b"\n", b""):
            start, end = alone, min(end + 1, len(source))
        if not spans or start >= spans[-1][1]:  # else it is within the one before
            spans.append((start, end))
    return spans


def _moved_lines(source: bytes, spans: Sequence[tuple[int, int]], lines: Sequence[int]) -> list[int]:
    """Where lines are once the spans are cut out."""
    starts = [0, *(found.end() for found in re.finditer(b"\n", source)), len(source) + 1]
    moved = []
    for line in lines:
        if not 1 <= line < len(starts):
            continue
        begin, end = starts[line - 1], min(starts[line], len(source))
        if any(start <= begin and end <= stop for start, stop in spans):
            continue
        cut = sum(source.count(b"\n", start, min(stop, begin)) for start, stop in spans if start < begin)
        moved.append(line - cut)
    return moved


def parse_code(code: str, language: str) -> Any:
    """The syntax tree of some code; None for a language without a grammar."""
    parser = _parser(canonical(language))
    if parser is None:
        return None
    if canonical(language) == "php" and "<?" not in code:
        return None  # without its opening tag, PHP's grammar takes everything for text
    return parser.parse(code.encode("utf-8"))


def walk(node: Any) -> Iterator[Any]:
    """A node and all nodes below it, in the order of the text."""
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        stack += reversed(current.children)


@cache
def _markers() -> dict[str, re.Pattern[str]]:
    return {name: re.compile(pattern, re.MULTILINE) for name, pattern in MARKERS.items()}


@cache
def _parser(language: str) -> Any:
    if language not in GRAMMARS:
        return None
    from tree_sitter import Language, Parser

    module, function = GRAMMARS[language]
    return Parser(Language(getattr(importlib.import_module(module), function)()))


def _error_share(code: str, language: str) -> float:
    """The share of bytes that a grammar cannot make sense of."""
    if language == "php" and "<?" not in code:
        code = "<?php\n" + code
    root = parse_code(code, language).root_node
    if not root.has_error:
        return 0.0
    wrong: int = sum(node.end_byte - node.start_byte for node in walk(root) if node.type == "ERROR")
    size: int = root.end_byte - root.start_byte
    return min(1.0, (wrong + 1) / max(1, size))
