"""Label-preserving rewrites of code, by its syntax tree: local names, comments and white space.

Python only so far; code in other languages is left as it is. A rewrite never changes what the code does.
"""

import hashlib
import keyword
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

from secauditai.data.tokens import Augmentation

VERSION = 1
COMMENTS = ("note", "see above", "keep in step with callers", "checked in review", "part of the request path")
PARAMETERS = {"parameters", "lambda_parameters"}
NAMES = (
    *(
        "value",
        "item",
        "data",
        "result",
        "entry",
        "record",
        "payload",
        "content",
        "current",
        "field",
        "target",
        "source",
    ),
    *("buffer", "chunk", "element", "node", "option", "part", "piece", "row", "state", "token", "unit", "member"),
)


@dataclass(frozen=True)
class Rewriter:
    """Makes numbered rewrites of code, the same for the same (seed, sample, variant); works in other processes."""

    seed: int

    def __call__(self, code: str, language: str, sample: str, variant: int) -> str:
        """A rewrite of the code; the code itself where the language is not supported or does not parse."""
        if language != "python":
            return code
        digest = hashlib.sha256(f"{self.seed} {sample} {variant}".encode()).digest()
        return rewrite_python(code, random.Random(digest))


def build_rewrite(*, variants: int, seed: int) -> Augmentation:
    """The augmentation for a token store."""
    return Augmentation(variants, Rewriter(seed), f"rewrites {VERSION} seed {seed}")


def rewrite_python(code: str, random_source: random.Random) -> str:
    """Rename locals, drop or add comments and change blank lines of Python code.

    Names that other code could know stay: parameters, attributes, globals, and anything of a function that uses
    `locals()`, `exec` and the like, `global` or `nonlocal`.
    """
    source = code.encode("utf-8")
    tree = _parser().parse(source)
    if tree.root_node.has_error:
        return code
    edits = [*_renames(tree.root_node, random_source), *_comment_edits(tree.root_node, random_source)]
    for start, end, text in sorted(edits, reverse=True):
        source = source[:start] + text.encode("utf-8") + source[end:]
    rewritten = _blank_lines(source.decode("utf-8"), random_source)
    return code if _parser().parse(rewritten.encode("utf-8")).root_node.has_error else rewritten


@cache
def _parser() -> Any:
    import tree_sitter_python
    from tree_sitter import Language, Parser

    return Parser(Language(tree_sitter_python.language()))


def _renames(root: Any, random_source: random.Random) -> list[tuple[int, int, str]]:
    taken = {node.text.decode() for node in _walk(root) if node.type == "identifier"}
    edits = []
    for function in (node for node in _walk(root) if node.type == "function_definition" and not _inside_function(node)):
        fresh = [name for name in NAMES if name not in taken]
        random_source.shuffle(fresh)
        for name in sorted(_local_names(function)):
            if not fresh or random_source.random() < 0.25:
                continue
            replacement = fresh.pop()
            taken.add(replacement)
            edits += [(node.start_byte, node.end_byte, replacement) for node in _uses(function, name)]
    return edits


def _local_names(function: Any) -> set[str]:
    """Names assigned in a function and in no way visible outside it."""
    nodes = list(_walk(function))
    identifiers = [node for node in nodes if node.type == "identifier"]
    if any(node.type in ("global_statement", "nonlocal_statement", "class_definition") for node in nodes):
        return set()
    if any(node.text in (b"locals", b"vars", b"exec", b"eval", b"globals", b"dir") for node in identifiers):
        return set()
    assigned = {node.text.decode() for node in identifiers if _is_target(node)}
    parameters = {
        item.text.decode()
        for node in nodes
        if node.type in PARAMETERS
        for item in _walk(node)
        if item.type == "identifier"
    }
    imported = {
        item.text.decode()
        for node in nodes
        if node.type in ("import_statement", "import_from_statement")
        for item in _walk(node)
        if item.type == "identifier"
    }
    nested = {node.child_by_field_name("name").text.decode() for node in nodes if node.type == "function_definition"}
    names = assigned - parameters - imported - nested
    return {name for name in names if not keyword.iskeyword(name) and not name.startswith("_")}


def _is_target(node: Any) -> bool:
    """Whether an identifier is what a statement assigns to."""
    parent = node.parent
    while parent is not None and parent.type in ("pattern_list", "tuple_pattern", "list_pattern"):
        node, parent = parent, parent.parent
    if parent is None:
        return False
    if parent.type in ("assignment", "for_statement", "for_in_clause"):
        return bool(parent.child_by_field_name("left") == node)
    return bool(parent.type == "as_pattern_target")


def _uses(function: Any, name: str) -> list[Any]:
    """All places where a local name stands, attributes and keyword arguments of that name left out."""
    found = []
    for node in _walk(function):
        if node.type != "identifier" or node.text.decode() != name:
            continue
        parent = node.parent
        attribute = parent.type == "attribute" and parent.child_by_field_name("attribute") == node
        keyword_name = parent.type == "keyword_argument" and parent.child_by_field_name("name") == node
        if not attribute and not keyword_name:
            found.append(node)
    return found


def _inside_function(node: Any) -> bool:
    while (node := node.parent) is not None:
        if node.type == "function_definition":
            return True
    return False


def _comment_edits(root: Any, random_source: random.Random) -> list[tuple[int, int, str]]:
    edits = []
    for node in _walk(root):
        if node.type == "comment" and not node.text.startswith(b"#!") and random_source.random() < 0.5:
            edits.append((node.start_byte, node.end_byte, f"# {random_source.choice(COMMENTS)}"))
        elif (
            node.type == "block" and random_source.random() < 0.15 and node.start_point[0] > node.parent.start_point[0]
        ):
            indent = " " * node.start_point[1]
            edits.append((node.start_byte, node.start_byte, f"# {random_source.choice(COMMENTS)}\n{indent}"))
    return edits


def _blank_lines(code: str, random_source: random.Random) -> str:
    """Add or drop blank lines, outside strings that span lines."""
    if '"""' in code or "'''" in code or "\\\n" in code:
        return code
    lines: list[str] = []
    for line in code.split("\n"):
        if not line.strip() and lines and not lines[-1].strip() and random_source.random() < 0.5:
            continue
        lines.append(line)
        if line.strip() and random_source.random() < 0.05:
            lines.append("")
    return "\n".join(lines)


def _walk(node: Any) -> list[Any]:
    """All nodes below and including one, in source order."""
    found, waiting = [], [node]
    while waiting:
        current = waiting.pop()
        found.append(current)
        waiting.extend(reversed(current.children))
    return found
