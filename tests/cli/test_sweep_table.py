import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from secauditai.cli.output import Output
from secauditai.cli.sweep_table import LiveTable, PlainLines
from secauditai.tuning.ledger import FAILED, FINISHED, RUNNING, STOPPED, Ledger, Trial


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    layer = {"model": {"choice": ["a[red]", "b"]}}
    made = Ledger(tmp_path / "ledger.json", "s1", "c", "f1", higher_is_better=True, layer=layer, num_samples=4)
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "0001.json").write_text(json.dumps({"13": str(tmp_path / "run")}))
    (tmp_path / "run").mkdir()
    records = [{"kind": "val", "step": 5, "f1": 0.625}, {"kind": "train", "step": 7, "loss": 0.1}]
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    made.put(Trial("0000", {"model": "a[red]"}, 0.5, "r", step=9, status=FINISHED))
    made.put(Trial("0001", {"model": "b"}, status=RUNNING))
    return made


def shown(table: LiveTable) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table.render())
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_live_table_shows_what_running_trials_measured_last(ledger: Ledger) -> None:
    table = LiveTable()
    assert shown(table).strip() == ""
    table.ledger = ledger
    text = shown(table)
    assert "1 of 4 trials" in text
    finished, running = (next(line for line in text.splitlines() if number in line) for number in ("0000", "0001"))
    assert "a[red]" in finished  # not taken for markup
    assert all(part in running for part in ("0.625", "7", "running"))


def test_elsewhere_there_is_a_line_per_ended_trial(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines(Output(as_json=True))
    lines.watch(ledger, None)
    assert capsys.readouterr().err == ""
    lines.watch(ledger, ledger.put(Trial("0001", {"model": "b"}, 0.75, "r", status=STOPPED, rung=0)))
    told = capsys.readouterr().err
    assert told.startswith("Trial 0001 stopped at rung 0: f1 0.750; 2 of 4, best 0.500, ")
    assert told.rstrip().endswith("left")
    lines.watch(ledger, ledger.put(Trial("0002", {"model": "b"}, error="no luck", status=FAILED)))
    assert capsys.readouterr().err.startswith("Trial 0002 failed: no luck; 3 of 4")
