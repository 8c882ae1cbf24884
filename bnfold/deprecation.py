"""Old names that still work for one version, with a warning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def warn(old: str, new: str, *, level: int) -> None:
    """Say that `old` is now called `new`; `level` frames up is who has to change."""
    message = f"{old} is now called {new}; the old name goes in the next version"
    warnings.warn(message, DeprecationWarning, stacklevel=level + 1)


def renamed_parameter(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a function accept the parameter `new` under its old name as well."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accepting(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, Any] = kwargs
            if old in given:
                warn(f"the parameter {old!r} of {function.__name__}", repr(new), level=2)
                given[new] = given.pop(old)
            return function(*args, **kwargs)

        return accepting

    return decorate
