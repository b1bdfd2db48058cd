"""Faults of nodes: one is taken away with notice, one has no memory left. Each case has its own Ray cluster."""

import re
from pathlib import Path

import pytest
from fault_runs import NAME, run_case, same

from secauditai.runs import Run, newest_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_node_that_goes_away_with_notice_is_left_with_a_checkpoint(data: Path, tmp_path: Path) -> None:
    found = run_case("preemption", data, tmp_path)
    assert (found["attempts"], found["finished"]) == (2, True)
    (noticed,) = [text for text in found["said"] if "node preempted" in text]
    assert "a checkpoint was written first" in noticed
    (event,) = [event for event in found["events"] if event["event"] == "world_size"]
    assert (event["before"], event["now"]) == (2, 1)
    assert any("going on with 1 workers instead of 2" in text for text in found["said"])


def test_a_node_that_comes_is_trained_on_from_the_newest_checkpoint(data: Path, tmp_path: Path) -> None:
    found = run_case("growth", data, tmp_path)
    assert (found["attempts"], found["finished"]) == (1, True)
    (event,) = [event for event in found["events"] if event["event"] == "world_size"]
    assert (event["before"], event["now"], event["step"]) == (1, 2, 40)


def test_a_node_that_dies_mid_epoch_costs_a_restart_and_not_a_bit(data: Path, tmp_path: Path, undisturbed: Run) -> None:
    found = run_case("raylet", data, tmp_path)
    assert (found["attempts"], found["finished"]) == (2, True)
    assert [text for text in found["said"] if "restart 1 of 3 from step" in text]
    same(newest_run(tmp_path, NAME), undisturbed)


@pytest.mark.alone
def test_a_worker_killed_for_want_of_memory_goes_on_with_half_the_micro_batch(data: Path, tmp_path: Path) -> None:
    found = run_case("memory", data, tmp_path)
    assert (found["attempts"], found["finished"]) == (2, True)
    assert found["said"][0].startswith("out of memory: ")
    assert re.search(r"restart with micro_batch_tokens 128 from step \d", found["said"][0])
    halved = [event["micro_batch_tokens"] for event in found["events"] if event["event"] == "out_of_memory"]
    assert halved == [128]
