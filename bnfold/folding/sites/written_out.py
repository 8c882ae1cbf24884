"""BatchNormalizations that nothing takes, written as operators that every device has.

    γ·(x − μ)/√(σ² + ε) + β  =  γ′·x + β′      γ′ = γ/√(σ² + ε)      β′ = β − γ′·μ

as a Mul and an Add, of which one goes where γ′ = 1 or β′ = 0, or as a depthwise 1×1 convolution
with the weight γ′ and the bias β′.
"""

from __future__ import annotations

from collections.abc import Iterator

from bnfold.folding.rules.affine_nodes import affine_map
from bnfold.folding.rules.base import broadcast_along, refuse
from bnfold.folding.weights.affine import Affine
from bnfold.folding.weights.draft import Draft
from bnfold.folding.weights.edits import Edit, Guard, Insert, SetOperator, Supply
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.onnx_io.protos import FLOAT_TYPES
from bnfold.options import Rest
from bnfold.reasons import Reason, Refusal

_BROADCASTS = 7  # the opset from which on Mul and Add broadcast by NumPy's rules
_RANKS = (3, 4, 5)  # of what a convolution reads
ATTRIBUTES = ("consumed_inputs", "epsilon", "is_test", "momentum", "spatial", "training_mode")


def write_out_rest(draft: Draft, index: Index, form: Rest) -> Iterator[Node]:
    """Plan that every BatchNormalization which stays is written out; gives those that are."""
    for node in index.nodes():
        if node.op != BATCH_NORM or draft.op(node) != BATCH_NORM or draft.is_removed(node):
            continue
        found = affine_map(draft, node)
        if not isinstance(found, tuple) or draft.options.skips(node.label):
            continue
        own = found[1]
        edits = as_conv(draft, node, own) if form == "conv" else as_mul_add(draft, node, own)
        if isinstance(edits, Refusal) or _objection(draft, edits) is not None:
            continue
        for edit in edits:
            draft.add(edit)
        yield node


def as_mul_add(
    draft: Draft, node: Node, own: Affine, *, both: bool = False
) -> list[Edit] | Refusal:
    """Mul, then an Add that keeps the BatchNormalization's name and output.

    Only one of them where the other would change nothing, unless `both` are asked for.
    """
    kind = _kind(draft, node)
    if isinstance(kind, Refusal):
        return kind
    if node.scope.opset < _BROADCASTS:
        return Refusal(Reason.OLD_BROADCASTING, node.label, str(node.scope.opset))
    rank = len(draft.shape(node, 0) or ())
    gamma, beta = (broadcast_along(v, own.axis or 1, rank) for v in (own.scale, own.shift))
    base = node.proto.name or node.output
    scale = Supply(node, 1, gamma, kind, f"{base}.gamma_prime", guard=Guard(beta))
    shift = Supply(node, 1, beta, kind, f"{base}.beta_prime")
    if not (both or own.shifts):
        return [SetOperator(node, "Mul", drop=ATTRIBUTES, inputs=2), scale]
    add: list[Edit] = [SetOperator(node, "Add", drop=ATTRIBUTES, inputs=2), shift]
    if not (both or own.scales):
        return add
    return [Insert(node, 0, "Mul", f"{base}.scale", scale), *add]


def as_conv(draft: Draft, node: Node, own: Affine) -> list[Edit] | Refusal:
    """A convolution with a kernel of one element and a group for each channel."""
    kind, shape = _kind(draft, node), draft.shape(node, 0)
    if isinstance(kind, Refusal):
        return kind
    if shape is None or len(shape) not in _RANKS:
        return refuse(Reason.UNKNOWN_RANK, node)
    base = node.proto.name or node.output
    weight = own.scale.reshape(-1, *(1,) * (len(shape) - 1))
    edits: list[Edit] = [
        SetOperator(node, "Conv", drop=ATTRIBUTES, put={"group": own.channels}, inputs=3),
        Supply(node, 1, weight, kind, f"{base}.weight", guard=Guard(own.shift)),
        Supply(node, 2, own.shift, kind, f"{base}.bias"),
    ]
    return edits


def _kind(draft: Draft, node: Node) -> int | Refusal:
    """The element type of the data, of which constants must be."""
    kind = draft.inferred.element_type(node.scope, node.input(0))
    if draft.shape(node, 0) is None or kind not in FLOAT_TYPES:
        return refuse(Reason.UNKNOWN_RANK, node)
    return kind


def _objection(draft: Draft, edits: list[Edit]) -> Refusal | None:
    values = (edit.constant if isinstance(edit, Insert) else edit for edit in edits)
    return next((found for found in map(draft.refusal_of, values) if found is not None), None)
