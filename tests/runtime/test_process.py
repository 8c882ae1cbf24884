"""The process that runs onnxruntime: it ends with its parent, or by its own clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from bnfold.runtime.process import Worker
from tests.support import bn, numbers, parse
from tests.test_hardening import until
from tests.verification.test_compare import endless

COMMAND = [sys.executable, "-m", "bnfold", "verify", "m.onnx", "m.onnx"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that never ends, and a place for temporary files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    onnx.save(endless(), "m.onnx")


def children_in(folder: Path) -> list[str]:
    """The processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "bnfold.worker" in words and str(folder) in words:
            found.append(process.name)
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_the_child_ends_with_its_parent_at_any_moment(tmp_path: Path) -> None:
    """Also one whose parent is killed while the child still imports."""
    for number in range(20):
        with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as parent:
            until(lambda: children_in(tmp_path))
            time.sleep(number * 0.02)
            parent.kill()
        until(lambda: not children_in(tmp_path), 3)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_the_child_ends_with_its_parent_where_the_kernel_does_not_see_to_it(tmp_path: Path) -> None:
    (tmp_path / "hidden").mkdir()
    code = "from bnfold import system\nsystem.die_with_parent = lambda: None\n"
    (tmp_path / "hidden" / "sitecustomize.py").write_text(code)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hidden'}:{Path(__file__).parents[2]}"}
    for number in range(5):
        with subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL) as parent:
            until(lambda: children_in(tmp_path))
            time.sleep(number * 0.1)
            parent.kill()
        until(lambda: not children_in(tmp_path), 3)


def test_the_child_keeps_its_own_clock(tmp_path: Path) -> None:
    request = {
        "task": "verify", "level": "full", "foreign": False, "freeze": False, "exact": False,
        "original": str(tmp_path / "m.onnx"), "folded": str(tmp_path / "m.onnx"),
        "memory_limit": None, "providers": [], "inputs": None, "input_shapes": {}, "dims": {},
        "seed": 0, "check": 1, "fill": "mixed", "val_range": {}, "rtol": {}, "atol": {},
        "counterexample": None, "clock": 2.0, "more": False,
    }  # fmt: skip
    (tmp_path / "request_0.json").write_text(json.dumps(request))
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "bnfold.worker", str(tmp_path)], stdin=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        child.stdin.write(b"!")
        child.stdin.flush()
        assert child.wait(20) != 0
    assert 1.5 < time.monotonic() - start < 10
    assert not (tmp_path / "answer.json").exists()


def test_a_child_that_waits_for_a_request_ends_with_its_parent(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bnfold.worker", str(tmp_path), "no.such.module", "json"],
        stdin=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(20) == 1
    assert not (tmp_path / "answer.json").exists()


def test_a_worker_that_is_not_needed_goes(tmp_path: Path) -> None:
    with Worker(["json"]) as worker:
        folder = worker.folder
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.parametrize("megabytes", [64, 200])
def test_a_memory_limit_below_what_onnxruntime_itself_takes(megabytes: int) -> None:
    text = """
    g (float[1,3,4,4] x) => (float[1,3,4,4] y) {
      c = Conv (x, w)
      y = BatchNormalization (c, s, b, m, v)
    }"""
    onnx.save(parse(text, w=numbers(3, 3, 1, 1), **bn(3)), "n.onnx")
    command = [sys.executable, "-m", "bnfold", "optimize", "n.onnx"]
    done = subprocess.run(
        [*command, "--memory-limit", str(megabytes)], capture_output=True, check=False
    )
    assert done.returncode == 5, done.stderr
    assert b"the memory limit was reached" in done.stderr
    assert not Path("n.folded.onnx").exists()


def test_what_a_killed_run_has_left_goes_with_the_next_one(tmp_path: Path) -> None:
    onnx.save(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "n.onnx")
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as parent:
        until(lambda: list((tmp_path / "tmp").glob(".bnfold-*/files/stage.json")))
        parent.kill()
    assert list((tmp_path / "tmp").iterdir())
    subprocess.run([*COMMAND[:-2], "n.onnx", "n.onnx"], check=True, stdout=subprocess.DEVNULL)
    assert not list((tmp_path / "tmp").iterdir())


def test_what_a_run_at_work_has_made_stays(tmp_path: Path) -> None:
    onnx.save(parse("g (float[2] x) => (float[2] y) { y = Relu (x) }"), "n.onnx")
    with subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL) as parent:
        until(lambda: list((tmp_path / "tmp").glob(".bnfold-*/files/stage.json")))
        subprocess.run([*COMMAND[:-2], "n.onnx", "n.onnx"], check=True, stdout=subprocess.DEVNULL)
        assert list((tmp_path / "tmp").glob(".bnfold-*/files/stage.json"))
        parent.kill()
