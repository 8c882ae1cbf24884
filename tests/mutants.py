"""Mutation testing of the rules and the weight arithmetic: is every line held by a test?

    python tests/mutants.py [COUNT] [SEED]

Makes one small change at a time (a comparison turned, + for −, a constant off by one, a condition
negated) in a copy of the package, runs the tests of the engine, and prints the changes that no test
noticed. Without COUNT it makes all of them, which takes hours.
"""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = (
    "absorbing", "affine", "arithmetic", "branching", "chains", "draft", "edits", "geometry",
    "linear", "merge", "normalizing", "passing", "plan", "quantized", "rule", "sites", "spatial",
    "trees", "walk",
)  # fmt: skip
TESTS = ("test_rules", "test_refuse", "test_fold_conv", "test_fold_matrix", "test_constants",
         "test_scopes", "test_quantized", "test_merge", "test_random_graphs")  # fmt: skip

TURNED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Every node that can be changed, with the field that the change is in."""
    quoted = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in TURNED:
            if not isinstance(node, ast.BinOp) or not _is_annotation(node):
                yield node, "op"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
            yield node, "ops"
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            if id(node) not in quoted:
                yield node, "value"
        elif isinstance(node, ast.If | ast.IfExp):
            yield node, "test"


def _is_annotation(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr)


def mutate(node: ast.AST, field: str) -> None:
    """Make the one change, in place."""
    if field == "ops":
        assert isinstance(node, ast.Compare)
        node.ops[0] = TURNED[type(node.ops[0])]()  # type: ignore[call-overload]
    elif field == "op":
        node.op = TURNED[type(node.op)]()  # type: ignore[attr-defined]
    elif field == "value":
        assert isinstance(node, ast.Constant)
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1  # type: ignore[operator]
    else:
        node.test = ast.UnaryOp(ast.Not(), node.test)  # type: ignore[attr-defined]


def survives(module: str, number: int) -> str:
    """The change, if no test noticed it; else nothing."""
    source = (ROOT / "bnfold" / f"{module}.py").read_text()
    tree = ast.parse(source)
    node, field = list(places(tree))[number]
    line = source.splitlines()[node.lineno - 1].strip()  # type: ignore[attr-defined]
    before = ast.unparse(node)
    mutate(node, field)
    after = ast.unparse(ast.fix_missing_locations(node))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("bnfold", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, Path(folder, name))
        Path(folder, "bnfold", f"{module}.py").write_text(ast.unparse(tree))
        tests = [f"tests/{name}.py" for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = {**os.environ, "PYTHONPATH": folder, "BNFOLD_EXAMPLES": "150"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=300, check=False
            )
        except subprocess.TimeoutExpired:
            return ""
    at = f"{module}.py:{node.lineno}"  # type: ignore[attr-defined]
    return "" if done.returncode else f"{at}: {before} → {after}    in: {line}"


def main(count: int | None, seed: int) -> None:
    """Try `count` changes drawn from `seed`, or all."""
    changes = [
        (module, number)
        for module in MODULES
        for number, _ in enumerate(places(ast.parse((ROOT / f"bnfold/{module}.py").read_text())))
    ]
    chosen = changes if count is None else random.Random(seed).sample(changes, count)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = [text for text in pool.map(lambda change: survives(*change), chosen) if text]
    print("\n".join(found))
    print(f"{len(chosen)} of {len(changes)} changes made, {len(found)} unnoticed")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None, int(sys.argv[2]) if sys.argv[2:] else 0)
