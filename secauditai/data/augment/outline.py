"""A sample as the rewrites see it: its source, its syntax tree in order of the text, and what must stay as it is."""

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from secauditai.data.augment.edits import Span
from secauditai.data.augment.languages import GRAMMARS, Grammar
from secauditai.data.syntax import canonical, parse_code, walk

DIRECTIVE = re.compile(rb"^[ \t]*#(?:[^\n\\]|\\.|\\\n)*", re.MULTILINE | re.DOTALL)
"""A line for the preprocessor, with its continuations."""
MACRO = re.compile(
    r"[A-Z][A-Z0-9_]+|assert|offsetof|container_of|va_arg|typeof|__\w+|\w*(list|rb|hlist)_(\w+_)?entry\w*|\w*for_each\w*"
)
"""Functions that may be macros, which see the text of their arguments."""


@dataclass(frozen=True)
class Outline:
    """A parsed sample."""

    language: str
    grammar: Grammar
    prefix: str
    suffix: str
    """Text around the sample with which it parses; part of `source`."""
    source: bytes
    nodes: list[Any]
    """All nodes in the order of the text, parents first."""
    parents: dict[int, Any]
    """Id of a node to its parent."""
    fixed: list[Span]
    """Stretches whose text must stay, in order and apart."""

    def text(self, node: Any) -> str:
        """A node's source."""
        return self.source[node.start_byte : node.end_byte].decode("utf-8")

    def is_free(self, start: int) -> bool:
        """Whether the text at a byte may change."""
        index = bisect_right(self.fixed, (start, len(self.source) + 1)) - 1
        return index < 0 or self.fixed[index][1] <= start

    def field(self, node: Any) -> str:
        """The field of its parent that a node is in; "" for none."""
        parent = self.parents[node.id]
        for index, child in enumerate(parent.children):
            if child.id == node.id:
                return parent.field_name_for_child(index) or ""
        return ""

    def restore(self, rewritten: bytes) -> str | None:
        """Rewritten source as a sample again; None when it does not parse."""
        text = rewritten.decode("utf-8")
        tree = parse_code(text, self.language)
        if tree is None or tree.root_node.has_error:
            return None
        if not (text.startswith(self.prefix) and text.endswith(self.suffix)):
            return None
        return text[len(self.prefix) : len(text) - len(self.suffix)]


def span(node: Any) -> Span:
    """Where a node stands."""
    return node.start_byte, node.end_byte


def parts_of(node: Any) -> list[Any]:
    """The named children of a node, without comments."""
    return [child for child in node.named_children if "comment" not in child.type]


def open_outline(code: str, language: str) -> Outline | None:
    """Parse a sample; None for a language without rewrites and for code that does not parse."""
    language = canonical(language)
    grammar = GRAMMARS.get(language)
    if grammar is None:
        return None
    for prefix, suffix in grammar.wrappers:
        if prefix.startswith("<?php") and "<?" in code:
            continue
        wrapped = f"{prefix}{code}{suffix}"
        tree = parse_code(wrapped, language)
        if tree is not None and not tree.root_node.has_error:
            source = wrapped.encode("utf-8")
            nodes = list(walk(tree.root_node))
            parents: dict[int, Any] = {}
            for node in nodes:
                parents.update((child.id, node) for child in node.children)
            fixed = _fixed(source, nodes, grammar)
            return Outline(language, grammar, prefix, suffix, source, nodes, parents, fixed)
    return None


def is_macro_call(node: Any) -> bool:
    """Whether a node is the use of something that may be a macro of C."""
    if node.type != "call_expression":
        return False
    function = node.child_by_field_name("function")
    return function.type == "identifier" and MACRO.fullmatch(function.text.decode("utf-8")) is not None


def _fixed(source: bytes, nodes: list[Any], grammar: Grammar) -> list[Span]:
    spans = [span(node) for node in nodes if node.type in grammar.fixed]
    if grammar.preprocessor:
        spans += [match.span() for match in DIRECTIVE.finditer(source)]
        spans += [span(node.child_by_field_name("arguments")) for node in nodes if is_macro_call(node)]
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
