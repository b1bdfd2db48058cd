import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from secauditai.tracking.runs import create_run
from secauditai.tracking.shipper import MetricShipper, RecordTail, batches, ship_remaining
from secauditai.tracking.store import open_store, tracking_uri


@pytest.fixture
def run_id(tracked: Path) -> str:
    return create_run(tracked, name="shipped", params={}, tags={})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(file: Path, steps: range, kind: str = "train", mode: str = "a", **values: Any) -> None:
    with file.open(mode) as stream:
        for step in steps:
            record = {"kind": kind, "step": step, "epoch": step / 10, "time": time.time(), "loss": 1 / (step + 1)}
            stream.write(json.dumps(record | values) + "\n")


def steps(workspace: Path, run_id: str, key: str) -> list[int]:
    history = open_store(workspace).client.get_metric_history(run_id, key)
    return sorted(metric.step for metric in history)


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_records_arrive_once_with_step_time_and_numbers_only(tracked: Path, run_id: str, file: Path) -> None:
    write(file, range(1, 4), note="text", bad=None, ok=True)
    write(file, range(0, 1), kind="event", event="out_of_memory")
    write(file, range(3, 4), kind="val", f1=0.5, **{"f1 of c++": 0.25})
    for _ in range(2):
        assert ship_remaining(tracked, run_id, file) == 0
    client = open_store(tracked).client
    assert set(client.get_run(run_id).data.metrics) == {
        "train/epoch",
        "train/loss",
        "val/epoch",
        "val/loss",
        "val/f1",
        "val/f1 of c__",
    }
    history = client.get_metric_history(run_id, "train/loss")
    records = [json.loads(line) for line in file.read_text().splitlines()][:3]
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (r["step"], r["loss"], int(r["time"] * 1000)) for r in records
    ]


def test_the_thread_follows_the_file_through_a_restart(tracked: Path, run_id: str, file: Path) -> None:
    shipper = MetricShipper(tracking_uri(tracked), run_id, file, interval=0.05)
    shipper.start()
    write(file, range(1, 6))
    wait_for(lambda: steps(tracked, run_id, "train/loss") == [1, 2, 3, 4, 5])
    write(file, range(1, 4), mode="w")  # a restart goes back to step 3 and takes other times
    time.sleep(0.2)
    write(file, range(4, 9))
    assert shipper.close(timeout=10) == 0
    assert steps(tracked, run_id, "train/loss") == list(range(1, 9))


def test_a_new_process_goes_on_where_mlflow_stands(tracked: Path, run_id: str, file: Path) -> None:
    write(file, range(1, 8))
    ship_remaining(tracked, run_id, file)
    write(file, range(1, 12), mode="w", accuracy=0.5)
    write(file, range(5, 6), kind="val")
    ship_remaining(tracked, run_id, file)
    assert steps(tracked, run_id, "train/loss") == list(range(1, 12))
    assert steps(tracked, run_id, "train/accuracy") == [8, 9, 10, 11]
    assert steps(tracked, run_id, "val/loss") == [5]


