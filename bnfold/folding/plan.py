"""Sites × rules → a plan: edits as data, and one verdict for every site.

A site is a chain of BatchNormalizations and constant Muls, Adds, Subs and Divs, each the only
reader of the one before: together one map y = s·x + t. It is offered, in this order,

    all up              into the nodes that make x
    all down            into the nodes that read y
    s up, t down        Conv → Relu → BatchNormalization → Conv
    t/s up, s down
    s up, t stays       in the chain's own Add, or in one that its BatchNormalization becomes
    t/s stays, s down   before a padded convolution, or a Relu
    one for several     of a chain that stays only one BatchNormalization is left
    written out         if that is asked for

and the first that is taken altogether is planned. Sites are taken from the last to the first.
Planning reads the graph and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bnfold.folding.sites.chains import Chain, chains_of, recut
from bnfold.folding.sites.site import Site
from bnfold.folding.sites.written_out import write_out_rest
from bnfold.folding.weights.constants import Constants
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Edit
from bnfold.folding.weights.weight_copies import Copy, not_worth_copying
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.options import Options
from bnfold.verdict import Verdict

if TYPE_CHECKING:
    from bnfold.folding.branches.merge import Merge


_ROUNDS = 3


@dataclass(frozen=True)
class Plan:
    """Edits in the order in which they are to be applied, and the verdicts in graph order."""

    edits: tuple[Edit, ...]
    verdicts: tuple[Verdict, ...]
    constants: Constants = field(repr=False)  # as they were found, for those who apply the edits
    merges: tuple[Merge, ...] = ()  # those that are made


def plan(index: Index, options: Options | None = None) -> Plan:
    """Decide for every site of every scope whether and where it folds.

    Where the constants of a model take more than its budget, none is computed: which of them came
    first must not decide what folds, and the checker comes to them in another order.
    """
    planning = _Planning(index, options or Options())
    found = planning.run()
    if planning.draft.budget.exceeded:
        planning.computed = False
        found = planning.run()
    for _ in range(_ROUNDS):  # without a copy, another one may become dear, or not needed
        too_costly = not_worth_copying(planning.draft, planning.owners, planning.norms)
        if too_costly.keys() <= planning.too_costly.keys():
            break
        planning.too_costly |= too_costly
        found = planning.run()
    return found


class _Planning:
    """One way through all sites, which may be gone again under other conditions."""

    def __init__(self, index: Index, options: Options) -> None:
        self.index = index
        self.options = options
        self.computed = True
        self.too_costly: dict[
            Node, Copy
        ] = {}  # sites, by their last nodes, that stay for their copies
        self.norms: set[Node] = set()  # those in which there is a BatchNormalization
        self.owners: dict[int, Node] = {}  # of edits, by their identity

    def run(self) -> Plan:
        """Plan all."""
        index = self.index
        self.draft = draft = Draft(
            index, self.options, computed=self.computed, too_costly=self.too_costly
        )
        self.owners.clear()
        verdicts: list[Verdict] = []
        made: list[Merge] = []
        if draft.options.merge_branches:
            from bnfold.folding.branches.merge import merges

            for merge in merges(draft, index):
                verdicts.extend(_of_merge(merge))
                made += [merge] if merge.into is not None else []
        for chain in reversed(list(chains_of(draft, index))):
            chain = [link for link in chain if not draft.is_removed(link.node)]
            while chain and (parts := list(recut(draft, chain))):
                verdicts.extend(self._site(parts[-1]))
                chain = chain[: chain.index(parts[-1][0])]
        if draft.options.rest != "keep":
            nodes = write_out_rest(draft, index, draft.options.rest)
            written = {(node.scope.label, node.output) for node in nodes}
            verdicts = [
                replace(v, into=(v.site,), refusal=None, below=None, written_out=True)
                if (v.scope, v.output) in written
                else v
                for v in verdicts
            ]
        order = {(v.scope, v.output): k for k, v in enumerate(_graph_order(index))}
        verdicts.sort(key=lambda verdict: order[verdict.scope, verdict.output])
        return Plan(tuple(draft.edits), tuple(verdicts), draft.constants, tuple(made))

    def _site(self, chain: Chain) -> list[Verdict]:
        last, before = chain[-1].node, len(self.draft.edits)
        if any(link.node.op == BATCH_NORM for link in chain):
            self.norms.add(last)
        found = list(Site(self.draft, chain).verdicts())
        self.owners.update((id(edit), last) for edit in self.draft.edits[before:])
        return found


def _of_merge(merge: Merge) -> Iterator[Verdict]:
    """The join's verdict, and those of the BatchNormalizations in its branches."""
    into = (merge.into.label,) if merge.into is not None else ()
    norms = [node for node in merge.nodes if node.op == BATCH_NORM]
    for node in (merge.root, *norms):
        branches = merge.branches if node is merge.root else 0
        yield Verdict(
            node.label, node.op, node.scope.label, node.output, into, merge.refusal,
            branches=branches,
        )  # fmt: skip


def _graph_order(index: Index) -> Iterator[Verdict]:
    for node in index.nodes():
        yield Verdict(node.label, node.op, node.scope.label, node.output)
