"""Runs bnfold and its peers side by side on the same files, as whole processes, and writes a table.

    python benchmarks/run.py [--models NAME ...] [--rounds N] [--output FILE]

In each round every tool runs once, one after the other, so that what the machine does meanwhile
falls on all of them; the table has medians over the rounds and their ratios. A tool that takes
long, or fails, is not run again on that model.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from models import MODELS, QUICK
from peers import FLOOR, PEERS

HERE = Path(__file__).parent
LIMIT = 120  # seconds for one process
LONG = 45  # seconds from which on one run is enough
COPY, BNFOLD = "cp and sync", "bnfold"
BASES = (FLOOR, "onnxruntime", "onnxsim", "onnxslim")  # what ratios are to
PACKAGES = ("onnx", "onnxruntime", "onnxsim", "onnxslim", "onnxoptimizer", "onnxscript", "numpy")


@dataclass(frozen=True)
class Run:
    """One process: seconds, CPU seconds and peak resident bytes; `failure` if it came to that."""

    wall: float
    cpu: float
    memory: int
    failure: str = ""


def run(command: list[str]) -> Run:
    """Run a command to its end."""
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        said = b""
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            said += process.stderr.read() or b""
            if pid:
                break
            if time.perf_counter() - start > LIMIT:
                os.killpg(process.pid, signal.SIGKILL)
                os.wait4(process.pid, 0)
                process.returncode = -signal.SIGKILL
                return Run(LIMIT, LIMIT, 0, f"> {LIMIT} s")
            time.sleep(0.002)
        wall = time.perf_counter() - start
        said += process.stderr.read() or b""
        process.returncode = os.waitstatus_to_exitcode(status)
    failure = ""
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [str(process.returncode)]
        failure = f"fails: {lines[-1][:60]}"
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, failure)


def commands(source: Path, target: Path, *, external: bool) -> dict[str, list[str]]:
    """What is run on one model, by name."""
    bnfold = [sys.executable, "-m", "bnfold", "optimize", str(source), "-o", str(target), "-q"]
    files = [source, *source.parent.glob("*.data")]
    copies = [f"cp {f} {target.parent} && sync {target.parent / f.name}" for f in files]
    kind = "external" if external else "inline"
    peers = {
        name: [sys.executable, str(HERE / "peers.py"), name, str(source), str(target), kind]
        for name in PEERS
    }
    return {
        BNFOLD: bnfold,
        f"{BNFOLD} --verify none": [*bnfold, "--verify", "none"],
        f"{BNFOLD} --verify full": [*bnfold, "--verify", "full", "--timeout", str(LIMIT)],
        FLOOR: peers.pop(FLOOR),
        COPY: ["sh", "-c", " && ".join(copies)],
        **peers,
    }


def measure(name: str, folder: Path, rounds: int) -> tuple[dict, dict]:
    """All runs on one model, and how many BatchNormalizations each tool left."""
    source = make(name, folder)
    runs: dict[str, list[Run]] = defaultdict(list)
    left: dict[str, str] = {}
    output = folder / name / "out"
    named = commands(source, output / "model.onnx", external=MODELS[name][2])
    for number in range(rounds):
        for tool, command in named.items():
            if any(earlier.failure or earlier.wall > LONG for earlier in runs[tool]):
                continue
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir()
            done = run(command)
            runs[tool].append(done)
            print(f"{name} {number} {tool}: {done}", file=sys.stderr)
            if not done.failure and tool not in left and tool not in (COPY, FLOOR):
                left[tool] = count(output / "model.onnx")
    shutil.rmtree(output, ignore_errors=True)
    return runs, left


def make(name: str, folder: Path) -> Path:
    """The model's file, made if it is not there."""
    path = folder / name / "model.onnx"
    if not path.exists():
        subprocess.run([sys.executable, str(HERE / "models.py"), name, str(path)], check=True)
    return path


COUNT = """
import sys, onnx
graph = onnx.load(sys.argv[1], load_external_data=False).graph
print([node.op_type for node in graph.node].count("BatchNormalization"))
"""


def count(path: Path) -> str:
    """How many BatchNormalizations a file holds."""
    ended = subprocess.run(
        [sys.executable, "-c", COUNT, str(path)], capture_output=True, text=True, check=False
    )
    return ended.stdout.strip() or "unreadable"


def table(runs: dict[str, list[Run]], left: dict[str, str]) -> Iterable[str]:
    """The rows of one model: medians, and their ratios to the floor and to two peers."""
    walls = {t: statistics.median(r.wall for r in rs) for t, rs in runs.items() if not bad(rs)}
    heads = "".join(f" ÷ {base} |" for base in BASES)
    yield f"| | wall, s |{heads} CPU, s | peak memory, MB | left |"
    yield f"|---|---:|{'---:|' * len(BASES)}---:|---:|---:|"
    for tool, rs in runs.items():
        if bad(rs):
            failure = next(r.failure for r in rs if r.failure)
            yield f"| {tool} | {failure} |{' |' * len(BASES)} | | |"
            continue
        cpu = statistics.median(r.cpu for r in rs)
        memory = statistics.median(r.memory for r in rs) / 1e6
        ratios = "".join(
            f" {walls[tool] / walls[base]:.2f} |" if base in walls else " |" for base in BASES
        )
        yield (
            f"| {tool} | {walls[tool]:.2f} |{ratios} {cpu:.2f} | {memory:.0f} "
            f"| {left.get(tool, '')} |"
        )


def bad(runs: list[Run]) -> bool:
    """Whether a tool failed on a model."""
    return any(r.failure for r in runs)


def machine() -> str:
    """What it was run on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{os.cpu_count()} cores of {cpu}, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}; {packages}."
    )


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(QUICK), choices=list(MODELS))
    parser.add_argument("--all", action="store_true", help="the large models as well: an hour")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=HERE / "work")
    parser.add_argument("--output", type=Path, default=HERE / "RESULTS.md")
    arguments = parser.parse_args()
    lines = [
        "# Benchmark", "",
        "Written by `make bench`, or `make bench-all` (`benchmarks/run.py`): whole processes, each "
        f"once in every round, medians of {arguments.rounds} rounds. bnfold verifies what it "
        f"writes; the peers check nothing. *{FLOOR}*: onnxruntime loads the model and runs it "
        "twice, in Python. bnfold syncs its output, as the copy does, the peers do not. *left*: "
        f"BatchNormalizations in the output. What takes more than {LONG} s is run once.",
        "", machine(), "",
    ]  # fmt: skip
    for name in MODELS if arguments.all else arguments.models:
        lines += [f"## {MODELS[name][0]}", ""]
        lines += [*table(*measure(name, arguments.folder, arguments.rounds)), ""]
        arguments.output.write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
