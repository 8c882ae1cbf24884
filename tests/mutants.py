"""Mutation testing of the rules and the weight arithmetic: is every line held by a test?

    python tests/mutants.py [--sample N] [--seed S] [--module NAME] [--again FILE]

Makes one small change at a time (a comparison turned, + for −, a constant off by one, a condition
negated), runs the tests that reach the changed line, and prints the changes that no test noticed
and that `mutants.txt` does not explain; it fails where there are any. Without --sample it makes
all of them.

The tests are collected once; each change is made in a fork, in the code of the loaded functions.
Unix only.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import signal
import sys
import tempfile
import types
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest
from _pytest.runner import runtestprotocol

ROOT = Path(__file__).parents[1]
ENGINE = "bnfold.folding"
MODULES = (
    "branches.kernel_geometry",
    "branches.linear_sums",
    "branches.merge",
    "sites.partial_folds",
    "sites.site",
    "sites.chains",
    "sites.constant_sites",
    "plan",
    "rules.affine_nodes",
    "rules.base",
    "rules.elementwise",
    "rules.normalization",
    "rules.products.absorbing",
    "rules.products.convolution",
    "rules.products.einsum",
    "rules.products.fused",
    "rules.products.gemm_and_matmul",
    "rules.products.kernel_layout",
    "rules.products.recurrent",
    "rules.quantization",
    "rules.slicing",
    "rules.spatial",
    "rules.transparent",
    "walk.propagation",
    "weights.affine",
    "weights.draft",
    "weights.edits",
    "weights.range_checks",
    "weights.weight_copies",
)
TESTS = (
    "folding/rules/test_rules",
    "folding/rules/test_identities",
    "folding/test_refusals",
    "folding/test_fold_conv",
    "folding/test_fold_matrix",
    "folding/weights/test_affine",
    "folding/weights/test_constants",
    "folding/test_scopes",
    "folding/rules/test_quantization",
    "folding/rules/products/test_convolutions",
    "folding/rules/products/test_einsum",
    "folding/rules/products/test_recurrent",
    "folding/rules/test_channel_shuffle",
    "folding/sites/test_partial_folds",
    "folding/sites/test_equal_sites",
    "folding/sites/test_written_out",
    "folding/test_branches_of_if",
    "folding/test_constant_sites",
    "folding/branches/test_merge",
    "folding/branches/test_sequences",
    "test_hardening",
    "test_random_graphs",
)
SLOW = "test_random_graphs"  # asked last
SECONDS = 60  # for the tests of one change: one that makes a loop endless is noticed, too

TURNED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Pow: ast.Mult,
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE,
    ast.GtE: ast.Gt, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change. `text` names it without line numbers, for mutants.txt."""

    module: str
    number: int
    line: int
    around: range  # the lines of the function it is in; empty outside of functions
    text: str

    def drawn(self, seed: int) -> int:
        """A number to draw by, which other changes of the code leave as it is."""
        return zlib.crc32(f"{seed} {self.text}".encode())

    def asked(self, reached: dict[tuple[str, int], set[str]]) -> set[str]:
        """The tests that run the line; of a default, those of its function; else all of them.

        A number of the module is run where the module is first imported, and used anywhere in it.
        """
        if not self.around:
            return set().union(*(names for (m, _), names in reached.items() if m == self.module))
        here = reached.get((self.module, self.line), set())
        inside = (reached.get((self.module, line), set()) for line in self.around)
        return here or set().union(*inside) or set().union(*reached.values())


# --- making changes ------------------------------------------------------------------------------


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, str, str]]:
    """Every node that can be changed, the field that the change is in, the function it is in."""
    pending: list[tuple[ast.AST, str]] = [(tree, "")]
    while pending:
        node, inside = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside = f"{inside}.{node.name}" if inside else node.name
        body = [(child, inside) for child in ast.iter_child_nodes(node) if not _idle(node, child)]
        pending.extend(reversed(body))
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in TURNED:
            yield node, "op", inside
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in TURNED:
            yield node, "ops", inside
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float, bool):
            yield node, "value", inside
        elif isinstance(node, ast.If | ast.IfExp):
            yield node, "test", inside


def _named(node: ast.AST, inside: str) -> Iterator[tuple[ast.AST, str]]:
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}" if inside else child.name
            yield child, name
        yield from _named(child, name)


def _idle(parent: ast.AST, child: ast.AST) -> bool:
    """Whether the child says nothing at run time, or states what no run may get to."""
    annotations = [getattr(parent, name, None) for name in ("annotation", "returns")]
    said = [*annotations, *getattr(parent, "decorator_list", [])]
    return isinstance(child, ast.Assert) or any(child is own for own in said)


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


def mutants(module: str) -> Iterator[Mutant]:
    """All changes of one module, in the order of its text."""
    tree = _parsed(module)
    functions = {
        name: range(node.lineno, (node.end_lineno or 0) + 1)
        for node, name in _named(tree, "")
        if isinstance(node, ast.FunctionDef)
    }
    for number, (node, field, inside) in enumerate(places(tree)):
        before = ast.unparse(node).splitlines()[0]
        changed = copy.deepcopy(node)
        mutate(changed, field)
        after = ast.unparse(ast.fix_missing_locations(changed)).splitlines()[0]
        line = node.lineno  # type: ignore[attr-defined]
        around = functions.get(inside, range(0))
        yield Mutant(module, number, line, around, f"{module}.{inside}: {before}  ->  {after}")


def _path(module: str) -> Path:
    return ROOT.joinpath(*f"{ENGINE}.{module}".split(".")).with_suffix(".py")


def _parsed(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text())


