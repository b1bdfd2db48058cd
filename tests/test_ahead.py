import threading

from secauditai import ahead


def test_work_is_begun_once_and_waited_for() -> None:
    begun, go_on = list[int](), threading.Event()

    def work() -> None:
        begun.append(1)
        go_on.wait(10)
        begun.append(2)

    ahead.begin(work)
    ahead.begin(work)
    go_on.set()
    ahead.settle()
    assert begun == [1, 2]
    ahead.begin(work)
    ahead.settle()
    assert begun == [1, 2, 1, 2]


def test_what_goes_wrong_ahead_is_left_for_the_first_use() -> None:
    ended = list[bool]()

    def work() -> None:
        ended.append(True)
        raise OSError("not yet")

    with ahead.settled():
        ahead.begin(work)
    assert ended == [True]
