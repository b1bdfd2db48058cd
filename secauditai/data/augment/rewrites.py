"""Neutral rewrites of expressions: increments, parentheses, comparisons and integers."""

import re
from collections.abc import Iterator
from typing import Any

from secauditai.data.augment.edits import Edit, Span, replace, wrap
from secauditai.data.augment.outline import Outline, parts_of, span

INCREMENT = re.compile(r"(?P<before>\+\+|--)?\s*[$\w]+\s*(?:(?P<after>\+\+|--)|(?P<assign>[+-]=)\s*1)?;?")
MIRRORED = {"==": "==", "!=": "!=", "===": "===", "!==": "!==", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
VARIABLES = {"identifier", "variable_name"}
DECLARING = {
    "declaration",
    "parameter_declaration",
    "local_variable_declaration",
    "field_declaration",
    "formal_parameter",
}
LARGEST = 32_767
"""Integers up to here have one type in C, however they are written."""
STEPS = {"update_expression", "assignment_expression", "augmented_assignment_expression"}
CONDITIONAL = {"if_statement", "while_statement", "elif_clause"}


def increments(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Statements that add or take 1, in the other forms that mean the same."""
    forms = outline.grammar.increments
    typed = _numbers(outline) if any(form.startswith("typed:") for form in forms) else set()
    for node in outline.nodes:
        place = _increment(outline, node) if forms else None
        match = place and INCREMENT.fullmatch(outline.source[place[0] : place[1]].decode("utf-8"))
        if place is None or not match:
            continue
        operator = (match["before"] or match["after"] or match["assign"] or "  ")[0]
        operand = next((child for child in _below(node) if child.type in VARIABLES), None)
        if operand is None or operator == " " or not outline.is_free(place[0]):
            continue
        known = forms | {form.removeprefix("typed:") for form in forms if outline.text(operand) in typed}
        form = "prefix" if match["before"] else "postfix" if match["after"] else "assign"
        if form in known:
            texts = {"prefix": (operator * 2, ""), "postfix": ("", operator * 2), "assign": ("", f" {operator}= 1")}
            others = sorted({"prefix", "postfix", "assign"} & known - {form})
            end = ";" if match.group().endswith(";") else ""
            yield tuple(Edit(*place, (texts[o][0], span(operand), texts[o][1] + end)) for o in others)


def parentheses(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Values that are returned, and conditions where the language writes them bare, with parentheses around."""
    grammar = outline.grammar
    if outline.language == "c++" and b"decltype(auto)" in outline.source:
        return
    for node in outline.nodes:
        value: Any = None
        if node.type == "return_statement" and len(parts_of(node)) == 1:
            value = parts_of(node)[0]
            if outline.language == "go":
                value = parts_of(value)[0] if len(parts_of(value)) == 1 else None
        elif grammar.bare_conditions and node.type in CONDITIONAL:
            value = node.child_by_field_name("condition")
        allowed = value is not None and value.type not in grammar.not_returns
        if allowed and (grammar.returns is None or value.type in grammar.returns) and outline.is_free(value.start_byte):
            yield (wrap(span(value), "(", ")"),)


def comparisons(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Comparisons of a variable with a literal, the other way round."""
    literals = outline.grammar.literals
    for node in outline.nodes:
        if node.type != "binary_expression" or not literals:
            continue
        left, operator, right = (node.child_by_field_name(name) for name in ("left", "operator", "right"))
        if operator.type not in MIRRORED or len(node.children) != 3 or not outline.is_free(node.start_byte):
            continue
        kinds = (left.type in VARIABLES and right.type in literals, right.type in VARIABLES and left.type in literals)
        if any(kinds):
            before, after = (left.end_byte, operator.start_byte), (operator.end_byte, right.start_byte)
            yield (Edit(*span(node), (span(right), before, MIRRORED[operator.type], after, span(left))),)


def integers(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Small integers in the other base."""
    kinds = outline.grammar.integer.split()
    for node in outline.nodes:
        if node.type in kinds and outline.is_free(node.start_byte):
            other = _other_base(outline.text(node))
            after = outline.source[node.end_byte : node.end_byte + 1].decode("latin-1")
            if other is not None and not (after.isalnum() or after in ("_", ".")):
                yield (replace(span(node), other),)


def members(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Members of what a variable points to, in C: `p->x` as `(*p).x`."""
    for node in outline.nodes if outline.language == "c" else ():
        if node.type == "field_expression" and len(node.children) == 3 and node.children[1].type == "->":
            pointer, _, field = node.children
            if pointer.type == "identifier" and outline.is_free(node.start_byte):
                yield (Edit(*span(node), ("(*", span(pointer), ").", span(field))),)


def _increment(outline: Outline, node: Any) -> Span | None:
    """Where a step whose value nobody uses stands; None for other nodes."""
    kind, parent = node.type, outline.parents.get(node.id)
    if kind == "expression_statement" and node.child_count and node.children[0].type in STEPS:
        return span(node) if outline.source[node.end_byte - 1 : node.end_byte] == b";" else None
    if kind in ("inc_statement", "dec_statement", "assignment_statement"):
        return span(node)
    if kind == "update_expression" and parent is not None and parent.type == "for_statement":
        return span(node) if outline.field(node) in ("update", "increment") else None
    return None


def _below(node: Any) -> Iterator[Any]:
    stack = [node]
    while stack:
        current = stack.pop()
        yield current
        if current.type not in VARIABLES:
            stack += reversed(current.children)


def _numbers(outline: Outline) -> set[str]:
    """Names that the sample declares as built-in numbers and as nothing else."""
    typed: set[str] = set()
    other: set[str] = set()
    for node in outline.nodes:
        if node.type in DECLARING:
            kind = node.child_by_field_name("type")
            known = typed if kind is not None and kind.type in outline.grammar.number_types else other
            heads = [*node.children_by_field_name("declarator"), *node.children_by_field_name("name")]
            for head in heads:
                name = head.child_by_field_name("declarator") or head.child_by_field_name("name") or head
                (known if name.type == "identifier" else other).add(outline.text(name))
    return typed - other


def _other_base(text: str) -> str | None:
    if re.fullmatch(r"[1-9][0-9]{1,4}", text) and int(text) <= LARGEST:
        return hex(int(text))
    if re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}", text) and 9 < int(text, 16) <= LARGEST:
        return str(int(text, 16))
    return None
