"""What becomes of each site, as data."""

from __future__ import annotations

from dataclasses import dataclass

from bnfold.reasons import Refusal


@dataclass(frozen=True)
class Verdict:
    """What becomes of one BatchNormalization, or of a chain of constants that disguises one.

    In names only: it outlives the model.
    """

    site: str  # the node's name, or its operator and output where it has none
    op: str
    scope: str  # "" for the main graph, else the path of bodies, or the function
    output: str
    into: tuple[str, ...] = ()  # the nodes that took it; empty if it is kept, or did nothing
    refusal: Refusal | None = None  # why it did not go up; None if it is gone
    below: Refusal | None = None  # why it did not go down, where that was tried
    branches: int = 0  # how many branches a join adds up, where these were to be merged
    written_out: bool = False  # whether it is there still, as other operators

    @property
    def folded(self) -> bool:
        """Whether the node is gone."""
        return self.refusal is None
