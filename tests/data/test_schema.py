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
