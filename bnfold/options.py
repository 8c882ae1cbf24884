"""What a caller may allow beyond the default. Imports nothing of bnfold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Options:
    """Choices of `fold`, `inspect` and `optimize`, all of them off.

    `freeze_initializers`: an initializer that is also a graph input counts as constant. The inputs
    stay, but what callers feed to those that were folded has no effect, or a wrong one.
    `allow_max`: Relu(x) + t may become Max(x + t, t), which lets a shift pass a Relu upwards.
    `merge_branches`: branches that are linear in one value and are added up become one convolution.
    `skip`: names of nodes, or patterns with *, ? and [], that stay as they are: they are not
    folded, and nothing is folded into them. `only`: likewise, what alone may be folded.
    `only_batch_norm`: constant Muls, Adds, Subs and Divs are not folded.
    """

    freeze_initializers: bool = False
    allow_max: bool = False
    merge_branches: bool = False
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    only_batch_norm: bool = False

    def skips(self, name: str) -> bool:
        """Whether the node of this name is to stay as it is."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    def leaves(self, name: str) -> bool:
        """Whether the node of this name is not to be folded."""
        others = bool(self.only) and not any(fnmatchcase(name, p) for p in self.only)
        return self.skips(name) or others


@dataclass(frozen=True)
class RunOptions:
    """On which inputs, and within which limits, two models are compared.

    `inputs` is the path of an .npz file with one array per input name, a folder of .npy or .npz
    files, ONNX's test_data_set folders, or polygraphy's JSON. Without it, `check` sets of inputs
    are drawn from `seed`: `fill` is "mixed", "normal", "uniform", "zeros", "ones" or "arange", and
    `val_range` gives the least and the largest number by input name, "" for all. `input_shapes`
    (by input name) and `dims` (by symbol) fill dimensions that the model leaves open. `rtol` and
    `atol` by output name, "" for all, take the place of the measured bound. `providers` are
    onnxruntime's execution providers, the CPU's by default. `timeout` is in seconds; `memory_limit`
    in bytes of address space, None for the larger of 4 GiB and 8 × the model + 2 GiB (there is no
    such limit on Windows).
    `counterexample` is a folder to be made, where what shows a difference is saved: two models and
    test_data_set_0 with inputs and the outputs that are right.
    """

    inputs: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    check: int = 3
    fill: str = "mixed"
    val_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    timeout: float = 600.0
    memory_limit: int | None = None
    counterexample: str | None = None