def install(mutant: Mutant) -> None:
    """Put the changed code into the functions, and changed numbers into the modules, as loaded."""
    tree = _parsed(mutant.module)
    node, field, _ = list(places(tree))[mutant.number]
    mutate(node, field)
    path = _path(mutant.module)
    live = importlib.import_module(f"{ENGINE}.{mutant.module}")
    changed = {"__name__": live.__name__}
    exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), changed)
    _replace(vars(live), changed, live.__name__)
    for name, value in changed.items():
        if isinstance(value, int | float) and value != vars(live).get(name):
            for other in list(sys.modules.values()):
                if getattr(other, "__name__", "").startswith("bnfold") and name in vars(other):
                    setattr(other, name, value)


def _replace(live: Any, changed: Any, module: str) -> None:
    """Code, defaults and closures of the functions that the module itself defines."""
    for name, new in list(changed.items()):
        old = live.get(name)
        if isinstance(new, type) and new.__module__ == module and isinstance(old, type):
            _replace(vars(old), vars(new), module)
            continue
        if isinstance(new, property) and isinstance(old, property):
            old, new = old.fget, new.fget
        old, new = getattr(old, "__func__", old), getattr(new, "__func__", new)
        if not (isinstance(old, types.FunctionType) and isinstance(new, types.FunctionType)):
            continue
        if new.__module__ != module:
            continue
        old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
        old.__code__ = new.__code__
        for mine, other in zip(old.__closure__ or (), new.__closure__ or (), strict=True):
            if isinstance(other.cell_contents, int | float):  # defaults of a dataclass
                mine.cell_contents = other.cell_contents


# --- asking the tests ----------------------------------------------------------------------------


class Asking:
    """A plugin that, instead of running the tests, makes changes and runs the tests they reach."""

    def __init__(self, chosen: list[Mutant], reached: dict[tuple[str, int], set[str]]) -> None:
        self.chosen = chosen
        self.reached = reached
        self.unnoticed: list[Mutant] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Hook of pytest: called once, after collection."""
        items = {item.nodeid: item for item in session.items}
        running: dict[int, Mutant] = {}
        pending = list(self.chosen)
        while pending or running:
            while pending and len(running) < (os.cpu_count() or 1):
                mutant = pending.pop(0)
                names = mutant.asked(self.reached) & items.keys()
                asked = sorted(names, key=lambda name: (SLOW in name, name))
                sys.stdout.flush()
                if (child := os.fork()) == 0:
                    self._in_fork(mutant, [items[name] for name in asked])
                running[child] = mutant
            child, status = os.wait()
            mutant = running.pop(child)
            if status == 0:
                self.unnoticed.append(mutant)
                print(f"{mutant.line:4}  {mutant.text}", flush=True)
        return True

    def _in_fork(self, mutant: Mutant, items: list[pytest.Item]) -> None:
        """Exit code 0: every test passed, so that nobody noticed."""
        signal.alarm(SECONDS)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            install(mutant)
            for place, item in enumerate(items):
                after = items[place + 1] if place + 1 < len(items) else None
                if any(r.failed for r in runtestprotocol(item, nextitem=after, log=False)):
                    os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)


def reached_lines() -> dict[tuple[str, int], set[str]]:
    """The tests that run each line of the modules: found by running all of them once."""
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder, "data"))
        watch = coverage.Coverage(
            data_file=data,
            include=[
                str(ROOT / "bnfold" / "folding" / glob) for glob in ("*.py", "*/*.py", "*/*/*.py")
            ],
        )
        with watch.collect():
            code = pytest.main([*_arguments(), "-p", "no:xdist"], plugins=[_Contexts(watch)])
        if code:
            sys.exit("the tests fail as they are")
        found: dict[tuple[str, int], set[str]] = {}
        for module in MODULES:
            path = str(_path(module))
            for line, names in watch.get_data().contexts_by_lineno(path).items():
                found[module, line] = set(names) - {""}  # what importing runs
        return found


class _Contexts:
    def __init__(self, watch: coverage.Coverage) -> None:
        self.watch = watch

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        self.watch.switch_context(item.nodeid)


def _arguments() -> list[str]:
    return ["-q", "-p", "no:cacheprovider", *(str(ROOT / "tests" / f"{name}.py") for name in TESTS)]


def explained() -> set[str]:
    """The changes of which mutants.txt says why nobody can notice them."""
    lines = (ROOT / "tests" / "mutants.txt").read_text().splitlines()
    return {line for line in lines if "  ->  " in line}


def main() -> None:
    """Draw the changes, make them, and say which ones nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="how many changes to draw; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", choices=MODULES, action="append")
    parser.add_argument("--again", type=Path, help="a file with what was printed before")
    options = parser.parse_args()
    os.environ.setdefault("BNFOLD_EXAMPLES", "100")
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    every = [m for name in options.module or MODULES for m in mutants(name)]
    known = explained()
    chosen = every
    if options.sample is not None:
        chosen = sorted(every, key=lambda mutant: mutant.drawn(options.seed))[: options.sample]
    if options.again is not None:
        texts = options.again.read_text()
        chosen = [mutant for mutant in chosen if mutant.text in texts]
    asking = Asking(chosen, reached_lines())
    pytest.main([*_arguments(), "-p", "no:xdist"], plugins=[asking])
    new = [mutant for mutant in asking.unnoticed if mutant.text not in known]
    print("\nnot explained:")
    for mutant in sorted(new, key=lambda mutant: (mutant.module, mutant.line)):
        print(f"{mutant.line:4}  {mutant.text}")
    left = len(asking.unnoticed) - len(new)
    print(
        f"{len(chosen)} of {len(every)} changes made; unnoticed: {left} explained, {len(new)} not"
    )
    sys.exit(bool(new))


if __name__ == "__main__":
    main()
