"""The long checks: many kills at random times, many broken inputs. The outcome goes to `results/soak.txt`."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CHECKS = {
    "20 SIGKILLs of a real process at random times, each resumed bit for bit": ["tests/soak/test_kills.py"],
    "20 kills of whole Ray worker groups, each resumed bit for bit": ["tests/soak/test_group_kills.py"],
    "20 sweeps in a row leave nothing": ["tests/tuning/test_sweep_faults.py", "-k", "in_a_row"],
    "10,000 broken inputs per reader, large YAML cut or whole": [
        "tests/data/test_fuzz.py",
        "tests/data/test_yaml_cuts.py",
    ],
}


def main() -> int:
    """Run every check and keep its last lines."""
    lines = [
        f"{time.strftime('%Y-%m-%d', time.gmtime())} · Python {platform.python_version()} · {os.cpu_count()} CPUs",
        "",
    ]
    worst = 0
    for name, arguments in CHECKS.items():
        environment = {**os.environ, "HYPOTHESIS_PROFILE": "soak", "SOAK": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "--timeout", "7200", *arguments]
        started = time.monotonic()
        done = subprocess.run(command, cwd=HERE.parent, env=environment, capture_output=True, text=True, check=False)
        worst = max(worst, done.returncode)
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()[-200:]
        lines.append(f"{name}: {last} ({time.monotonic() - started:.0f} s)")
        print(lines[-1], flush=True)
    (HERE / "results" / "soak.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return worst


if __name__ == "__main__":
    sys.exit(main())
