"""Rewrites of the languages other than Python, by their text: what changes, and what must not."""

import random
import re
from dataclasses import dataclass

import pytest

from secauditai.data.augment import rewrite_code
from secauditai.data.syntax import parse_code

SEEDS = 150


@dataclass(frozen=True)
class Case:
    """A sample, what every rewrite of it must hold, and what some rewrite must."""

    language: str
    code: str
    kept: tuple[str, ...]
    seen: tuple[str, ...]
    renamed: tuple[str, ...]


C = Case(
    "c",
    """#define NEXT(p) ((p) + hidden_local)
#define LONG_ONE 10 \\
    + 20
/* @annotated */
struct pair { int left; int right; };

static int copy_all(struct pair *out, const char *source)
{
    int hidden_local = 1;
    char text[100];
    int counter = 0;
    int pasted = 2;
    size_t amount;
    /* plain words */

    amount = strlen(source);
    if (amount == 0) {
        out->left = 1;
    } else {
        out->left = 2; // fall through
    }
    for (int spin = 0; spin < 10; spin++)
        counter++;
    memcpy(text, source, amount);
    out->right = GET_BITS(pasted, 12) + NEXT(counter);
    switch (counter) {
    case 1: { counter = 2; break; }
    default: break;
    }
again:
    if (counter > 300) goto again;
    return use(text, "counter // 10, 20", counter);
}
""",
    (
        *(
            "#define NEXT(p) ((p) + hidden_local)\n#define LONG_ONE 10 \\\n    + 20\n",
            "/* @annotated */",
            "int left; int right;",
        ),
        *("hidden_local = 1", "GET_BITS(pasted, 12)", '"counter // 10, 20"', "struct pair *out, const char *source"),
        *("// fall through", "again:", "goto again;"),
    ),
    (
        *(
            "if (amount != 0)",
            "if (!(amount == 0))",
            "if (0 == amount)",
            "counter += 1;",
            "++counter;",
            "char text[0x64]",
        ),
        *("return (use(", "{ goto again; }", "(*out).left", "if (0) {", "(void)", "10 > spin", "text,source"),
    ),
    ("amount", "spin", "text["),
)
CPP = Case(
    "cpp",
    """#include <vector>
class Stack {
  public:
    int size_;
    // plain words
    int push(const std::vector<int>& values, int limit) {
        int depth = 0;
        std::vector<int> kept;
        auto iterator = values.begin();
        for (auto& element_of : values) {
            if (element_of > limit)
                continue;
            kept.push_back(element_of);
            depth++;
            ++iterator;
        }
        if (values == kept) {
            size_ = 100;
        } else {
            size_ = this->compute(depth);
        }
        auto later = [&kept, depth](int given) { return depth + given; };
        return later(depth) + ns::depth_of("depth");
    }
};
""",
    (
        *(
            "#include <vector>",
            "int size_;",
            "const std::vector<int>& values, int limit",
        ),
        *("ns::depth_of(", '"depth"', "this->compute(", "int given", ["values", " kept"][0]),
    ),
    ("if (!(values == ", "++depth;", "size_ = 0x64;", "{ continue; }", "return (later(", "if (false) {"),
    ("depth = 0", "kept", "later", "element_of"),
)
JAVA = Case(
    "java",
    """public class Shop {
    private int count = 10;
    @SuppressWarnings("unchecked")
    public Shop(String name) {
        super();
        int amount = 5;
        this.count = amount;
    }
    // plain words
    int total(List<Integer> prices, int limit) throws Exception {
        int sum = 0;
        byte small = 1;
        Integer boxed = 100;
        String text = "sum count // text";
        outer:
        for (int price : prices) {
            if (price == 100) continue outer;
            sum += 1;
            small++;
        }
        boxed++;
        try (Reader reader = open(text)) {
            reader.sum(sum);
        } catch (IOException problem) {
            throw new Exception(problem);
        }
        Runnable task = new Runnable() {
            int inside = 3;
            public void run() { inside = limit; count = 7; }
        };
        if (sum != 0) {
            task.run();
        } else {
            return count;
        }
        return sum; // NOSONAR
    }
}
""",
    (
        *("private int count = ", '@SuppressWarnings("unchecked")', "super();", "List<Integer> prices, int limit"),
        *(
            '"sum count // text"',
            "outer:",
            "continue outer;",
            "inside = limit; count = 7;",
            ".sum(",
            "NOSONAR",
            "int inside = 3",
        ),
    ),
    (
        *(
            "sum++;",
            "++sum;",
            "== 0) {\n            return count;",
            "0 != ",
            "count = 0xa;",
            "{ continue outer; }",
            "return (sum)",
        ),
        *("if (false) {", "/* ", "100 == price"),
    ),
    ("sum =", "reader =", "problem)", "task =", "text =", "amount ="),
)
JAVASCRIPT = Case(
    "javascript",
    """'use strict';
// eslint-disable-next-line
const shared = require('shared');
function handle(req, res, { option, other: renamed = 1 }) {
    'use strict';
    const { user, id: key } = req.query;
    let attempts = 0;
    var message = `attempts ${attempts} // none`;
    const callback = () => attempts;
    /* plain words */

    for (const part of user.parts) attempts++;
    if (attempts === 10) {
        res.send(message, key);
    } else {
        res.attempts = attempts;
    }
    shared.attempts({ attempts, key: 20 });
    return callback.name + user
}
""",
    (
        *(
            "'use strict';\n",
            "// eslint-disable-next-line",
            "const shared = require('shared')",
            "const callback = () =>",
        ),
        *(
            "{ option, other: renamed = 1 }",
            "id: ",
            "// none`",
            "res.attempts = ",
            "shared.attempts({",
            "key: ",
            "callback.name",
        ),
    ),
    (
        *(
            "!== 10",
            "!(attempts === 10)",
            "10 === attempts",
            "++attempts;",
            "{ attempts++; }",
            "key: 0x14",
            "return (callback",
        ),
        *("if (false) {", "user: ", "{ attempts: "),
    ),
    ("let attempts", "message =", "const part"),
)
PHP = Case(
    "php",
    """<?php
declare(strict_types=1);
namespace App;
use App\\Base;
/** @var int $x */
class Page extends Base {
    public $title = 'a';
    // plain words
    public function show($given, array $rows = []) {
        global $config;
        $count = 10;
        $total = 0;
        foreach ($rows as $index => $row) {
            $total++;
            if ($row == 5) continue;
        }
        $this->title = $count . self::$total . '$totals';
        $text = <<<END
Total: $total and {$count}

  // 10
END;
        $twice = function ($n) use ($total) { return $n * $total; };
        if ($total === 0) {
            echo "none $given $rows[10]";
        } else {
            echo "total $total";
        }
        return $total + $twice($count);
    }
    function packed($a) { $kept = 1; return compact('kept'); }
    function dynamic($a) { $kept = 'a'; return $$kept; }
}
""",
    (
        *(
            "<?php\n",
            "declare(strict_types=1);",
            "/** @var int $x */",
            "public $title = 'a';",
            "global $config;",
        ),
        *(
            "$given, array $rows = []",
            "self::$total . '$totals'",
            "\n\n  // 10\nEND;",
            "none $given $rows[10]",
            "$n * ",
        ),
        *("$kept = 1", "compact('kept')", "$kept = 'a'", "$$kept"),
    ),
    (
        *(
            "++$total;",
            "!($total === 0)",
            "0 === $total",
            "{ continue; }",
            "= 0xa;",
            "return ($total + ",
            "if (false) {",
            "# ",
        ),
        *("5 == $row",),
    ),
    ("$count =", "$total =", "$index", "$twice =", "Total: $total"),
)
GO = Case(
    "go",
    """package main

//go:build linux

import "fmt"

type Server struct{ total int }

// plain words
func (s *Server) Sum(items []int, limit int) (out int, err error) {
	total := 0
	url := url.Parse("total // 10")
	for index, item := range items {
		total += 1
		if item == 10 {
			continue
		}
		fmt.Println(index)
	}
	value, err := compute(total)
	if total != 100 {
		s.total = total
	} else {
		s.total = value
	}
	pair := Server{field: value}
	if size := len(items); size > 3 {
		total++
	}
loop:
	for {
		break loop
	}
	switch kind := any(pair).(type) {
	case Server:
		fmt.Println(kind)
		fallthrough
	default:
		fmt.Println("none")
	}
	return total, err
}
""",
    (
        *(
            "//go:build linux\n",
            "type Server struct{ total int }",
            "items []int, limit int) (out int, err error)",
            "url := url.Parse(",
        ),
        *(
            '"total // 10"',
            "s.total = ",
            "Server{field: ",
            "loop:",
            "break loop",
            ", err := ",
            "fallthrough\n\tdefault:",
        ),
    ),
    (
        *(
            "total++\n\t\tif",
            "total += 1\n\t}",
            "total == 100",
            "!(total != 100)",
            "100 != total",
            "10 == item",
            "0x64",
            "if (total",
        ),
        *("if false {", "_ = "),
    ),
    ("total :=", "index,", ", item :=", "pair :=", "size :=", "kind :="),
)
CASES = [C, CPP, JAVA, JAVASCRIPT, PHP, GO]


