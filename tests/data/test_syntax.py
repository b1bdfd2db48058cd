import pytest

from secauditai.config.settings import CleaningSettings
from secauditai.data.corpus import generate_corpus
from secauditai.data.refine import refine
from secauditai.data.schema import SampleError, parse_sample
from secauditai.data.syntax import GRAMMARS, detect_language, parse_code, strip_comments

CODE = {
    "python": "def f(x):\n    # a note\n    return x  # here\n",
    "java": "public int f(int x) {\n    // a note\n    return x; /* here */\n}\n",
    "c": "#include <stdio.h>\nint f(char *x) {\n    // a note\n    return x->y; /* here */\n}\n",
    "c++": "std::string f(int x) {\n    // a note\n    return std::to_string(x);\n}\n",
    "javascript": "function f(x) {\n  // a note\n  const y = x === 1;\n  return y;\n}\n",
    "php": "<?php\nfunction f($x) {\n    // a note\n    $y = $x;\n    return $y;\n}\n",
    "go": "package main\n\nfunc f(x int) int {\n\t// a note\n\ty := x\n\treturn y\n}\n",
}


@pytest.mark.parametrize("language", GRAMMARS)
def test_languages_are_told_and_comments_found(language: str) -> None:
    assert detect_language(CODE[language]) == language
    stripped, _ = strip_comments(CODE[language], language)
    assert "note" not in stripped
    assert "here" not in stripped
    assert not parse_code(stripped, language).root_node.has_error
    assert stripped.count("\n") == CODE[language].count("\n") - 1


def test_most_of_the_built_in_samples_are_told() -> None:
    chosen = list(generate_corpus())[::10]
    right = sum(detect_language(sample.code) == sample.language for sample in chosen)
    assert right / len(chosen) > 0.9


def test_prose_is_in_no_language() -> None:
    assert detect_language("It was a dark and stormy night; the rain fell in torrents, and so on.") == ""


def test_what_is_not_in_a_known_language_is_left_alone() -> None:
    assert strip_comments("-- note\nselect 1", "sql", [2]) == ("-- note\nselect 1", [2])


def test_lines_are_followed_through_stripped_comments() -> None:
    code = "/* one\n two */\nint f(int x) {\n  // three\n  int y = x; /* four\n five */ y += 1;\n  return y;\n}\n"
    stripped, lines = strip_comments(code, "c", [1, 3, 4, 5, 6, 7, 99])
    assert stripped == "int f(int x) {\n  int y = x;  y += 1;\n  return y;\n}\n"
    assert lines == [1, 2, 2, 3]


def test_flaw_lines_stay_right_when_comments_go() -> None:
    code = "# why\ndef f(x):\n    # because\n    return eval(x)\n"
    raw = {"id": "a", "code": code, "label": "vulnerability", "metadata": {"language": "python", "flaw_lines": [4]}}
    refined = refine(parse_sample(raw), CleaningSettings(strip_comments=True))
    assert refined.code.splitlines()[refined.metadata["flaw_lines"][0] - 1] == "    return eval(x)"
    assert refine(parse_sample(raw), CleaningSettings()).metadata["flaw_lines"] == [4]


def test_refining_finds_the_language_and_strips_on_request() -> None:
    sample = parse_sample({"id": "a", "code": CODE["python"], "label": "safe"})
    assert refine(sample, CleaningSettings()).language == "python"
    assert "note" not in refine(sample, CleaningSettings(strip_comments=True)).code
    named = parse_sample({"id": "a", "code": CODE["python"], "label": "safe", "metadata": {"language": "Ruby"}})
    assert refine(named, CleaningSettings()).language == "ruby"


@pytest.mark.parametrize(
    ("code", "reason"), [("x", "too_short"), ("x = 1\n" * 100, "too_long"), ("x=1;" * 2000, "minified")]
)
def test_odd_sizes_are_refused(code: str, reason: str) -> None:
    limits = CleaningSettings(min_characters=2, max_characters=500 if reason == "too_long" else 10**6)
    with pytest.raises(SampleError) as refused:
        refine(parse_sample({"id": "a", "code": code, "label": "safe"}), limits)
    assert refused.value.reason == reason
