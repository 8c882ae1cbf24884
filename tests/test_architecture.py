"""Which folder may import which: the laws that keep the design what it is."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bnfold"

# The table of contents, from what everybody may use to what nobody imports.
ORDER = (
    "version",       # of bnfold
    "errors",        # what can go wrong, with exit codes
    "deprecation",   # old names
    "reasons",       # why something stays
    "options",       # what a caller may choose
    "progress",      # what a long call says of itself
    "verdict",       # what becomes of each site
    "steps",         # what was folded, as the steps of a proof
    "system",        # what differs between operating systems
    "text",          # numbers and names in words
    "onnx_io",       # model files
    "graph",         # scopes, shapes, constants
    "folding",       # the engine
    "proof",         # whether a fold is right, from the two files
    "runtime",       # onnxruntime in a process of its own
    "verification",  # comparing by running
    "tuning",        # freeze, assign, stats, recalibrate
    "quantization",  # what quantisers want of a model
    "diffing",       # what differs between two files
    "benchmark",     # how fast two models run
    "api",           # the public functions
    "pipeline",      # many models, and the gate
    "reporting",     # reports
    "torch",         # for PyTorch
    "worker",        # the entry of the process that runs onnxruntime
    "cli",           # the command line
    "__main__",
)  # fmt: skip

# What must not be reached, on whatever way, from where.
NEVER = {
    "folding": {"proof", "runtime", "verification"},
    "proof": {"folding", "runtime"},
    "runtime": {"folding", "proof"},
    "verification": {"folding"},
    "reporting": {"cli"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of bnfold that a module imports at run time, wherever the import stands."""
    found: set[str] = set()
    tree = ast.parse(MODULES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{module} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return frozenset(found & MODULES.keys() - {module})


@cache
def reached(module: str) -> frozenset[str]:
    """All modules that importing and running a module may load."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        new = imports(waiting.pop()) - found
        found |= new
        waiting.extend(new)
    return frozenset(found)


def room(module: str) -> str:
    """The entry of ORDER that a module belongs to; "" for the package's face."""
    return module.split(".")[1] if "." in module else ""


def folder(module: str) -> str:
    """The folder that a module is in; modules at the top are rooms of their own."""
    inside = str(MODULES[module].parent.relative_to(PACKAGE))
    return room(module) if inside == "." else inside


def test_the_order_names_every_folder_and_every_module_at_the_top() -> None:
    assert {room(module) for module in MODULES} - {""} == set(ORDER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_downwards(module: str) -> None:
    if not (here := room(module)):
        return
    up = {m for m in reached(module) if room(m) and ORDER.index(room(m)) > ORDER.index(here)}
    assert not up, f"{module} reaches up to {', '.join(sorted(up))}"


@pytest.mark.parametrize("here", sorted(NEVER))
def test_what_must_not_be_reached_is_not(here: str) -> None:
    for module in MODULES:
        if room(module) == here:
            assert not {room(m) for m in reached(module)} & NEVER[here], module


def test_there_are_no_circles_of_modules() -> None:
    assert not [module for module in MODULES if module in reached(module)]


def test_there_are_no_circles_of_folders() -> None:
    arrows = {(folder(module), folder(other)) for module in MODULES for other in imports(module)}
    ways: dict[str, set[str]] = {}
    for start, end in arrows:
        if start != end:
            ways.setdefault(start, set()).add(end)
    for start in ways:
        found: set[str] = set()
        waiting = [start]
        while waiting:
            new = ways.get(waiting.pop(), set()) - found
            found |= new
            waiting.extend(new)
        assert start not in found, f"{start} is in a circle: {sorted(found)}"


def test_inside_the_package_nobody_goes_through_its_face() -> None:
    assert not [m for m in MODULES if room(m) != "cli" and "bnfold" in imports(m)]


def test_each_folder_says_in_one_line_what_it_is_for() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py" and module not in ("bnfold", "bnfold.torch"):
            text = ast.get_docstring(ast.parse(path.read_text()))
            assert text, module
            assert len(text.splitlines()[0]) > 20, module
            assert "import" not in path.read_text().replace(text, ""), module


def test_only_the_worker_runs_onnxruntime() -> None:
    for module, path in MODULES.items():
        if "import onnxruntime" in path.read_text():
            assert room(module) in ("runtime",) or ".worker" in module, module
    for module in MODULES:
        if room(module) not in ("worker",) and ".worker" not in module:
            assert not [m for m in imports(module) if ".worker." in m], module


def test_a_folder_holds_no_more_than_one_can_keep_in_mind() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        modules = [p for p in path.parent.glob("*.py") if p.name != "__init__.py"]
        assert len(modules) <= 12, path.parent


def test_no_module_grows_beyond_reading() -> None:
    for path in MODULES.values():
        assert len(path.read_text().splitlines()) <= 350, path
