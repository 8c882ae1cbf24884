"""What `import bnfold` offers: all of it listed, importable and typed; old names warn."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

import bnfold
from tests.support import CONV_NORM, bn, numbers, parse

PACKAGE = Path(__file__).parents[1] / "bnfold"
NAMES = [name for name in dir(bnfold) if name != "__version__"]


def test_dir_lists_everything_and_nothing_else() -> None:
    assert set(dir(bnfold)) == set(bnfold.__all__)  # type: ignore[attr-defined]
    assert {"optimize", "verify", "check", "RunOptions", "Stage", "__version__"} <= set(NAMES) | {
        "__version__"
    }
    for name in NAMES:
        assert getattr(bnfold, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = bnfold.no_such_name  # type: ignore[attr-defined]


def parts(hint: Any) -> set[Any]:
    """The types that a type is made of."""
    arguments = hint if isinstance(hint, list) else typing.get_args(hint)
    if not arguments:
        return {hint}
    return set().union(*(parts(a) for a in arguments if not isinstance(a, str)))


def mentioned(what: Any) -> set[Any]:
    """The types in the signature of a function, or in the fields and properties of a class."""
    if inspect.isfunction(what):
        return parts(typing.Union[tuple(typing.get_type_hints(what).values())])  # noqa: UP007
    found: set[Any] = set()
    if dataclasses.is_dataclass(what) and isinstance(what, type):
        for hint in typing.get_type_hints(what).values():
            found |= parts(hint)
    for member in vars(what).values() if isinstance(what, type) else ():
        if isinstance(member, property) and member.fget is not None:
            found |= parts(typing.get_type_hints(member.fget).get("return", type(None)))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_a_public_name_mentions_is_public(name: str) -> None:
    public = [getattr(bnfold, other) for other in NAMES]
    for kind in mentioned(getattr(bnfold, name)):
        if isinstance(kind, type) and kind.__module__.startswith("bnfold"):
            assert kind in public, f"{name} mentions {kind.__name__}"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_public_is_documented(name: str) -> None:
    what = getattr(bnfold, name)
    if isinstance(what, type | types.FunctionType):
        assert len(inspect.getdoc(what) or "") > 20


def test_no_public_name_is_taken_by_a_folder() -> None:
    assert not {path.parent.name for path in PACKAGE.glob("*/__init__.py")} & set(NAMES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ChildError", "WorkerError"), ("Counts", "NodeCounts"), ("Data", "Dataset"),
        ("Done", "ModelOutcome"), ("Limits", "DriftLimits"), ("Trial", "RunOptions"),
    ],
)  # fmt: skip
def test_old_names_work_and_warn(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"bnfold.{old} is now called bnfold.{new}") as said:
        assert getattr(bnfold, old) is getattr(bnfold, new)
    assert said[0].filename == __file__
    assert old not in dir(bnfold)


def test_an_old_parameter_works_and_warns() -> None:
    model = parse(CONV_NORM, w=numbers(3, 3, 1, 1), **bn(3))
    verify: Any = bnfold.verify
    with pytest.warns(DeprecationWarning, match="'trial' of verify is now called 'run_options'"):
        found = verify(model, model, trial=bnfold.RunOptions(check=2))
    assert found.runs == 2


def test_a_usage_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="fill='noise' is not one of 'mixed', 'normal'"):
        bnfold.RunOptions(fill="noise")  # type: ignore[arg-type]


def texts(tree: ast.AST) -> list[str]:
    """The strings of a module, but for docstrings."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
    ]


def test_messages_of_the_library_name_parameters_and_not_flags() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.parts[len(PACKAGE.parts)] != "cli" and path.name != "flags.py":
            for text in texts(ast.parse(path.read_text())):
                assert not re.search(r"(?<![-\w])--?[a-z]{2,}", text), f"{path}: {text}"


def test_stages_are_told_of_one_model(tmp_path: Path) -> None:
    import onnx

    onnx.save(parse(CONV_NORM, w=numbers(3, 3, 1, 1), **bn(3)), tmp_path / "m.onnx")
    seen: list[bnfold.Stage] = []
    bnfold.optimize(tmp_path / "m.onnx", progress=seen.append)
    names = list(dict.fromkeys(stage.name for stage in seen))
    assert names[:3] == ["reading the model", "planning what to fold", "writing the model"]
    assert len(names) > 3  # those of the worker
