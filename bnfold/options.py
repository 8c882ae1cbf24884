"""What a caller may choose: what is folded, how far it is verified, and on which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

from bnfold.deprecation import warn
from bnfold.errors import UsageError

Verify: TypeAlias = Literal["none", "proof", "run", "full"]
Level: TypeAlias = Literal["frame", "proof", "folds", "run", "full"]
Fill: TypeAlias = Literal["mixed", "normal", "uniform", "zeros", "ones", "arange"]
FrozenForm: TypeAlias = Literal["mul-add", "batchnorm"]
Rest: TypeAlias = Literal["keep", "affine", "conv"]
Scales: TypeAlias = Literal["power-of-two", "free"]
FailOn: TypeAlias = Literal["foldable", "any", "drifted", "statistics"]
ImageLayout: TypeAlias = Literal["NCHW", "NHWC"]


RENAMED_CHOICE = ("certificate", "proof")  # how the levels of verification were called


def require_choice(name: str, value: str, choices: object) -> None:
    """Raises UsageError for a value of the parameter `name` that is none of a Literal's."""
    allowed = get_args(choices)
    if value not in allowed:
        listed = ", ".join(map(repr, allowed))
        raise UsageError(f"{name}={value!r} is not one of {listed}")


def current_choice(name: str, value: str) -> str:
    """What a value of a choice is called now, with a warning where that is not what was given."""
    if value != RENAMED_CHOICE[0]:
        return value
    warn(f"{name}={value!r}", repr(RENAMED_CHOICE[1]), level=3)
    return RENAMED_CHOICE[1]


@dataclass(frozen=True)
class Options:
    """What `fold`, `inspect` and `optimize` may do beyond the default; everything is off.

    Attributes:
        freeze_initializers: treat initializers that are also graph inputs as constants. The inputs
            stay, but values that callers feed to those that were folded no longer have the effect
            they had.
        allow_max: Relu(x) + t may become Max(x + t, t), so that a shift can be pushed up past it.
        merge_branches: branches that are linear in one value and are added up become a single
            convolution (RepVGG, MobileOne), and so do convolutions in a row (SESR), where that
            takes no more weights.
        skip: names of nodes, or patterns with *, ? and [], that are not folded and into which
            nothing is folded.
        only: names or patterns of the nodes that may be folded, when no others may.
        only_batch_norm: leave constant Mul, Add, Sub and Div nodes alone.
        rest: what becomes of a BatchNormalization that nothing takes: "keep" it, or write it out
            as Mul and Add ("affine") or as a depthwise 1×1 convolution ("conv"), for devices that
            have none. That is no gain on a CPU.
    """

    freeze_initializers: bool = False
    allow_max: bool = False
    merge_branches: bool = False
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    only_batch_norm: bool = False
    rest: Rest = "keep"

    def __post_init__(self) -> None:
        """Raises UsageError for a form that there is not."""
        require_choice("rest", self.rest, Rest)

    def skips(self, name: str) -> bool:
        """Whether the node of this name must not change."""
        return any(fnmatchcase(name, pattern) for pattern in self.skip)

    def excludes(self, name: str) -> bool:
        """Whether the node of this name must not be folded."""
        others = bool(self.only) and not any(fnmatchcase(name, p) for p in self.only)
        return self.skips(name) or others


@dataclass(frozen=True)
class RunOptions:
    """On which inputs models are run, how results are compared, and within which limits.

    Attributes:
        inputs: path of an .npz file with one array per input, a folder of .npy or .npz files,
            ONNX's test_data_set folders, or polygraphy's JSON. None: inputs are generated.
        input_shapes: shapes by input name, for inputs whose shape the model leaves open.
        dims: sizes of symbolic dimensions, by symbol.
        seed: of the generated inputs.
        check: how many sets of inputs are generated; None for one where a proof holds and models
            are only run to see it at work (`verify="run"`), and three otherwise.
        fill: their distribution; "mixed" alternates between "normal" and "uniform".
        val_range: lowest and highest value by input name; "" stands for all inputs.
        rtol, atol: tolerances by output name ("" for all outputs) that replace the measured bound.
        providers: onnxruntime's execution providers; by default the CPU's.
        timeout: seconds that the runs may take.
        memory_limit: bytes of address space that the runs may take; None for the larger of 4 GiB
            and 8 × the model + 2 GiB. It cannot be enforced on Windows.
        counterexample: a folder to create if the models differ, with what shows it: both models
            and test_data_set_0 with the inputs and the correct outputs.
    """

    inputs: str | None = None
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    check: int | None = None
    fill: Fill = "mixed"
    val_range: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    rtol: Mapping[str, float] = field(default_factory=dict)
    atol: Mapping[str, float] = field(default_factory=dict)
    providers: tuple[str, ...] = ()
    timeout: float = 600.0
    memory_limit: int | None = None
    counterexample: str | None = None

    def __post_init__(self) -> None:
        require_choice("fill", self.fill, Fill)
