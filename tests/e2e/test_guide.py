"""The guide's command lines, as written, in order, in an empty directory."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from tiny_hub import write_tiny_hub

from secauditai.data.dataset import open_dataset
from secauditai.data.prepare import prepare
from secauditai.data.split import SplitPlan, split_dataset

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
HANGS = 30 * 60
"""Seconds after which a line must be hanging; how long all of them take is printed, not judged."""
WHOLE = bool(os.environ.get("SOAK"))
"""Whether all lines train on all samples; else those of the troubleshooting section, which repeat a run with one setting
changed, do so on fewer."""
SHORT = {"eval": "vulnerability", "int": "safe"}


def command_lines() -> list[str]:
    """Every command of the guide's bash blocks, continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def write_short_samples(path: Path, count: int, first: int = 0) -> None:
    """Samples of at most eight tokens, so that a thousand steps take seconds."""
    samples = []
    for number in range(first, first + count // 2):
        for call, label in SHORT.items():
            metadata = {"language": "python", "group": f"g{number}"}
            severity, category = ("high", "injection") if label == "vulnerability" else ("none", "none")
            head = {"id": f"s{number}_{call}", "code": f"{call}({number})\n", "label": label}
            samples.append({**head, "severity": severity, "category": category, "metadata": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"samples": samples}), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(HANGS)
def test_every_line_of_the_guide_runs_and_leaves_what_it_says(tmp_path: Path) -> None:
    write_tiny_hub(tmp_path / "hub")
    work = tmp_path / "work"
    write_short_samples(work / "security_dataset" / "samples.yaml", 2200)
    write_short_samples(work / "task_data" / "samples.yaml", 200, first=5000)
    write_short_samples(work / "test_set" / "samples.yaml", 60, first=9000)
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    if WHOLE:
        environment.pop("OMP_WAIT_POLICY")  # no other test runs beside it: as a user has it

    def run(line: str) -> str:
        begun = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", line], cwd=work, env=environment, capture_output=True, text=True, check=False
        )
        print(f"{time.monotonic() - begun:5.0f} s  {line}")
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    started = time.monotonic()
    lines, said = command_lines(), {}
    for line in lines:
        if line.startswith("secauditai train start --batch-size") and not WHOLE:
            prepare(str(work / "task_data"), work / "training_data", overwrite=True)
            split_dataset(open_dataset(work / "training_data"), SplitPlan(seed=1))
        if "--model-size large" in line:
            said[line] = run(f"{line} --dry-run")
            assert "parameters: 3" in said[line]
            run(
                f"{line} --data task_data --max-steps 1 --eval-interval 1 --max-length 32 --batch-size 1 --vocab-size 400"
            )
        else:
            said[line] = run(line)
    seconds = time.monotonic() - started
    print(f"{len(lines)} lines of the guide in {seconds:.0f} s")

    def told(part: str) -> str:
        return next(text for line, text in said.items() if part in line)

    assert "read 2200 = kept 2200 + rejected 0 + duplicates 0" in told("train prepare")
    assert "without a masked-language head" in told("train base")
    assert "Registered codebert/1" in told("train base")
    assert "finished" in told("train monitor")
    assert "codebert, version 1" in told("train finetune")
    assert "Registered trained_model/1" in told("train finetune")
    assert told("--folds 3").count(" (fold ") == 1  # the best one is registered
    assert "majority" in told("train evaluate")
    assert "no such CUDA device" in told("--gpu 0")
    assert "Branching from run" in told("train resume")
    assert "Registered custom_model/2" in told("train resume")
    assert "custom_model.onnx: verified" in told("train verify")
    assert "Repeating run" in told("--augment")
    assert "<html" in (work / "evaluation_report.html").read_text(encoding="utf-8")
    assert (work / "custom_model.onnx").stat().st_size > 100_000
