"""Block by block is the same as all at once, whatever the shapes, block sizes and threads."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

import bnfold
from bnfold.folding.weights import blocks
from bnfold.folding.weights.blocks import coalesced, in_order
from tests.random_graphs import OPERATORS, build
from tests.support import Array, bn, numbers, parse


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK", 7)
    monkeypatch.setattr("bnfold.onnx_io.tensor_storage.INLINE", 0)
    monkeypatch.setattr("bnfold.onnx_io.model_file.INLINE", 0)


@st.composite
def broadcasts(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """A view, and shapes that broadcast against it without enlarging it."""
    view = tuple(draw(st.lists(st.integers(1, 4), max_size=5)))
    shapes = []
    for _ in range(draw(st.integers(1, 3))):
        rank = draw(st.integers(0, len(view)))
        tail = view[len(view) - rank :]
        shapes.append(tuple(draw(st.sampled_from([1, size])) for size in tail))
    return view, shapes


@given(broadcasts(), st.integers(1, 30))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_blocks_cover_all_elements_in_order(
    shapes: tuple[tuple[int, ...], list[tuple[int, ...]]], most: int
) -> None:
    view, own = shapes
    rng = np.random.default_rng(0)
    values = rng.standard_normal(view)
    operands = [rng.standard_normal(shape) for shape in own]
    found = coalesced(view, operands)
    assert found is not None
    fewer, flat = found
    assert len(fewer) <= len(view)
    result = np.full(values.size, np.nan)
    at = 0
    blocks._BLOCK, before = most, blocks._BLOCK
    try:
        for block in blocks.blocks(fewer):
            assert block.start == at
            at = block.stop
            piece = values.reshape(-1)[block.start : block.stop].reshape(block.shape)
            for operand in flat:
                piece = piece * block.of(operand)
            result[block.start : block.stop] = piece.reshape(-1)
    finally:
        blocks._BLOCK = before
    assert at == values.size
    expected = values
    for operand in operands:
        expected = expected * operand
    np.testing.assert_array_equal(result, expected.reshape(-1))


def test_operands_that_enlarge_a_view_do_not_fit() -> None:
    assert coalesced((2, 1), [np.ones((2, 3))]) is None
    assert coalesced((3,), [np.ones((2, 3))]) is None
    assert coalesced((), [np.ones(())]) == ((), [np.ones(())])


def test_a_kernel_has_few_long_axes() -> None:
    found = coalesced((1, 8, 4, 9), [np.ones((1, 8, 1, 1))])
    assert found is not None
    assert found[0] == (8, 36)


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_results_come_in_order(count: int) -> None:
    assert list(in_order(lambda n: n * n, range(count))) == [n * n for n in range(count)]


def test_a_failure_ends_the_others_first() -> None:
    running = threading.Semaphore(0)

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("no")
        running.release()
        return number

    with pytest.raises(ValueError, match="no"):
        list(in_order(work, range(1000)))
    assert running._value < 20


def _squares() -> None:
    assert list(in_order(lambda n: n * n, range(9)))[-1] == 64


def test_a_process_that_was_forked_has_threads_of_its_own() -> None:
    _squares()
    child = multiprocessing.get_context("fork").Process(target=_squares)
    child.start()
    child.join(20)
    assert child.exitcode == 0


# --- models --------------------------------------------------------------------------------------


def through_a_file(model: ModelProto, folder: Path, **options: Any) -> ModelProto:
    onnx.save(model, folder / "m.onnx")
    result = bnfold.optimize(
        folder / "m.onnx", folder / "f.onnx", verify="none", options=bnfold.Options(**options)
    )
    return onnx.load(result.model)


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("c = Conv (x, w)", (4, 4, 3, 3)),
        ("c = Conv <group = 2> (x, w)", (4, 2, 3, 3)),
        ("c = Conv <group = 4> (x, w)", (4, 1, 3, 3)),
        ("c = ConvTranspose (x, w)", (4, 4, 2, 2)),
        ("c = ConvTranspose <group = 2> (x, w)", (4, 2, 2, 2)),
    ],
)
@pytest.mark.parametrize(
    ("kind", "dtype"), [("float", np.float32), ("float16", np.float16), ("double", np.float64)]
)
@pytest.mark.parametrize("place", ["behind", "in front", "around"])
def test_every_kind_of_weight(
    text: str, weight: tuple[int, ...], kind: str, dtype: type, place: str, tmp_path: Path
) -> None:
    front = "n = BatchNormalization (x, s, b, m, v)\n" if place != "behind" else ""
    behind = "y = BatchNormalization (c, s, b, m, v)" if place != "in front" else "y = Identity (c)"
    text = text.replace("(x,", "(n,") if front else text
    parameters: dict[str, Array] = {name: v.astype(dtype) for name, v in bn(4).items()}
    if front and "Transpose" in text:  # which no shift can pass
        parameters |= {"b": np.zeros(4, dtype), "m": np.zeros(4, dtype)}
    model = parse(
        f"g ({kind}[1,4,6,6] x) => ({kind}[1,4,N,M] y) {{ {front} {text} {behind} }}",
        w=numbers(*weight).astype(dtype),
        **parameters,
    )
    expected = bnfold.fold(model)
    assert expected.folded
    assert through_a_file(model, tmp_path) == expected.model


@pytest.mark.parametrize("seed", range(60))
def test_a_random_model_from_a_file_is_the_one_folded_in_memory(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = build([str(name) for name in rng.choice(sorted(OPERATORS), 8)], seed)
    options: dict[str, Any] = {"merge_branches": seed % 3 > 0, "allow_max": seed % 2 == 1}
    expected = bnfold.fold(model, options=bnfold.Options(**options)).model
    assert through_a_file(model, tmp_path, **options) == expected
