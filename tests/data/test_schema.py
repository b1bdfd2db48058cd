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
