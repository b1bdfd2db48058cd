"""A killed `prepare` or `split` leaves the old output or none, and the next command clears away what was left."""

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import make_samples

from secauditai.data.dataset import is_dataset, open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.replacing import clear_leftovers, replacing
from secauditai.data.split import SplitPlan, split_dataset

COMMAND = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train"]


def kill_after(arguments: list[str], seconds: float) -> bool:
    """Run a command and kill it; whether it was still running."""
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("command", ["prepare", "split"])
def test_a_kill_leaves_the_old_output_or_none(tmp_path: Path, command: str) -> None:
    source, output = tmp_path / "s.yaml", tmp_path / "out"
    source.write_text(yaml.safe_dump({"samples": make_samples(300)}))
    old = prepare(str(source), output).dataset
    if command == "prepare":
        source.write_text(yaml.safe_dump({"samples": make_samples(400)}))
    options = {"prepare": ["--dataset", str(source), "--output", str(output), "--overwrite"]}
    arguments = [command, *options.get(command, ["--dataset", str(output)])]
    started = time.monotonic()
    assert not kill_after(arguments, 120)
    whole = time.monotonic() - started
    new = open_dataset(output)
    chance, killed = random.Random(5), 0
    for _ in range(6):
        killed += kill_after(arguments, whole * chance.uniform(0.3, 1.0))
        clear_leftovers(output)
        found = open_dataset(output)
        assert found.content_hash in (old.content_hash, new.content_hash)
        assert found.splits() in ((), new.splits())
    assert killed
    assert not kill_after(arguments, 120)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_an_output_that_was_moved_away_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"samples": make_samples(20)}))
    output = tmp_path / "out"
    prepare(str(tmp_path / "s.yaml"), output)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    output.rename(tmp_path / f".out.{socket.gethostname()}-{gone.pid}.old")
    half = tmp_path / f".out.{socket.gethostname()}-{gone.pid}.partial"
    half.mkdir()
    assert not is_dataset(output)
    clear_leftovers(output)
    split_dataset(open_dataset(output), SplitPlan())
    assert not half.exists()


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    with replacing(tmp_path / "out") as partial:
        (partial / "a").write_text("x")
        clear_leftovers(tmp_path / "out")
        assert (partial / "a").exists()
    assert (tmp_path / "out" / "a").read_text() == "x"
