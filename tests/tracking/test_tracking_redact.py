import pytest

from secauditai.tracking.redact import clean_params, clean_tags, redact_text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain", "plain"),
        ("training_data/test", "training_data/test"),
        ("def f(a): return a ? b : c  # x@y", "def f(a): return a ? b : c  # x@y"),
        ("s3://key:secret@bucket/data", "s3://bucket/data"),
        ("https://user@host:8080/x", "https://host:8080/x"),
        ("https://host/x?X-Amz-Signature=abc&y=1#frag", "https://host/x"),
        ("postgresql+psycopg2://u:p@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ('{"path": "s3://a:b@c/d?e", "commit": "1"}', '{"path": "s3://c/d", "commit": "1"}'),
        ("https://u:p@ss@host/x", "https://host/x"),
        ("two https://u:p@a/x?q and s3://k@b/y", "two https://a/x and s3://b/y"),
    ],
)
def test_uris_lose_their_credentials(text: str, clean: str) -> None:
    assert redact_text(text) == clean


def test_params_are_text_of_bounded_length_without_secrets() -> None:
    params = {
        "epochs": 3,
        "augment": False,
        "stride": None,
        "classes": ["a", "b"],
        "micro_batch_tokens": 8,
        "hub_token": "x",
        "aws.secret": "x",
        "long": "y" * 9000,
        "odd!key": "1",
    }
    cleaned = clean_params(params)
    assert len(cleaned.pop("long")) == 6000
    assert cleaned == {
        "epochs": "3",
        "augment": "False",
        "classes": '["a", "b"]',
        "micro_batch_tokens": "8",
        "odd_key": "1",
    }


def test_tags_stay_below_the_limit_of_older_servers() -> None:
    assert len(clean_tags({"note": "y" * 9000})["note"]) == 5000
