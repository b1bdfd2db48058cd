import ast
import random

import pytest

from secauditai.data.augment import Rewriter, rewrite_python
from secauditai.data.corpus import generate_corpus

PROGRAMS = [
    (
        "def f(items, limit=3):\n    total = 0\n    for entry in items:  # add up\n        if entry > limit:\n"
        "            total += entry\n    pair = {'total': total}\n    return pair['total'], [entry for entry in items]\n",
        "f([1, 5, 9])",
    ),
    ("def f(x):\n    name = str(x)\n    text = 'name'\n    return name + text, dict(name=name)\n", "f(4)"),
    (
        "def f(x):\n    a, (b, c) = x, (x, x)\n    with open('/dev/null') as handle:\n        kind = handle.mode\n    return a + b + c, kind\n",
        "f(2)",
    ),
    (
        "def f(x):\n    seen = x\n    def g(y):\n        other = y + seen\n        return other\n    return g(x)\n",
        "f(2)",
    ),
]


def result(code: str, expression: str) -> object:
    scope: dict[str, object] = {}
    exec(code, scope)
    return eval(expression, scope)  # noqa: S307


@pytest.mark.parametrize(("code", "expression"), PROGRAMS)
def test_rewritten_python_behaves_the_same(code: str, expression: str) -> None:
    expected, seen = result(code, expression), set()
    for seed in range(40):
        rewritten = rewrite_python(code, random.Random(seed))
        assert result(rewritten, expression) == expected
        seen.add(rewritten)
    assert len(seen) > 5


def test_rewritten_corpus_parses() -> None:
    rewrite = Rewriter(1)
    for sample in [s for s in generate_corpus(400) if s.language == "python"]:
        ast.parse(rewrite(sample.code, "python", sample.id, 1))


def test_code_that_looks_at_its_own_names_keeps_them() -> None:
    code = "def f(x):\n    name = x\n    return locals()\n"
    assert "name = x" in rewrite_python(code, random.Random(0))


def test_other_languages_and_broken_code_are_left_alone() -> None:
    assert Rewriter(1)("int x;\n", "c", "a", 1) == "int x;\n"
    assert Rewriter(1)("def f(:\n", "python", "a", 1) == "def f(:\n"
