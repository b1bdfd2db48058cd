"""Tests of secauditai.garbage."""

import gc
from collections.abc import Iterator

import pytest

from secauditai.garbage import SELDOM, collect_seldom, collecting_no_cycles


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.enable()


def fail_without_collecting() -> None:
    with collecting_no_cycles():
        assert not gc.isenabled()
        raise ValueError("broken")


def test_the_collector_is_left_as_it_was() -> None:
    with pytest.raises(ValueError, match="broken"):
        fail_without_collecting()
    assert gc.isenabled()
    gc.disable()
    with pytest.raises(ValueError, match="broken"):
        fail_without_collecting()
    assert not gc.isenabled()


def test_seldom_is_still_sometimes() -> None:
    collect_seldom()
    before = gc.get_stats()[0]["collections"]
    kept: list[list[int]] = [[] for _ in range(2 * SELDOM[0])]
    assert len(kept) == 2 * SELDOM[0]
    assert gc.get_stats()[0]["collections"] > before
