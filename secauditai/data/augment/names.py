"""Local variables that can be renamed, and what to call them instead."""

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from secauditai.data.augment.edits import Edit, Span
from secauditai.data.augment.languages import Parents
from secauditai.data.augment.outline import DIRECTIVE, Outline, is_macro_call, span

WORD = re.compile(r"[A-Za-z_]\w*")
IN_STRING = re.compile(r"[@$]\w+")
"""Names that a string may refer to, as in queries of data frames."""
SHOUTED = re.compile(r"[A-Z][A-Z0-9_]+")
"""What macros are called by habit."""
NOUNS = (
    *("value", "item", "result", "entry", "payload", "content", "current", "target", "origin", "buffer", "chunk"),
    *(
        "element",
        "node",
        "option",
        "part",
        "piece",
        "row",
        "state",
        "token",
        "unit",
        "member",
        "block",
        "slot",
        "detail",
    ),
)
ADJECTIVES = ("new", "old", "local", "inner", "first", "last", "base", "main", "raw", "actual")
RENAMED = 0.75
"""Share of the names that can be renamed and are."""
COMPREHENSIONS = {"list_comprehension", "set_comprehension", "dictionary_comprehension", "generator_expression"}
FUNCTION_VALUES = {"arrow_function", "function_expression", "generator_function", "class"}
LOOPS_OVER = {"for_range_loop", "enhanced_for_statement"}
SPECIAL = {"this", "GLOBALS", "argc", "argv", "php_errormsg", "http_response_header", "arguments", "self"}
NOWHERE = (0, 0)
STRINGS = ("string", "heredoc", "content")
"""Parts of the types of leaves that hold text."""
SHORTHANDS = {"shorthand_property_identifier", "shorthand_property_identifier_pattern"}


@dataclass(frozen=True)
class Local:
    """A local variable: its name, and where it stands, each time with text that goes before it."""

    name: str
    uses: tuple[tuple[Span, str], ...]


def find_locals(outline: Outline) -> list[list[Local]]:
    """The variables that can be renamed, function by function."""
    functions, end = [], 0
    kept = _directive_words(outline)
    for index, node in enumerate(outline.nodes):
        if node.type in outline.grammar.names.functions and node.start_byte >= end:
            end = node.end_byte
            inside = _inside(outline, index)
            if not _sees_names(outline, node, inside):
                functions.append(_function_locals(outline, node, inside, set(kept)))
    return [found for found in functions if found]


def rename(functions: list[list[Local]], outline: Outline, random_source: random.Random) -> list[Edit]:
    """New names for some of the variables; names that the sample has nowhere else."""
    taken = set(WORD.findall(outline.source.decode("utf-8")))
    edits = []
    for found in functions:
        fresh = fresh_names(taken, outline.grammar.names.style, random_source)
        for local in found:
            if random_source.random() < RENAMED:
                name = next(fresh)
                edits += [Edit(*place, (before + name,)) for place, before in local.uses]
    return edits


def fresh_names(taken: set[str], style: str, random_source: random.Random) -> Iterator[str]:
    """Names that are not taken, endlessly, plain ones first."""
    pairs = [(adjective, noun) for adjective in ADJECTIVES for noun in NOUNS]
    joined = [f"{a}_{n}" if style == "snake" else f"{a}{n.capitalize()}" for a, n in random_source.sample(pairs, 60)]
    names = [*random_source.sample(NOUNS, len(NOUNS)), *joined]
    yield from (name for name in names if name not in taken)
    number = 1
    while True:
        number += 1
        yield from (f"{name}{number}" for name in names if f"{name}{number}" not in taken)


def _inside(outline: Outline, index: int) -> list[Any]:
    """A node and all below it."""
    end, last = outline.nodes[index].end_byte, index
    while last < len(outline.nodes) and outline.nodes[last].start_byte < end:
        last += 1
    return outline.nodes[index:last]


def _sees_names(outline: Outline, function: Any, inside: list[Any]) -> bool:
    """Whether a function may look at its variables' names."""
    if outline.grammar.names.reflective.search(outline.text(function)):
        return True
    if not outline.grammar.preprocessor:
        return False
    statements = [node.children[0] for node in inside if node.type == "expression_statement" and node.child_count]
    heads = [node.child_by_field_name("function") or node for node in statements]
    return any(node.type == "identifier" and SHOUTED.fullmatch(outline.text(node)) for node in heads)


def _function_locals(outline: Outline, function: Any, inside: list[Any], kept: set[str]) -> list[Local]:
    names = outline.grammar.names
    scopes: dict[str, list[Span]] = defaultdict(list)
    uses: dict[str, list[tuple[Span, str]]] = defaultdict(list)
    opaque_until = 0
    for node in inside:
        if node.type in names.bindings:
            for target in _targets(outline, node):
                known = _known(outline, node, target, function)
                scopes[outline.text(target)] += [span(target), known]
                kept |= _names_in_iterable(outline, node, target)
                kept |= {outline.text(target)} if known == NOWHERE else set()
        if _is_opaque(outline, node):
            opaque_until = max(opaque_until, node.end_byte)
        hidden = node.start_byte < opaque_until
        if node.type == names.variable:
            name = outline.text(node)
            if not _is_at(outline, node, names.members):
                uses[name].append((span(node), "$" if name.startswith("$") else ""))
                if hidden or _is_at(outline, node, names.kept) or _gets_name(outline, node):
                    kept.add(name)
        elif node.type in SHORTHANDS and not hidden:
            uses[outline.text(node)].append((span(node), f"{outline.text(node)}: "))
            kept |= {outline.text(node)} if _gets_name(outline, node) else set()
        elif node.is_named and not node.child_count:
            kept |= _names_of_leaf(outline, node)
    return [
        Local(name, tuple(uses[name]))
        for name in sorted(scopes)
        if name not in kept and _may_go(name) and all(_covers(scopes[name], use) for use, _ in uses[name])
    ]


