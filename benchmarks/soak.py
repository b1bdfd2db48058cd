"""The long checks: many broken inputs, many kills at random times. The outcome goes to `results/soak.txt`.

python benchmarks/soak.py                     # all of them, about an hour on two cores
python benchmarks/soak.py kills inputs        # those whose name has one of the words; the others' lines stay
"""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "soak.txt"
CHECKS = {
    "10,000 broken inputs per reader, large YAML cut or whole": [
        "tests/data/test_fuzz.py",
        "tests/data/test_yaml_cuts.py",
    ],
    "20 SIGKILLs of a real process at random times, each resumed bit for bit": ["tests/soak/test_kills.py"],
    "20 kills of whole Ray worker groups, each resumed bit for bit": ["tests/faults/test_group_kills.py"],
    "the whole guide on 2,200 samples": ["tests/e2e/test_guide.py"],
    "20 sweeps in a row leave nothing": ["tests/tuning/test_sweep_faults.py", "-k", "in_a_row"],
}


def run_check(arguments: list[str]) -> tuple[int, str]:
    """The exit code of a check and its last line; what a failure looks like goes to stderr."""
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "soak", "SOAK": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "--timeout", "7200", *arguments]
    started = time.monotonic()
    done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-10_000:], file=sys.stderr, flush=True)
    last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
    about = f"{time.strftime('%Y-%m-%d', time.gmtime())}, Python {platform.python_version()}, {os.cpu_count()} CPUs"
    return done.returncode, f"{last} ({time.monotonic() - started:.0f} s; {about})"


def note(name: str, outcome: str) -> None:
    """Replace the line of a check in the results."""
    known = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    lines = dict(line.split(": ", 1) for line in known if ": " in line) | {name: outcome}
    RESULTS.write_text("".join(f"{check}: {lines[check]}\n" for check in CHECKS if check in lines), encoding="utf-8")


def main(words: list[str]) -> int:
    """Run the checks and keep the outcome of each; the worst exit code."""
    worst = 0
    for name, arguments in CHECKS.items():
        if words and not any(word in name for word in words):
            continue
        code, outcome = run_check(arguments)
        worst = max(worst, code)
        note(name, outcome)
        print(f"{name}: {outcome}", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