@pytest.mark.parametrize("case", CASES, ids=[case.language for case in CASES])
def test_rewrites_change_what_they_may_and_keep_the_rest(case: Case) -> None:
    rewrites = [rewrite_code(case.code, case.language, random.Random(seed)) for seed in range(SEEDS)]
    for rewritten in rewrites:
        assert not parse_code(rewritten, case.language).root_node.has_error
        for text in case.kept:
            assert text in rewritten, f"{text!r} is gone from\n{rewritten}"
    assert sum(rewritten != case.code for rewritten in rewrites) > 0.9 * SEEDS
    for text in case.seen:
        assert any(text in rewritten for rewritten in rewrites), f"never {text!r}"
    for text in (*case.renamed, "plain words"):
        assert any(text not in rewritten for rewritten in rewrites), f"always {text!r}"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("php", "$a = 1;\nfunction f($x) { $y = 10; return $y + $x; }\n"),
        ("php", "public function f($x) {\n    $y = 10;\n    return $y + $x;\n}\n"),
        ("javascript", "async show(req) {\n    const text = req.body;\n    return text;\n}"),
        ("java", "int f(int x) {\n    int y = 10;\n    return y + x;\n}\n"),
    ],
)
def test_fragments_are_rewritten_without_what_is_around_them(language: str, code: str) -> None:
    rewrites = {rewrite_code(code, language, random.Random(seed)) for seed in range(40)}
    assert len(rewrites) > 5
    assert not any("<?php" in text or "class A" in text for text in rewrites)


