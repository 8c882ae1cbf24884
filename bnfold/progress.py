"""What a long call says of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class Stage:
    """What is being done, and how much of it is done; a `total` of 0: it is not counted."""

    name: str
    done: int = 0
    total: int = 0


Progress: TypeAlias = Callable[[Stage], None]


def ignore(_: Stage) -> None:
    """For callers who do not want to know."""