def test_an_outage_is_ridden_out(tracked: Path, run_id: str, file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "mlflow.db"
    elsewhere.parent.mkdir()
    shipper = MetricShipper(f"sqlite:///{elsewhere}", run_id, file, interval=0.05)
    shipper.start()
    write(file, range(1, 6))
    time.sleep(0.3)
    shutil.copyfile(tracked / "mlflow.db", elsewhere)
    assert shipper.close(timeout=15) == 0
    assert not steps(tracked, run_id, "train/loss")
    with closing(sqlite3.connect(elsewhere)) as database:
        query = "SELECT step FROM metrics WHERE run_uuid = ? AND key = 'train/loss' ORDER BY step"
        assert [row[0] for row in database.execute(query, (run_id,))] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_closing_while_mlflow_is_down_is_bounded_and_says_what_is_missing(run_id: str, file: Path) -> None:
    write(file, range(1, 6))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        shipper = MetricShipper(f"http://127.0.0.1:{closed.getsockname()[1]}", run_id, file, interval=0.05)
        shipper.start()
        started = time.monotonic()
        assert shipper.close(timeout=1.0) == 5
    assert time.monotonic() - started < 3


def test_an_answer_that_got_lost_makes_no_duplicates(
    tracked: Path, run_id: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    log_batch, lost = MlflowClient.log_batch, iter([True, True])

    def log_and_lose(self: MlflowClient, *args: Any, **kwargs: Any) -> None:
        log_batch(self, *args, **kwargs)
        if next(lost, False):
            raise ConnectionError("the answer is lost")

    monkeypatch.setattr(MlflowClient, "log_batch", log_and_lose)
    write(file, range(1, 700))
    assert ship_remaining(tracked, run_id, file) == 0
    assert steps(tracked, run_id, "train/loss") == list(range(1, 700))


def test_two_shippers_of_one_run_make_no_duplicates(tracked: Path, run_id: str, file: Path) -> None:
    write(file, range(1, 400))
    shippers = [MetricShipper(tracking_uri(tracked), run_id, file, interval=0.05) for _ in range(2)]
    for shipper in shippers:
        shipper.start()
    assert [shipper.close(timeout=20) for shipper in shippers] == [0, 0]
    assert steps(tracked, run_id, "train/loss") == list(range(1, 400))


@pytest.mark.slow
def test_a_locked_database_is_waited_for(tracked: Path, run_id: str, file: Path) -> None:
    write(file, range(1, 4))
    with closing(sqlite3.connect(tracked / "mlflow.db", check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")
        timer = threading.Timer(1.0, other.rollback)
        timer.start()
        assert ship_remaining(tracked, run_id, file) == 0
        timer.join()
    assert steps(tracked, run_id, "train/loss") == [1, 2, 3]


def test_closing_without_starting_counts(tmp_path: Path, file: Path) -> None:
    write(file, range(1, 4))
    assert MetricShipper("sqlite:////nowhere/mlflow.db", "x", file).close(timeout=1) == 3


def test_the_tail_survives_any_file(file: Path) -> None:
    tail = RecordTail(file)
    assert tail.read() == []
    write(file, range(1, 3))
    with file.open("a") as stream:
        stream.write('not json\n[1]\n{"kind": "train", "step": "x", "time": 1}\n\n{"kind": "train", "st')
    assert [record["step"] for record in tail.read()] == [1, 2]
    with file.open("a") as stream:
        stream.write('ep": 3, "time": 1.0}\n')
    assert [record["step"] for record in tail.read()] == [3]
    file.write_text("")
    assert tail.read() == []
    write(file, range(5, 6))
    assert [record["step"] for record in tail.read()] == [5]


def test_the_tail_reads_all_again_when_its_position_is_in_the_middle_of_a_line(file: Path) -> None:
    tail = RecordTail(file)
    write(file, range(1, 3))
    tail.read()
    write(file, range(1, 9), mode="w", longer=1)
    assert [record["step"] for record in tail.read()] == list(range(1, 9))


def test_batches_hold_at_most_a_thousand_metrics_and_whole_records() -> None:
    records: Iterator[dict[str, Any]] = ({str(key): key for key in range(30)} for _ in range(100))
    assert [len(group) for group in batches(records)] == [33, 33, 33, 1]


def test_a_run_that_is_opened_later_gets_everything(tracked: Path, run_id: str, file: Path) -> None:
    write(file, range(1, 4))
    opened: list[str] = []
    shipper = MetricShipper(tracking_uri(tracked), lambda: opened[0] if opened else None, file, interval=0.01)
    shipper.start()
    time.sleep(0.05)
    opened.append(run_id)
    assert shipper.close(timeout=30) == 0
    assert steps(tracked, run_id, "train/loss") == [1, 2, 3]
