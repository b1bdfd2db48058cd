"""Work beside other work."""

import threading

import pytest

from secauditai.background import repeating


def test_it_goes_on_until_the_context_ends_whatever_happens_there() -> None:
    calls, twice = list[str](), threading.Event()

    def act() -> None:
        calls.append(threading.current_thread().name)
        if len(calls) == 2:
            twice.set()

    def work() -> None:
        with repeating(act, 0.01, "counter"):
            assert twice.wait(10)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    count = len(calls)
    assert set(calls) == {"counter"}
    assert not [thread for thread in threading.enumerate() if thread.name == "counter"]
    assert count == len(calls)
