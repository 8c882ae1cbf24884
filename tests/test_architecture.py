"""Which module may import which: the laws that keep the design what it is."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bnfold"


def imports(path: Path) -> set[str]:
    """The modules of bnfold that a file imports at run time."""
    found: set[str] = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("bnfold"):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name.startswith("bnfold"))
    return found


def test_affine_and_reasons_know_nothing_of_us() -> None:
    for name in ("affine", "reasons"):
        assert not imports(PACKAGE / f"{name}.py")


def test_rules_do_not_know_who_asks() -> None:
    assert not imports(PACKAGE / "rules.py") & {"bnfold.plan", "bnfold.apply", "bnfold.api"}


def test_planning_changes_nothing() -> None:
    for name in ("plan", "rules", "sites", "draft", "constants"):
        assert "bnfold.apply" not in imports(PACKAGE / f"{name}.py")


def test_only_the_child_runs_onnxruntime() -> None:
    for path in PACKAGE.glob("*.py"):
        assert "onnxruntime as" not in path.read_text(), path
        assert not any("bnfold.child" in name for name in imports(path)), path


def test_the_judge_does_not_know_the_folder() -> None:
    engine = {f"bnfold.{name}" for name in ("plan", "rules", "apply", "edits", "draft", "sites")}
    for path in (PACKAGE / "child").glob("*.py"):
        assert not imports(path) & engine, path


def test_the_checker_knows_nothing_of_the_folder() -> None:
    """What it may import is what reads files, and nothing that decides or changes anything."""
    reading = {
        "budget", "data_files", "errors", "evaluate", "graph", "inference", "model_file", "protos",
        "storage",
    }  # fmt: skip
    for path in (PACKAGE / "check").glob("*.py"):
        modules = {name.split(".")[1] for name in imports(path) if "." in name}
        assert modules - {"check"} <= reading, path


def test_what_reads_files_knows_nothing_of_the_folder() -> None:
    engine = {"bnfold.plan", "bnfold.rules", "bnfold.apply", "bnfold.edits", "bnfold.draft"}
    for name in ("evaluate", "graph", "inference", "model_file", "protos", "storage"):
        assert not imports(PACKAGE / f"{name}.py") & engine, name


def test_no_module_grows_beyond_reading() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 350, path
