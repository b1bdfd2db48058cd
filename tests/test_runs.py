from pathlib import Path

import pytest

from secauditai.errors import RunError
from secauditai.runs import MetricsTail, create_run, find_run, list_runs, newest_run, open_run, read_metrics


def test_a_run_is_found_by_name_and_id_and_keeps_its_state(workspace: Path) -> None:
    run = create_run(workspace, "m", kind="start", task="t", total_steps=3)
    run.update(status="finished", model_version=2)
    assert newest_run(workspace, "m").info.model_version == 2
    found = find_run(workspace, run.info.run_id)
    assert found is not None
    assert found.root == run.root


def test_runs_of_one_second_are_listed_in_the_order_they_were_made(workspace: Path) -> None:
    old = create_run(workspace, "m", kind="start", task="t")
    older_id = "20260101-000000-ffffff"
    old.root.rename(old.root.with_name(older_id))
    made = [create_run(workspace, "m", kind="start", task="t").root.name for _ in range(30)]
    assert len({name[:15] for name in made}) <= 2
    assert [run.root.name for run in list_runs(workspace)] == [older_id, *made]
    assert newest_run(workspace, "m").root.name == made[-1]
    assert find_run(workspace, older_id) is not None


def test_missing_and_damaged_runs_are_named(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run of 'm'"):
        newest_run(workspace, "m")
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(tmp_path)
    run = create_run(workspace, "m", kind="start", task="t")
    run.layout.info.write_text("{")
    with pytest.raises(RunError, match="damaged"):
        open_run(run.root)


def test_the_tail_waits_for_whole_lines_and_copes_with_a_rewind(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == [{"step": 1}]
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert tail.read() == [{"step": 2}]
    path.write_text('{"step": 9}\n')
    assert tail.read() == [{"step": 9}]
    path.write_text('{"step": 7, "note": "longer than before"}\n{"step": 8}\n')
    assert tail.read() == [{"step": 7, "note": "longer than before"}, {"step": 8}]
    path.write_text('{"step": 9}\n')
    assert tail.read() == [{"step": 9}]
    assert read_metrics(path) == [{"step": 9}]
