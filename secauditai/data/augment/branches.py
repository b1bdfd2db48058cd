"""Neutral rewrites of branches: if and else that change places, and braces around single statements."""

from collections.abc import Iterator
from typing import Any

from secauditai.data.augment.edits import Edit, Span, wrap
from secauditai.data.augment.outline import Outline, parts_of, span

BODIES = {"if_statement", "else_clause", "while_statement", "for_statement", "for_range_loop", "for_in_statement"} | {
    "enhanced_for_statement",
    "foreach_statement",
}
"""Statements that end in a body."""
SINGLE = {"expression_statement", "return_statement", "throw_statement", "echo_statement", "break_statement"} | {
    "continue_statement",
    "goto_statement",
    "for_statement",
    "while_statement",
}
"""Statements that can be a body without braces."""
OPPOSITES = {"==": "!=", "!=": "==", "===": "!==", "!==": "===", "is": "is not", "is not": "is", "in": "not in"} | {
    "not in": "in"
}


def swapped(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """If and else in each other's place under the opposite condition; each in several spellings where there are."""
    for node in outline.nodes:
        if node.type != "if_statement" or not outline.is_free(node.start_byte):
            continue
        condition, blocks = _condition(node), _blocks(outline, node)
        if condition is None or blocks is None or any(child.type == "constexpr" for child in node.children):
            continue
        first, second = blocks
        yield tuple(
            Edit(
                *span(node),
                (
                    (node.start_byte, condition.start_byte),
                    *negated,
                    (condition.end_byte, first.start_byte),
                    span(second),
                    (first.end_byte, second.start_byte),
                    span(first),
                    (second.end_byte, node.end_byte),
                ),
            )
            for negated in _negations(outline, condition)
        )


def braced(outline: Outline) -> Iterator[tuple[Edit, ...]]:
    """Braces around single statements."""
    for node in outline.nodes if outline.grammar.braces else ():
        if node.type not in BODIES or not outline.is_free(node.start_byte):
            continue
        fields = ("consequence", "alternative", "body")
        bodies = [body for field in fields for body in node.children_by_field_name(field)]
        if node.type == "else_clause" and not bodies:
            bodies = parts_of(node)
        for body in bodies:
            text = outline.source[body.start_byte : body.end_byte]
            if (
                body.type in SINGLE
                and text.endswith((b";", b"}"))
                and b"\n#" not in text
                and outline.is_free(body.start_byte)
            ):
                yield (wrap(span(body), "{ ", " }"),)


def _condition(node: Any) -> Any:
    """The expression that decides, inside of its parentheses; None when there is more to it."""
    condition = node.child_by_field_name("condition")
    if condition is None or condition.type not in ("parenthesized_expression", "condition_clause"):
        return condition
    inner = condition.named_children
    return inner[0] if len(inner) == 1 and inner[0].type not in ("declaration", "comment") else None


def _blocks(outline: Outline, node: Any) -> tuple[Any, Any] | None:
    """What runs if the condition holds and what runs if not; None when either is no block of its own."""
    first = node.child_by_field_name("consequence") or node.child_by_field_name("body")
    others = node.children_by_field_name("alternative")
    if first is None or len(others) != 1:
        return None
    second = others[0]
    if second.type == "else_clause":
        inner = second.child_by_field_name("body")
        children = [inner] if inner is not None else parts_of(second)
        second = children[0] if len(children) == 1 else None
    blocks = outline.grammar.blocks
    if second is None or first.type not in blocks or second.type not in blocks:
        return None
    if any("function" in child.type and "declaration" in child.type for child in (*first.children, *second.children)):
        return None  # JavaScript gives names of such functions to the outer function
    if outline.language == "python" and not _same_indent(outline.source, first, second):
        return None
    return first, second


def _same_indent(source: bytes, first: Any, second: Any) -> bool:
    indents = [source[source.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte] for node in (first, second)]
    return indents[0] == indents[1] and not indents[0].strip()


def _negations(outline: Outline, condition: Any) -> list[tuple[str | Span, ...]]:
    """The ways to write the opposite of a condition."""
    sign = outline.grammar.negation
    found: list[tuple[str | Span, ...]] = [("not (" if sign == "not" else "!(", span(condition), ")")]
    if not outline.grammar.plain_negation:
        return found
    kind, children = condition.type, condition.children
    if kind in ("unary_expression", "not_operator") and len(children) == 2 and children[0].type == sign:
        found.append((span(children[1]),))
    if kind in ("binary_expression", "comparison_operator") and len(children) == 3:
        operator = children[1].type
        if operator in OPPOSITES and not (sign == "not" and operator in ("==", "!=")):
            before, after = (
                (children[0].end_byte, children[1].start_byte),
                (children[1].end_byte, children[2].start_byte),
            )
            found.append((span(children[0]), before, OPPOSITES[operator], after, span(children[2])))
    return found
