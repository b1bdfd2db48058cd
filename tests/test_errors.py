import pickle

from secauditai.errors import DataError


def test_an_error_says_where_what_and_what_to_do_and_survives_a_process_boundary() -> None:
    error = DataError("no code", where="a.yaml:3", hint="Add it.")
    assert str(error) == "a.yaml:3: no code. Add it."
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - what Ray does with exceptions
    assert isinstance(copy, DataError)
    assert str(copy) == str(error)