def test_php_adds_nothing_to_the_page_around_the_code() -> None:
    code = "<b>\n\n<?php\n$x = 2;\necho $x;\n?>\n\n<i>\n\n<?=\n$x\n?>\n</i>\n<?php\necho 3;\n"
    rewrites = {rewrite_code(code, "php", random.Random(seed)) for seed in range(SEEDS)}
    pages = {re.sub(r"<\?php.*?(\?>|\Z)", "…", text, flags=re.DOTALL) for text in rewrites}
    shown = {re.sub(r"<\?=\s*(//.*|#.*|/\*.*\*/)?\s*\$x\s*(//.*|#.*|/\*.*\*/)?\s*\?>", "$x", page) for page in pages}
    assert len(rewrites) > 5
    assert shown == {"<b>\n\n…\n\n<i>\n\n$x\n</i>\n…"}


@pytest.mark.parametrize(
    ("language", "code", "name"),
    [
        ("c", "int f(void) { int kept = 1; CHECK_ALL; return kept; }\n", "kept"),
        ("c", "int f(void) { { int kept = 1; use(kept); } return kept; }\n", "kept"),
        ("c", 'void f(void) { int kept = 1; kept: asm("nop" : : "r"(kept)); }\n', "kept"),
        ("c++", "int A::f() { { int kept = 1; use(kept); } return kept; }\n", "kept"),
        ("java", "int f() { for (int kept : kept) { use(kept); } return 1; }\n", "kept"),
        ("javascript", "function f() { { let kept = 1; use(kept); } return kept; }\n", "kept"),
        ("javascript", "function f() { let kept = 1; return eval('kept'); }\n", "kept"),
        ("go", "package a\nfunc f() int { kept := kept + 1; return kept }\n", "kept"),
        ("python", "def f(a):\n    kept = 1\n    return frame.query('x > @kept')\n", "kept"),
    ],
)
def test_names_that_may_mean_something_else_stay(language: str, code: str, name: str) -> None:
    for seed in range(30):
        assert rewrite_code(code, language, random.Random(seed)).count(name) == code.count(name)
