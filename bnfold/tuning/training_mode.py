"""BatchNormalization that was exported in training mode, taken for inference.

In training mode a BatchNormalization normalises with the statistics of each batch, and hands on
running means of them. Where these are the statistics of a training that has taken place, inference
with them is what was meant. Where they are 0 and 1 throughout there was no training, or the
exporter has left them out: then nothing is known.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from bnfold.folding.rules.affine_nodes import is_instance_norm, training
from bnfold.folding.weights.draft import Draft
from bnfold.graph.index import BATCH_NORM, Index, Node
from bnfold.onnx_io.protos import delete_named
from bnfold.options import Options
from bnfold.reasons import Reason, Refusal


def assume_inference(index: Index, *, even_dummies: bool = False) -> dict[str, Refusal]:
    """Put every BatchNormalization in training mode into inference mode, in place.

    Gives, by the node's label, why some stay: they are read for the statistics of a batch, or their
    running statistics are dummies (unless `even_dummies`, for who is about to estimate them).
    """
    draft = Draft(index, Options())
    refused = {}
    for node in index.nodes():
        if node.op != BATCH_NORM or training(node) is None:
            continue
        refusal = _objection(node, draft, even_dummies=even_dummies)
        if refusal is None:
            _to_inference(node)
        else:
            refused[node.label] = refusal
    return refused


def _objection(node: Node, draft: Draft, *, even_dummies: bool) -> Refusal | None:
    mode = training(node)
    if is_instance_norm(draft, node):
        return Refusal(Reason.INSTANCE_NORM, node.label)
    if mode is None or mode.reason not in (
        Reason.TRAINING_MODE, Reason.TRAINING_OUTPUTS, Reason.IS_TEST_ZERO,
    ):  # fmt: skip
        return mode
    read = [name for name in node.proto.output[1:] if name and node.scope.uses[name]]
    if read:
        return Refusal(Reason.TRAINING_OUTPUTS, node.label, ", ".join(read))
    found = [draft.constants.find(node, slot) for slot in (3, 4)]
    for constant in found:
        if isinstance(constant, Refusal):
            return constant
    mean, variance = (c.array() for c in found if not isinstance(c, Refusal))
    if not even_dummies and np.all(mean == 0) and np.all(variance == 1):
        return Refusal(Reason.DUMMY_STATISTICS, node.label, str(len(mean)))
    return None


def _to_inference(node: Node) -> None:
    proto, more = node.proto, set(node.proto.output[1:])
    del proto.output[1:]
    delete_named(node.scope.container.value_info, more)
    delete_named(proto.attribute, {"training_mode"})
    if node.scope.opset < 7:
        delete_named(proto.attribute, {"is_test"})
        proto.attribute.append(helper.make_attribute("is_test", 1))
