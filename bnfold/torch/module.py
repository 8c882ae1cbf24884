"""A PyTorch module as the judge of its export: what it gives, and how far from it one may be."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bnfold.errors import UndecidedError, UsageError
from bnfold.onnx_io.protos import Array
from bnfold.verification.comparison import OutputDifference

if TYPE_CHECKING:
    import torch

Call = tuple[tuple[Any, ...], dict[str, Any]]  # what a module is called with

_AMPLE = 4  # times the module's own rounding error that the folded model's may be
_MOST = 4096  # units in the last place, of the largest number, that can pass for rounding
_HUGE = 1e3  # times all that does not recur: numbers that mask, and have no rounding


@dataclass(frozen=True)
class ModuleDifference:
    """One output of the folded model against the module's.

    `max_abs` is the largest |folded − module|, the module being run in float64 where it can be;
    `rounding` how far the module itself is from that in its own type; `bound` what `max_abs` may
    be: 4 × `rounding` + what rounding explains between the export and its folded form + 4 units in
    the last place of the largest number. Neither of the first two counts for more than 4096 units.
    NaN, infinities and numbers that only mask (that recur, and are a thousand times all that do
    not) must be the module's own, and are no part of these figures.
    """

    name: str
    max_abs: float
    rounding: float
    bound: float

    @property
    def equal(self) -> bool:
        """Whether rounding explains the difference."""
        return self.max_abs <= self.bound


# --- calling it -----------------------------------------------------------------------------------


def bound_call(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The arguments in the order of the module's signature, in which exporters have them."""
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"the module cannot be called with these arguments: {error}") from error
    except ValueError:  # it has no signature
        return args, kwargs
    return bound.args, bound.kwargs


def evaluating(module: torch.nn.Module) -> torch.nn.Module:
    """A copy in eval mode."""
    try:
        copied = copy.deepcopy(module)
    except Exception as error:
        raise UsageError(f"the module cannot be copied: {error}") from error
    copied.eval()
    return copied


def fresh(call: Call) -> Call:
    """The same with tensors of their own, because modules may write to what they are given."""
    cloned: Call = _mapped(call, lambda tensor: tensor.clone())
    return cloned


def outputs(module: torch.nn.Module, call: Call) -> tuple[list[Array], list[Array]]:
    """Its outputs, and the same in float64; these are the first ones where it has no float64.

    Each call is one of a new copy with new tensors. Raises UndecidedError for a random module.
    """
    import torch

    def called(module: torch.nn.Module, call: Call) -> list[Array]:
        args, kwargs = fresh(call)
        with torch.no_grad():
            return [array_of(tensor) for tensor in tensors_of(module(*args, **kwargs))]

    own, again = (called(evaluating(module), call) for _ in range(2))
    if len(own) != len(again) or not all(map(_same, own, again)):
        raise UndecidedError(
            "two calls of the module give different results: it is random, or counts its calls",
            "remove what is random, or call torch.onnx.export and then bnfold.optimize",
        )
    try:
        exact = called(evaluating(module).double(), _mapped(call, _widened))
    except Exception:  # types that it insists on, kernels that there are not
        return own, own
    if [array.shape for array in own] != [array.shape for array in exact]:
        return own, own
    pairs = zip(own, exact, strict=True)
    return own, [e if _is_float(o) and _is_float(e) else o for o, e in pairs]


def tensors_of(value: Any) -> list[Any]:
    """The tensors of nested tuples, lists and dictionaries, in the order of the exporters."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value
    nested = isinstance(value, (Mapping, tuple, list))
    return [tensor for part in parts for tensor in tensors_of(part)] if nested else []


def _mapped(value: Any, change: Any) -> Any:
    """The same with each tensor changed."""
    import torch

    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(part, change) for key, part in value.items()}
    return type(value)(_mapped(p, change) for p in value) if type(value) in (tuple, list) else value


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def array_of(tensor: torch.Tensor) -> Array:
    """The tensor as NumPy's, bfloat16 as float32."""
    import torch

    tensor = tensor.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _is_float(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.floating))


def _same(one: Array, other: Array) -> bool:
    return np.array_equal(one, other, equal_nan=_is_float(one) and _is_float(other))


# --- judging by it --------------------------------------------------------------------------------


def _masks(values: Array) -> Array:
    """Which numbers are only there to mask: they recur, and are far beyond all that do not."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    size, recurs = np.abs(values), (counts > 1)[places].reshape(values.shape)
    others = size[np.isfinite(size) & ~recurs]
    masks: Array = recurs & (size > _HUGE * max(float(np.max(others, initial=0.0)), 1e-3))
    return masks


def difference(
    output: OutputDifference, found: Array, own: Array, exact: Array
) -> ModuleDifference:
    """See ModuleDifference."""
    if found.shape != own.shape or not _is_float(own) or not _is_float(found):
        apart = 0.0 if _same(found, own) else np.inf
        return ModuleDifference(output.name, apart, 0.0, 0.0)
    unit = float(np.finfo(own.dtype).eps) / 2
    f, o, e = (array.astype(np.float64) for array in (found, own, exact))
    plain = np.isfinite(o)
    masking = plain & _masks(o)
    kept = bool(np.allclose(f[masking], o[masking], rtol=4 * unit, atol=0)) and _same(
        f[~plain], o[~plain]
    )
    plain &= ~masking
    scale = unit * float(np.max(np.abs(o[plain]), initial=0.0))
    rounding = float(np.max(np.abs(o - e)[plain], initial=0.0))
    if not rounding <= _MOST * scale:  # float64 gives something else: it is not the same function
        e, rounding = o, 0.0
    apart = float(np.max(np.abs(f - e)[plain], initial=0.0)) if kept else np.inf
    bound = _AMPLE * rounding + min(output.bound, _MOST * scale) + 4 * scale
    return ModuleDifference(output.name, apart, rounding, bound)
