"""Prepare and split real labelled files together, and prove by brute force that the split leaks nothing.

    python benchmarks/leaks.py juliet_c.yaml juliet_java.yaml sven.yaml mini_400.yaml

Prints the sum, the pairs that leak, and what a random split of each file would have leaked. Exits with 1 when the sum
does not add up or a pair leaks.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from brute_force import leaks

from secauditai.data.dataset import open_dataset

COMMAND = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train"]


def run(*arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, object]:
    """The JSON document of a command."""
    done = subprocess.run([*COMMAND, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(done.stderr)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> int:
    """Measure and print; 1 when what is promised does not hold."""
    files = [Path(name).absolute() for name in sys.argv[1:]]
    print(f"# python benchmarks/leaks.py {' '.join(path.name for path in files)}")
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        (work / "in").mkdir()
        for path in files:
            (work / "in" / path.name).write_bytes(path.read_bytes())
        output = str(work / "out")
        done = run("prepare", "--dataset", str(work / "in"), "--output", output)
        total = sum(int(str(done[key])) for key in ("kept", "rejected", "duplicates"))
        shown = {key: done[key] for key in ("kept", "rejected", "duplicates", "content_hash")}
        print(f"read {done['read']} = {total} kept, rejected and merged: {shown}")
        split = {key: value for key, value in run("split", "--dataset", output).items() if key != "dataset"}
        dataset = open_dataset(work / "out")
        leaking = leaks(dataset, 0.8)
        print(f"split: {split}; leaking pairs by brute force: {len(leaking)}")
        for path in files:
            quality = run("validate", "--dataset", str(path), codes=(0, 1))["quality"]
            print(f"{path.name}: random split: {json.dumps(quality['random_split'])}")  # type: ignore[index]
    return int(total != done["read"] or bool(leaking))


if __name__ == "__main__":
    sys.exit(main())
