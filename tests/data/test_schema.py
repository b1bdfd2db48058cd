import marshal
import zlib
from pathlib import Path

import pytest

from secauditai.data.schema import SampleError, code_key, normalise_code, parse_sample

GOOD = {"id": "a", "code": "x = 1\r\n\n", "label": "Safe", "metadata": {"language": "Python", "when": float("nan")}}


def test_a_sample_is_normalised() -> None:
    sample = parse_sample(GOOD)
    assert (sample.code, sample.label, sample.language, sample.severity) == ("x = 1\n", "safe", "python", "none")
    assert sample.metadata["when"] is None
    assert normalise_code("\ufeffe\u0301") == "\xe9\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "bad_id"),
        ({"id": " "}, "bad_id"),
        ({"code": None}, "no_code"),
        ({"code": " \n"}, "no_code"),
        ({"code": 3}, "bad_code"),
        ({"code": "a\x00b"}, "binary_code"),
        ({"code": "\ud800"}, "bad_code"),
        ({"code": "PK\x03\x04\x14\x08\x08 a.txt"}, "binary_code"),
        ({"code": "\x7fELF\x02\x01\x01 main printf"}, "binary_code"),
        ({"label": "bug"}, "bad_label"),
        ({"label": None}, "bad_label"),
        ({"label": True}, "bad_label"),
        ({"severity": "huge"}, "bad_severity"),
        ({"category": 4}, "bad_category"),
        ({"metadata": [1]}, "bad_metadata"),
        ({"id": "a\x1b[31m"}, "bad_id"),
        ({"id": "a\u2028b"}, "bad_id"),
        ({"category": "\udfff"}, "bad_category"),
    ],
)
def test_bad_samples_have_a_reason(change: dict[str, object], reason: str) -> None:
    with pytest.raises(SampleError) as refused:
        parse_sample({**GOOD, **change})
    assert refused.value.reason == reason


def test_programs_and_archives_without_nul_are_binary() -> None:
    text = Path(__file__).read_bytes()
    program = marshal.dumps(compile(text, __file__, "exec")).replace(b"\x00", b"")
    archive = zlib.compress(text).replace(b"\x00", b"")
    for code in (program.decode("latin-1"), program.decode("utf-8", "replace"), archive.decode("utf-8", "replace")):
        with pytest.raises(SampleError, match="so it is not source code") as refused:
            parse_sample(GOOD | {"code": code})
        assert refused.value.reason == "binary_code"


@pytest.mark.parametrize(
    "code",
    [
        "// \u521d\u59cb\u5316\u914d\u7f6e\nint x;\n",
        "R='\x1b[31m'; G='\x1b[32m'; N='\x1b[0m'; B='\x07'\n",
        "if c == '\x01': return\n",
        "\x0cclass A:\n    pass\n\x1a",
        "# \ufffd\ufffd\ufffd\ufffd \ufffd\ufffd\ufffd\ufffd\ufffd: decoded wrongly\nx = 1\n",
        "const icons = ['\ue0b0', '\U0001f600', '\u200d', '\x85'];\n",
    ],
)
def test_odd_characters_do_not_make_code_binary(code: str) -> None:
    assert parse_sample(GOOD | {"code": code}).code == code.rstrip("\n") + "\n"


def test_white_space_does_not_make_other_code() -> None:
    assert code_key("a  =\n1") == code_key("a = 1\n") != code_key("a = 2")


def test_a_group_may_be_a_number() -> None:
    groups = [parse_sample(GOOD | {"metadata": {"group": group}}).group for group in (0, 1, False, None, "")]
    assert groups == ["0", "1", "False", "", ""]


def test_what_stands_beside_the_fields_is_metadata() -> None:
    sample = parse_sample(GOOD | {"group": "g", "language": "c", "project": 3})
    assert (sample.group, sample.language, sample.metadata["project"]) == ("g", "python", 3)


@pytest.mark.parametrize(("key", "missing"), [("severty", "severity"), ("Label", ""), ("meta_data", "metadata")])
def test_a_misspelt_field_is_refused(key: str, missing: str) -> None:
    with pytest.raises(SampleError, match="did you mean") as refused:
        parse_sample({name: value for name, value in GOOD.items() if name != missing} | {key: "high"})
    assert refused.value.reason == "unknown_key"


def test_a_key_that_only_resembles_a_field_beside_it_is_metadata() -> None:
    assert parse_sample(GOOD | {"idx": 7}).metadata["idx"] == 7


@pytest.mark.parametrize("name", ["a\u202egnp.exe", "a\u200bb", "a\u2067b"])
def test_a_name_that_hides_or_turns_text_is_refused(name: str) -> None:
    with pytest.raises(SampleError, match="control characters"):
        parse_sample(GOOD | {"id": name})
