"""What ranks elsewhere write arrives in the driver's directory, whatever happens to the files meanwhile."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from secauditai.errors import ClusterError, RunError
from secauditai.runs import RunLayout
from secauditai.training import relay
from secauditai.training.attempt import AttemptLayout, read_ranks, record_rank
from secauditai.training.elsewhere import is_shared
from secauditai.training.relay import Courier, Piece, Relay
from secauditai.training.stopping import StopCheck, StopRequest, read_stop, request_stop


class Line(Relay):
    """A relay that can be out of reach."""

    cut = False

    def exchange(self, pieces: Sequence[Piece]) -> bytes | None:
        if self.cut:
            raise ClusterError("the driver's node does not answer")
        return super().exchange(pieces)


@pytest.fixture
def home(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "home")
    layout.attempt.mkdir(parents=True)
    return layout


@pytest.fixture
def away(tmp_path: Path) -> RunLayout:
    layout = RunLayout(tmp_path / "away")
    for directory in (layout.attempt, layout.logs):
        directory.mkdir(parents=True)
    return layout


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def test_a_log_goes_behind_what_the_driver_has_of_the_rank(home: RunLayout, away: RunLayout) -> None:
    home.logs.mkdir()
    (home.logs / "rank_1.log").write_bytes(b"as it was here before\n")
    (away.logs / "rank_1.log").write_bytes(b"an earlier attempt, passed on then\n")
    courier = Courier(away, 1, Relay(str(home.root)))
    for line in (b"one\n", b"two\n"):
        append(away.logs / "rank_1.log", line)
        courier.pass_on()
        courier.pass_on()
    assert (home.logs / "rank_1.log").read_bytes() == b"as it was here before\none\ntwo\n"


def test_history_is_cut_short_where_the_leading_rank_has_cut_it(
    home: RunLayout, away: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LARGEST", 100)
    home.metrics.write_bytes(b"what a rank that died had written " * 20)
    records = [f"record {number} of {time.time_ns()}\n".encode() for number in range(40)]
    away.metrics.write_bytes(b"".join(records[:20]))
    courier = Courier(away, 0, Relay(str(home.root)))
    courier.pass_on()
    assert home.metrics.read_bytes() == away.metrics.read_bytes()
    os.truncate(away.metrics, len(b"".join(records[:10])))
    courier.pass_on()
    assert home.metrics.read_bytes() == b"".join(records[:10])
    os.truncate(away.metrics, len(b"".join(records[:5])))
    append(away.metrics, b"".join(records[20:]))  # longer than before when it is looked at again
    courier.pass_on()
    assert home.metrics.read_bytes() == b"".join(records[:5] + records[20:])
    os.truncate(away.metrics, 0)
    courier.pass_on()
    assert home.metrics.read_bytes() == b""


def test_the_same_piece_may_come_twice(home: RunLayout) -> None:
    here = Relay(str(home.root))
    for piece in (Piece("metrics.jsonl", 0, b"abc"), Piece("metrics.jsonl", 3, b"def"), Piece("memory.json", 0, b"[]")):
        here.exchange([piece])
        here.exchange([piece])
    assert (home.metrics.read_bytes(), home.memory.read_bytes()) == (b"abcdef", b"[]")
    assert here.size("metrics.jsonl") == 6
    here.exchange([Piece("metrics.jsonl", 100, b"!")])  # of a file that was deleted here meanwhile: no holes
    assert home.metrics.read_bytes() == b"abcdef!"


def test_who_a_rank_is_and_where_it_stands_arrives(home: RunLayout, away: RunLayout) -> None:
    courier = Courier(away, 3, Relay(str(home.root)))
    record = record_rank(AttemptLayout(away.attempt), 3, 4, "node")
    AttemptLayout(away.attempt).step(3).write_text("7")
    AttemptLayout(away.attempt).step(2).write_text("of another rank")
    away.metrics.write_text("of the leading rank")
    courier.pass_on()
    assert read_ranks(AttemptLayout(home.attempt)) == [record]
    names = {path.relative_to(home.root).as_posix() for path in home.root.rglob("*") if path.is_file()}
    assert names == {"attempt/rank_3.json", "attempt/rank_3.step", "attempt/ready"}
    AttemptLayout(away.attempt).step(3).write_text("8")
    courier.pass_on()
    assert AttemptLayout(home.attempt).step(3).read_text() == "8"


def test_a_group_that_grows_does_not_begin_anew(home: RunLayout, away: RunLayout) -> None:
    record_rank(AttemptLayout(home.attempt), 0, 1, "node")
    began = AttemptLayout(home.attempt).ready
    os.utime(began, (1.0, 1.0))
    record_rank(AttemptLayout(home.attempt), 0, 2, "node")
    record_rank(AttemptLayout(away.attempt), 1, 2, "other")
    Courier(away, 1, Relay(str(home.root))).pass_on()
    assert len(read_ranks(AttemptLayout(home.attempt))) == 2
    assert began.stat().st_mtime == 1.0


def test_a_request_to_stop_goes_both_ways_and_the_first_counts(home: RunLayout, away: RunLayout) -> None:
    here, there = AttemptLayout(home.attempt), AttemptLayout(away.attempt)
    leading, other = (Courier(away, index, Relay(str(home.root))) for index in (0, 1))
    leading.pass_on()
    assert not StopCheck(there, 0, lambda: False).wanted()
    request_stop(here, StopRequest("SIGTERM"))
    leading.pass_on()
    assert StopCheck(there, 0, lambda: False).wanted()
    here.stop.unlink()
    there.stop.unlink()
    assert StopCheck(there, 1, lambda: True).wanted()
    other.pass_on()
    request_stop(there, StopRequest("later"))
    other.pass_on()
    assert read_stop(here) == StopRequest("the node is going away", preempted=True)


def test_what_waits_for_the_driver_arrives_by_itself_when_it_answers(home: RunLayout, away: RunLayout) -> None:
    line = Line(str(home.root))
    with Courier(away, 0, line) as courier:
        line.cut = True
        append(away.metrics, b"one\n")
        courier.pass_on()
        assert not home.metrics.exists()
        line.cut = False
        give_up = time.monotonic() + 30
        while not home.metrics.exists() and time.monotonic() < give_up:
            time.sleep(0.05)
        append(away.metrics, b"two\n")
    assert home.metrics.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "recipe.json",
        "../metrics.jsonl",
        "attempt/../../x",
        "/etc/passwd",
        "logs/rank_1.log/x",
        "attempt/rank_.json",
        "attempt/rank_1.json\n",
        "checkpoints/checkpoint_1/manifest.json",
        "attempt/probe_1",
    ],
)
def test_a_name_that_is_no_ranks_file_is_refused(home: RunLayout, name: str) -> None:
    here = Relay(str(home.root))
    with pytest.raises(RunError, match="is no file that ranks pass on"):
        here.exchange([Piece("memory.json", 0, b"[]"), Piece(name, 0, b"x")])
    with pytest.raises(RunError, match="is no file that ranks pass on"):
        here.size(name)
    (home.root / "run.json").touch()
    assert not here.sees(name)
    assert [path.name for path in home.root.rglob("*") if path.is_file()] == ["run.json"]


def test_a_shared_directory_is_found_out(home: RunLayout, tmp_path: Path) -> None:
    (tmp_path / "other_path").symlink_to(home.root)
    assert is_shared(tmp_path / "other_path", Relay(str(home.root)))
    assert not is_shared(tmp_path / "another", Relay(str(home.root)))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