def _targets(outline: Outline, node: Any) -> Iterator[Any]:
    """The names that a node declares."""
    names = outline.grammar.names
    if not _declares(outline, node):
        return
    field = names.bindings[node.type]
    stack = list(node.children_by_field_name(field) if field else node.named_children[1:])
    while stack:
        target = stack.pop()
        if target.type == names.variable or target.type in SHORTHANDS:
            yield target
        elif target.type in names.patterns:
            inner = [target.child_by_field_name(name) for name in ("declarator", "left", "value")]
            found = [child for child in inner if child is not None]
            stack += found[:1] or target.named_children


def _declares(outline: Outline, node: Any) -> bool:
    """Whether a node that can declare variables does."""
    tokens = {child.type for child in node.children}
    if node.type in ("range_clause", "receive_statement"):
        return ":=" in tokens
    if node.type == "for_in_statement":
        return node.child_by_field_name("kind") is not None
    if node.type == "declaration":
        words = [outline.text(child) for child in node.children if child.type == "storage_class_specifier"]
        return "extern" not in words
    return bool(node.type != "variable_declarator" or outline.parents[node.id].type != "field_declaration")


def _known(outline: Outline, node: Any, target: Any, function: Any) -> Span:
    """Where a variable is known; nowhere when it belongs to a class."""
    names = outline.grammar.names
    wanted = COMPREHENSIONS if node.type == "for_in_clause" else names.scopes
    if node.type == "variable_declarator" and outline.parents[node.id].type == "variable_declaration":
        wanted = names.functions
    scope = node
    while scope.type not in wanted and scope.id != function.id:
        scope = outline.parents[scope.id]
    if scope.type == "class_definition":
        return NOWHERE
    start, end = span(scope)
    if names.begins == "declaration":
        return (target if node.type == "type_switch_statement" else node).end_byte, end
    if node.type in LOOPS_OVER or scope.type in (*names.functions, "lambda"):
        start = (scope.child_by_field_name("body") or scope).start_byte
    return max(start, target.start_byte) if names.begins == "name" else start, end


def _covers(stretches: list[Span], use: Span) -> bool:
    return any(start <= use[0] < end for start, end in stretches)


def _is_at(outline: Outline, node: Any, places: Parents) -> bool:
    kind = outline.parents[node.id].type
    if not any(parent == kind for parent, _ in places):
        return False
    return (kind, "") in places or (kind, outline.field(node)) in places


def _is_opaque(outline: Outline, node: Any) -> bool:
    """Whether names inside a node must stay."""
    if node.type in outline.grammar.names.opaque:
        return True
    if node.type == "interpolation":  # f"{name=}" shows the name
        return any(child.type == "=" for child in node.children)
    parent = outline.parents[node.id]
    if node.type == "literal_element":  # a field or a key
        return parent.type == "keyed_element" and bool(parent.children[0].id == node.id)
    return node.type == "argument_list" and outline.grammar.preprocessor and is_macro_call(parent)


def _gets_name(outline: Outline, node: Any) -> bool:
    """Whether a function takes its own name from a variable that it is assigned to."""
    parent = outline.parents[node.id]
    value = parent.child_by_field_name("value") or parent.child_by_field_name("right")
    return value is not None and value.id != node.id and value.type in FUNCTION_VALUES


def _names_of_leaf(outline: Outline, node: Any) -> set[str]:
    """Names of variables that something else than a variable refers to."""
    if "comment" in node.type or node.type in outline.grammar.names.other_names:
        return set()
    text = outline.text(node)
    if not any(kind in node.type for kind in STRINGS):
        return {text}
    return {*IN_STRING.findall(text), *(word[1:] for word in IN_STRING.findall(text))}


def _names_in_iterable(outline: Outline, node: Any, target: Any) -> set[str]:
    """A comprehension's variable that one of its iterables names too, where it can mean another."""
    if node.type != "for_in_clause":
        return set()
    name = outline.text(target)
    clauses = [child for child in outline.parents[node.id].children if child.type == "for_in_clause"]
    words = {word for clause in clauses for word in WORD.findall(outline.text(clause.child_by_field_name("right")))}
    return {name} & words


def _directive_words(outline: Outline) -> set[str]:
    """All words of lines for the preprocessor."""
    if not outline.grammar.preprocessor:
        return set()
    lines = [match.group().decode("utf-8") for match in DIRECTIVE.finditer(outline.source)]
    return {word for line in lines for word in WORD.findall(line)}


def _may_go(name: str) -> bool:
    bare = name.removeprefix("$")
    return bare.isascii() and WORD.fullmatch(bare) is not None and not bare.startswith("_") and bare not in SPECIAL
