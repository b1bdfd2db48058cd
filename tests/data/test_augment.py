import ast
import random
import subprocess
import sys

import pytest

from secauditai.data.augment import LONGEST, Rewriter, rewrite_code
from secauditai.data.corpus import generate_corpus
from secauditai.data.syntax import parse_code

PROGRAMS = [
    (
        "def f(items, limit=3):\n    total = 0\n    for entry in items:  # add up\n        if entry > limit:\n"
        "            total += entry\n    pair = {'total': total}\n    return pair['total'], [entry for entry in items]\n",
        "f([1, 5, 9], limit=4)",
    ),
    ("def f(x):\n    name = str(x)\n    text = 'name'\n    return name + text, dict(name=name)\n", "f(4)"),
    (
        "def f(x):\n    a, (b, *c) = x, (x, x, 12)\n    with open('/dev/null') as handle:\n        kind = handle.mode\n    return a + b, c, kind\n",
        "f(2)",
    ),
    (
        "def f(x):\n    seen = x\n    count = 0\n    def g(y):\n        nonlocal count\n        count += 1\n        other = y + seen\n"
        "        return other\n    return g(x) + g(1), count, g.__name__\n",
        "f(2)",
    ),
    (
        "data = [7, 8]\n\ndef f():\n    def inner():\n        data = 10\n        return data\n    return data, inner()\n",
        "f()",
    ),
    (
        "def f(x):\n    x = [x for x in (1, 2, 300)]\n    y = [z for row in [x, x] for z in row if z != 2]\n"
        "    best = {k: v for k, v in zip(x, y)}\n    return x, y, best, sum(v * 16 for v in y)\n",
        "f(0)",
    ),
    (
        "def f(text):\n    try:\n        number = int(text)\n    except ValueError as error:\n        reason = str(error)\n"
        "        return reason\n    else:\n        number *= 0x10\n    finally:\n        done = True\n    return number, done\n",
        "f('12'), f('x')",
    ),
    (
        "class Box:\n    size = 10\n    def __init__(self, value):\n        size = value\n        self.value = size + self.size\n"
        "    @property\n    def double(self):\n        '''Twice.'''\n        value = self.value\n        return value * 2\n"
        "    @staticmethod\n    def make(*parts, **named):\n        box = Box(sum(parts))\n        box.named = named\n        return box\n",
        "Box.make(1, 2, value=3).double, Box.make().named, Box.double.__doc__",
    ),
    (
        "def f(x):\n    kind = 'a'\n    text = f'{kind!r:>10} {x + 1}'\n    shown = f'{x=} {len(text)}'\n    other = 5\n    debug = f'{other=}'\n    return text, shown, debug\n",
        "f(3)",
    ),
    (
        "def f(items):\n    if (size := len(items)) > 2:\n        word = 'many'\n    else:\n        word = 'few'\n"
        "    while (left := size) and not size < 1:\n        size -= 1\n    return word, left, size\n",
        "f([1, 2, 3]), f([])",
    ),
    (
        "def f(command):\n    match command:\n        case ['go', place]:\n            answer = place\n        case {'x': px, **rest}:\n"
        "            answer = (px, rest)\n        case int() as number if number > 10:\n            answer = number\n        case _:\n            answer = None\n    return answer\n",
        "f(['go', 'up']), f({'x': 1, 'y': 2}), f(20), f('?')",
    ),
    (
        "counter = 0\n\ndef f():\n    global counter\n    step = 11\n    counter = counter + step\n    return step\n",
        "f(), f(), counter",
    ),
    (
        "def f(n):\n    first, second = 0, 1\n    while True:\n        if first not in (n,):\n            yield first\n        else:\n            return\n"
        "        first, second = second, first + second\n",
        "list(f(55))",
    ),
    (
        "import functools\n\ndef twice(function):\n    @functools.wraps(function)\n    def wrapper(*args, **kwargs):\n        result = function(*args, **kwargs)\n"
        "        return result, result\n    return wrapper\n\n@twice\ndef f(a, *, b=2):\n    c = a\n    c += b\n    c **= 2\n    return c\n",
        "f(1, b=3), f.__name__",
    ),
    (
        "def f(x):\n    shared = []\n    alias = shared\n    alias += [x]\n    class Inner:\n        alias = 'a'\n        field = len(shared)\n"
        "        def get(self):\n            local = self.alias\n            return local\n    return shared, Inner().get(), Inner.field\n",
        "f(9)",
    ),
    (
        "def f(x):\n    '''Doc.'''\n    text = '''\n# no comment\n\n\nif x: 12\n'''\n    total = 1 + \\\n        x  # sum\n    return text, total, f.__doc__\n",
        "f(1)",
    ),
    ("def f(x):\n    name = x\n    other = 2\n    return sorted(locals())\n", "f(1)"),
    (
        "def f(x):\n    actions = []\n    for step in range(3):\n        actions.append(lambda step=step: step * x)\n    import math as numbers\n"
        "    del step\n    return [action() for action in actions], numbers.floor(2.5)\n",
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
        rewritten = rewrite_code(code, "python", random.Random(seed))
        assert result(rewritten, expression) == expected, rewritten
        seen.add(rewritten)
    assert len(seen) > 5


def test_each_kind_of_rewrite_occurs_in_python() -> None:
    code = (
        "def f(a):\n    # plain words\n    number = 200\n\n    if a in (1, 2):\n        word = 'x'\n    else:\n        word = 'y'\n"
        "    return g(number, word)\n"
    )
    rewrites = [rewrite_code(code, "python", random.Random(seed)) for seed in range(200)]
    for text in (
        "0xc8",
        "if a not in (1, 2):",
        "if not (a in (1, 2)):",
        "if (a in (1, 2)):",
        "return (",
        "if 0:",
        ",word)",
    ):
        assert any(text in rewritten for rewritten in rewrites), text
    assert any("number" not in rewritten for rewritten in rewrites)
    assert any("plain words" not in rewritten for rewritten in rewrites)
    assert any(rewritten.count("\n") < code.count("\n") for rewritten in rewrites)


def test_rewritten_corpus_parses_and_differs() -> None:
    rewrite = Rewriter(1)
    for sample in generate_corpus(240):
        rewritten = rewrite(sample.code, sample.language, sample.id, 1)
        assert not parse_code(rewritten, sample.language).root_node.has_error
        if sample.language == "python":
            ast.parse(rewritten)
        assert any(rewrite(sample.code, sample.language, sample.id, variant) != sample.code for variant in (1, 2, 3))


def test_a_rewrite_is_the_same_in_every_process() -> None:
    code = PROGRAMS[0][0]
    program = f"from secauditai.data.augment import Rewriter; print(Rewriter(3)({code!r}, 'python', 's', 2), end='')"
    texts = [
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    assert texts == [Rewriter(3)(code, "python", "s", 2)] * 2
    assert len({Rewriter(3)(code, "python", "s", variant) for variant in range(1, 9)}) > 4


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("def f(:\n", "python"),
        ("int f( {\n", "c"),
        ("fn main() {}\n", "rust"),
        ("", "python"),
        ("def f():\n    value = 1\n" + "    g(1)\n" * (LONGEST // 9), "python"),
    ],
    ids=["broken python", "broken c", "other language", "empty", "too long"],
)
def test_what_cannot_be_rewritten_is_left_alone(code: str, language: str) -> None:
    assert all(Rewriter(1)(code, language, "a", variant) == code for variant in range(1, 5))


def test_a_python_file_keeps_what_must_come_first() -> None:
    code = (
        '#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n"""Doc."""\nfrom __future__ import annotations\n\nimport os  # noqa\n'
        "\n\ndef f():\n    x = []  # type: list[int]\n    return x, os\n"
    )
    for seed in range(60):
        rewritten = rewrite_code(code, "python", random.Random(seed))
        compile(rewritten, "sample", "exec")
        assert rewritten.startswith("#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n")
        assert ast.get_docstring(ast.parse(rewritten)) == "Doc."
        assert "import os  # noqa" in rewritten
        assert "# type: list[int]" in rewritten
