"""A proof that holds, with one thing changed: a step, a map, a slot, a name, a number by one ulp.

None of them may be valid, unless the change says the same in another way; those are listed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import bnfold
from bnfold import steps
from bnfold.errors import ModelError
from bnfold.steps import Carried, Indices, Proof, Ref, from_json
from tests.proving import judged, proven
from tests.random_graphs import OPERATORS, build
from tests.support import parse

RNG = np.random.default_rng(7)


def real(*shape: int) -> Any:
    """Numbers of which no two are alike."""
    return RNG.uniform(0.5, 2, shape).astype(np.float32)


def net() -> tuple[ModelProto, ModelProto, Proof]:
    """Conv → BN → Relu → Conv → BN → Split → two heads, folded."""
    model = parse(
        """g (float[N,3,6,6] x) => (float[N,2,6,6] y, float[N,2,6,6] z) {
          a = Conv <pads = [1,1,1,1]> (x, w1)
          b = BatchNormalization (a, g1, b1, m1, v1)
          c = Relu (b)
          d = Conv (c, w2, bias2)
          p, q = Split <axis = 1> (d, sizes)
          y = BatchNormalization (p, g2, b2, m2, v2)
          z = Mul (q, s)
        }""",
        13,
        w1=real(4, 3, 3, 3), w2=real(4, 4, 1, 1), bias2=real(4), sizes=np.array([2, 2]),
        s=real(2, 1, 1),
        **{f"{k}1": real(4) for k in "gbmv"}, **{f"{k}2": real(2) for k in "gbmv"},
    )  # fmt: skip
    result = bnfold.fold(model)
    assert result.after.nodes == 4
    return model, result.model, from_json(result.proof.encode())


ORIGINAL, FOLDED, PROOF = net()


def test_the_proof_itself_holds() -> None:
    proven(ORIGINAL, FOLDED, PROOF)


# --- the steps -----------------------------------------------------------------------------------


def other_maps(a: steps.Map, sites: list[Ref]) -> Iterator[steps.Map]:
    """Maps that are not this one."""
    yield steps.IDENTITY
    for site in sites:
        yield steps.NodeMap(site)
        yield steps.then(a, steps.NodeMap(site))
    for kind in (steps.Scale, steps.Shift, steps.First, steps.Negated, steps.Inverse):
        yield kind(a)
    yield steps.Along(a, 2)
    yield steps.Take(a, 1, Indices(np.arange(4)[::-1]))
    yield steps.Take(a, 1, Indices(np.array([0, 0, 0, 0])))
    yield steps.Take(a, 1, Indices(np.array([-1, 0, 1, 2])))


def spoiled_proofs() -> Iterator[tuple[str, Proof]]:
    change = msgspec.structs.replace
    sites = [*PROOF.gone, Ref(0, 0), Ref(0, 99), Ref(9, 0)]
    for k, ref in enumerate(PROOF.gone):
        yield (
            f"{ref} is not said to be gone",
            change(PROOF, gone=PROOF.gone[:k] + PROOF.gone[k + 1 :]),
        )
    for ref in (Ref(0, 0), Ref(0, 2), Ref(0, 50), Ref(5, 0)):
        yield f"{ref} is said to be gone", change(PROOF, gone=(*PROOF.gone, ref))
    yield "a node is said to be new", change(PROOF, new=(Ref(0, 0),))
    yield "of the same nodes", change(PROOF, carried=(*PROOF.carried, PROOF.carried[0]))
    for k, said in enumerate(PROOF.carried):
        rest = PROOF.carried[:k] + PROOF.carried[k + 1 :]
        yield f"nothing said of {said.node}", change(PROOF, carried=rest)
        for node in (Ref(0, 2), Ref(0, 77)):
            yield (
                f"{said.node} is {node}",
                change(PROOF, carried=(*rest, Carried(node, said.p, said.q))),
            )
        for number, a in enumerate(other_maps(said.q, sites)):
            if a != said.q:
                yield (
                    f"{said.node}: map {number}",
                    change(PROOF, carried=(*rest, Carried(said.node, said.p, a))),
                )
        yield (
            f"{said.node}: both sides",
            change(PROOF, carried=(*rest, Carried(said.node, said.q, steps.IDENTITY))),
        )
    yield (
        "a constant takes a map",
        change(PROOF, taken=(steps.Taken(Ref(0, 0), 1, steps.NodeMap(Ref(0, 1))),)),
    )
    yield (
        "a sum is merged",
        change(PROOF, merged=(steps.Merged(Ref(0, 3), Ref(0, 0), (Ref(0, 3), Ref(0, 0))),)),
    )


LIES = list(spoiled_proofs())


@pytest.mark.parametrize("lie", [lie for _, lie in LIES], ids=[name for name, _ in LIES])
def test_a_proof_with_one_wrong_step_is_never_valid(lie: Proof) -> None:
    assert not judged(ORIGINAL, FOLDED, lie).valid


def test_a_proof_of_nothing_is_not_valid() -> None:
    assert not judged(ORIGINAL, FOLDED, Proof()).valid


# --- the folded file -----------------------------------------------------------------------------


def spoiled_models() -> Iterator[tuple[str, ModelProto]]:
    def copy() -> ModelProto:
        model = ModelProto()
        model.CopyFrom(FOLDED)
        return model

    for place, tensor in enumerate(FOLDED.graph.initializer):
        values = numpy_helper.to_array(tensor)
        for at in {0, values.size // 2, values.size - 1} if values.dtype == np.float32 else ():
            for towards in (-np.inf, np.inf):
                model, wrong = copy(), values.copy()
                wrong.flat[at] = np.nextafter(wrong.flat[at], np.float32(towards))
                model.graph.initializer[place].raw_data = wrong.tobytes()
                yield f"{tensor.name}[{at}] one ulp towards {towards}", model
        if tensor.name == "sizes":  # what has taken maps may be a copy, under a name of its own
            model = copy()
            model.graph.initializer[place].name += "_"
            for node in model.graph.node:
                node.input[:] = [n + "_" if n == tensor.name else n for n in node.input]
            yield f"{tensor.name} has another name", model
        model = copy()
        model.graph.initializer[place].doc_string = "?"
        yield f"{tensor.name} has a doc string", model
    for place, node in enumerate(FOLDED.graph.node):
        for field in ("name", "doc_string", "domain", "op_type"):
            model = copy()
            setattr(model.graph.node[place], field, "Elu" if field == "op_type" else "other")
            yield f"node {place} has another {field}", model
        for k in range(len(node.attribute)):
            model = copy()
            del model.graph.node[place].attribute[k]
            yield f"node {place} has no {node.attribute[k].name}", model
        for slot, name in enumerate(node.input):
            model = copy()
            model.graph.node[place].input[slot] = "x" if name != "x" else "w1"
            yield f"node {place} reads something else at {slot}", model
        model = copy()
        del model.graph.node[place]
        yield f"node {place} is gone", model
    for field, value in (("ir_version", 9), ("producer_name", "x"), ("model_version", 3)):
        model = copy()
        setattr(model, field, value)
        yield f"another {field}", model
    model = copy()
    model.opset_import[0].version = 14
    yield "another opset", model
    model = copy()
    model.graph.output[0].name, model.graph.output[1].name = "z", "y"
    yield "outputs in another order", model
    model = copy()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5
    yield "another input", model
    model = copy()
    model.metadata_props.add(key="a", value="b")
    yield "metadata", model
    model = copy()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])
    yield "nodes in another order", model


SPOILED = list(spoiled_models())


@pytest.mark.parametrize("wrong", [m for _, m in SPOILED], ids=[name for name, _ in SPOILED])
def test_a_file_with_one_thing_changed_is_never_valid(wrong: ModelProto) -> None:
    try:
        assert not judged(ORIGINAL, wrong, PROOF).valid
    except ModelError:  # what is no valid model is not judged
        return


# --- random graphs -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(60))
def test_whatever_was_folded_a_lie_about_it_is_found(seed: int) -> None:
    rng = random.Random(seed)
    ops = ["conv", "batch_norm", *(rng.choice(sorted(OPERATORS)) for _ in range(5)), "batch_norm"]
    model = build(ops, seed)
    result = bnfold.fold(model, options=bnfold.Options(merge_branches=True))
    proof = from_json(result.proof.encode())
    if not proof.carried:
        return
    said = rng.choice(proof.carried)
    rest = tuple(each for each in proof.carried if each is not said)
    lies = [
        msgspec.structs.replace(proof, carried=(*rest, Carried(said.node, said.q, said.p))),
        msgspec.structs.replace(proof, carried=rest),
    ]
    for lie in lies:
        if msgspec.json.encode(lie, enc_hook=steps._encoded) != result.proof.encode():
            found = judged(model, result.model, lie)
            same = isinstance(said.p, steps.Identity) and isinstance(said.q, steps.Identity)
            assert not found.valid or same
    folded = ModelProto()
    folded.CopyFrom(result.model)
    tensors = {t.name: t for t in folded.graph.initializer}
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    changed = [
        t for name, t in tensors.items()
        if name not in before or not np.array_equal(before[name], numpy_helper.to_array(t))
    ]  # fmt: skip
    if changed:
        tensor = rng.choice(changed)
        values = numpy_helper.to_array(tensor).astype(np.float64)
        values.flat[rng.randrange(values.size)] += 1e-3
        tensor.CopyFrom(numpy_helper.from_array(
            values.astype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)), tensor.name
        ))  # fmt: skip
        assert not judged(model, folded, proof).valid
