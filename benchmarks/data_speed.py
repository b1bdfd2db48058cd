"""Reading and preparing large YAML files, measured against `yaml.load(…, CSafeLoader)` on the same file.

    python benchmarks/data_speed.py                 # parsing, validate, prepare of 350 MB
    python benchmarks/data_speed.py --memory        # prepare of 200 MB and 2 GB: time and resident memory

The files are generated: functions of random words, one in twenty a near duplicate of another, all block literals.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import yaml

SECAUDITAI = [sys.executable, "-c", "from secauditai.cli.app import main; main()", "train"]
WORDS = [f"{a}_{b}" for a in ("read", "copy", "size", "user", "path", "query", "token", "buffer") for b in range(250)]


def write_yaml(path: Path, megabytes: float) -> int:
    """Write a file of at least that size; the number of samples."""
    source, written, count = random.Random(1), 0, 0
    last: list[str] = []
    with path.open("w", encoding="utf-8") as out:
        out.write("samples:\n")
        while written < megabytes * 1e6:
            lines = _function(source)
            if last and count % 20 == 19:
                lines = [*last[:-1], f"    log({source.choice(WORDS)});", last[-1]]
            last = lines
            code = "\n".join(f"      {line}" for line in lines)
            label = ("safe", "vulnerability")[source.random() < 0.4]
            head = f"  - id: sample_{count:07d}\n    code: |\n{code}\n    label: {label}\n    severity: low\n"
            written += out.write(
                head + "    category: injection\n    metadata:\n      language: c\n      project: demo\n"
            )
            count += 1
    return count


def _function(source: random.Random) -> list[str]:
    names = source.choices(WORDS, k=60)
    body = [
        f'    {names[n]} = {names[n + 1]}({names[n + 2]}, {source.randrange(10_000)}, "{names[n + 3]}");'
        for n in range(0, 56, 2)
    ]
    return [f"int {names[0]}(char *{names[1]})", "{", *body, "}"]


def seconds_of(command: list[str]) -> float:
    """Wall time of a command, start-up included."""
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started


def prepare(path: Path, output: Path, *options: str) -> tuple[dict[str, float], float, "_Watch"]:
    """The JSON of `prepare`, its wall time, and who watched the memory of its processes."""
    started = time.monotonic()
    command = [*SECAUDITAI, "prepare", "--dataset", str(path), "--output", str(output), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        watch = _Watch(process.pid)
        out = process.communicate()[0]
        watch.stop()
    return json.loads(out), time.monotonic() - started, watch


class _Watch:
    """Samples the resident memory of a process and its descendants."""

    def __init__(self, pid: int) -> None:
        self._root, self._done = psutil.Process(pid), threading.Event()
        self.resident, self.private = 0.0, 0.0
        """The most that one process had, in GiB; private leaves out libraries, mapped files and Ray's store."""
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(0.2):
            try:
                for process in (self._root, *self._root.children(recursive=True)):
                    memory = process.memory_info()
                    self.resident = max(self.resident, memory.rss / 2**30)
                    self.private = max(self.private, (memory.rss - memory.shared) / 2**30)
            except psutil.NoSuchProcess:
                continue


READER = """
import sys, time; from pathlib import Path; from secauditai.data.readers import read_file
from secauditai.data.schema import parse_sample
from secauditai.garbage import collecting_no_cycles
t = time.monotonic()
with collecting_no_cycles():
    n = sum(1 for raw in read_file(Path(sys.argv[1])) if parse_sample(raw.value))
print(time.monotonic() - t)
"""
LOADER = """
import sys, yaml, time; t = time.monotonic()
yaml.load(open(sys.argv[1], "rb"), yaml.CSafeLoader)
print(time.monotonic() - t)
"""
ROUNDS, SHORT_ROUNDS = 3, 8
"""What is compared is measured in turn so many times, and the fastest of each counts: the machine may be shared.

The short ones are those of 35 MB."""


def printed_seconds(code: str, path: Path) -> float:
    """What a process that measures itself prints."""
    return float(subprocess.check_output([sys.executable, "-c", code, str(path)]))


def measure_speed(work: Path) -> None:
    """Parsing of 35 MB, `validate` of it, `prepare` of 350 MB."""
    small, large = work / "small.yaml", work / "large.yaml"
    count = write_yaml(small, 35)
    ours, theirs, validated = (
        min(times)
        for times in zip(
            *(
                (
                    printed_seconds(READER, small),
                    printed_seconds(LOADER, small),
                    seconds_of([*SECAUDITAI, "validate", "--dataset", str(small)]),
                )
                for _ in range(SHORT_ROUNDS)
            ),
            strict=True,
        )
    )
    ratio = f"{theirs / ours:.1f} x"
    print(f"fastest of {SHORT_ROUNDS} each with 35 MB, of {ROUNDS} with 350 MB, in turn")
    print(f"parse and check {count} samples, 35 MB, one process: {ours:.2f} s; CSafeLoader {theirs:.2f} s: {ratio}")
    print(f"validate of it, start-up included: {validated:.2f} s", flush=True)
    write_yaml(large, 350)
    baseline = []
    prepared: dict[str, list[tuple[float, float, float]]] = {"without": [], "with": []}
    for _ in range(ROUNDS):
        baseline.append(printed_seconds(LOADER, large))
        for name, options in (("without", ["--no-near-duplicates"]), ("with", [])):
            found, wall, _ = prepare(large, work / name, "--overwrite", *options)
            prepared[name].append((found["seconds"], found["ray_startup_seconds"], wall))
    print(f"CSafeLoader on 350 MB: {min(baseline):.1f} s (of {', '.join(f'{time:.1f}' for time in baseline)})")
    for name, runs in prepared.items():
        seconds, startup, wall = min(runs)
        every = ", ".join(f"{run[0]:.1f}" for run in runs)
        print(
            f"prepare of 350 MB {name} near duplicates: {seconds:.1f} s (of {every}) = {seconds / min(baseline):.2f} x "
            f"(Ray started in {startup:.1f} s, wall {wall:.1f} s)"
        )


def measure_memory(work: Path) -> None:
    """`prepare` of 200 MB and of 2 GB."""
    times = {}
    for megabytes in (200, 2000):
        path = work / f"{megabytes}.yaml"
        write_yaml(path, megabytes)
        found, wall, watch = prepare(path, work / "out", "--overwrite")
        times[megabytes] = found["seconds"]
        print(
            f"prepare of {megabytes} MB: {found['seconds']:.1f} s (wall {wall:.1f} s), {found['kept']} samples kept, "
            f"largest process {watch.resident:.2f} GiB resident, {watch.private:.2f} GiB of it not shared",
            flush=True,
        )
        path.unlink()
    print(f"time per MB, 2000 MB against 200 MB: {times[2000] / times[200] / 10:.2f} x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d', time.gmtime())} · {os.cpu_count()} CPUs · PyYAML {yaml.__version__}")
    with tempfile.TemporaryDirectory() as directory:
        (measure_memory if options.memory else measure_speed)(Path(directory))


if __name__ == "__main__":
    main()
