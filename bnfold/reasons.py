"""Every reason for which a BatchNormalization stays: code, sentence, remedy.

Imports nothing of bnfold, so that reports, tests and documentation can list the reasons without
the engine. The sentence is completed with the node that blocked the fold and the detail found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Reason(Enum):
    """Why a fold was refused. `value` is (code, sentence, remedy); codes are stable."""

    code: str
    sentence: str
    remedy: str

    def __init__(self, code: str, sentence: str, remedy: str) -> None:
        self.code = code
        self.sentence = sentence
        self.remedy = remedy

    # --- the BatchNormalization itself ---------------------------------------------------------
    TRAINING_MODE = (
        "training-mode",
        "{node} has training_mode=1: it normalises with the statistics of each batch",
        "export in inference mode: call model.eval() before torch.onnx.export; or, where its "
        "running statistics are real, `bnfold.freeze(assume_inference=True)`",
    )
    TRAINING_OUTPUTS = (
        "training-outputs",
        "{node} has the outputs of training mode: {detail}",
        "export in inference mode, where BatchNormalization has one output",
    )
    IS_TEST_ZERO = (
        "is-test-0",
        "{node} is of opset {detail} with is_test=0: it normalises with the statistics of each "
        "batch",
        "export in inference mode, or with opset 7 or newer",
    )
    DUMMY_STATISTICS = (
        "dummy-statistics",
        "{node} is in training mode, and its running statistics are mean 0 and variance 1 in all "
        "{detail} channels: what an exporter writes where it has none",
        "export in inference mode, or estimate the statistics on data: "
        "`bnfold.recalibrate(assume_inference=True)`",
    )
    SPATIAL_ZERO = (
        "spatial-0",
        "{node} has spatial=0: {detail}",
        "export with spatial=1, one statistic per channel",
    )
    INSTANCE_NORM = (
        "instance-norm",
        "{node} is an InstanceNormalization, written as a BatchNormalization in training mode: it "
        "normalises each sample with its own statistics",
        "nothing is wrong: there are no stored statistics to fold, to freeze or to estimate",
    )
    OTHER_GRAPH = (
        "other-graph",
        "{node} stands in {detail}, where no values are measured",
        "what stands in a branch within a Loop or Scan, or in the body of another operator, is "
        "left alone: check these statistics in training",
    )
    LEFT_OUT = (
        "left-out",
        "{node} is excluded from folding",
        "nothing is wrong: `skip` or `only` excludes it",
    )
    ATTRIBUTE_FROM_CALL = (
        "attribute-from-call",
        "{node} takes its attribute {detail} from the call of the function it stands in",
        "inline the local functions first: onnx.inliner.inline_local_functions",
    )
    MALFORMED = (
        "malformed",
        "{node} breaks the ONNX specification: {detail}",
        "run onnx.checker.check_model on the model and fix the export",
    )

    # --- the constants -------------------------------------------------------------------------
    COMPUTED = (
        "computed-at-run-time",
        "{node} reads {detail}, which has no value before the model runs",
        "make it an initializer if it is the same in every call",
    )
    NOT_EVALUATED = (
        "not-evaluated",
        "{node} reads {detail}, which does not depend on the input, but bnfold does not compute",
        "fold the constants of the model first, for example with onnxslim or with onnxruntime's "
        "offline optimiser at the basic level",
    )
    OVERRIDABLE = (
        "overridable-input",
        "{node} reads {detail}, an initializer that is also a graph input: callers may replace it",
        "export with keep_initializers_as_inputs=False, or set `freeze_initializers=True` if "
        "nobody feeds it",
    )
    FUNCTION_ARGUMENT = (
        "function-argument",
        "{node} reads {detail}, an argument of the function it stands in",
        "inline the local functions first: onnx.inliner.inline_local_functions",
    )
    SPARSE = (
        "sparse-constant",
        "{node} reads {detail}, which is stored as a sparse tensor",
        "store it as a dense initializer",
    )
    DTYPE = (
        "dtype",
        "{node} reads {detail}",
        "bnfold folds float, double, float16 and bfloat16 weights",
    )
    SHAPE_MISMATCH = (
        "shape-mismatch",
        "{node}: {detail}",
        "run onnx.checker.check_model with full_check=True and fix the export",
    )
    NOT_FINITE = (
        "not-finite",
        "{node} reads {detail}, which holds NaN or infinity",
        "look at the training run: a folded NaN would spread further than this one",
    )
    VARIANCE_NOT_POSITIVE = (
        "variance-not-positive",
        "{node} has variance + epsilon ≤ 0 in {detail}, so its square root has no inverse",
        "fix the stored variance, or give the node a positive epsilon",
    )
    OVERFLOW = (
        "overflow",
        "the folded {detail} of {node} would be infinite in its own dtype",
        "if the model was converted to float16 or bfloat16, fold the float32 model and convert it "
        "afterwards; else look for a variance that is almost 0",
    )
    UNDERFLOW = (
        "underflow",
        "a channel of the folded {detail} of {node} would vanish: its values are below the "
        "smallest number of its dtype, and its bias does not hide them",
        "if the model was converted to float16 or bfloat16, fold the float32 model and convert it "
        "afterwards; else prune the channel, which computes next to nothing",
    )

    QUANTIZED = (
        "quantized",
        "{node} cannot take the map into its integers and their scale: {detail}",
        "fold first and quantise then: run bnfold on the model before its quantisation",
    )

    # --- the way to the linear node --------------------------------------------------------------
    ANOTHER_READER = (
        "another-reader",
        "the output of {node} is also read by {detail}, which needs the value before normalisation",
        "nothing is wrong: without the other reader it would fold",
    )
    GRAPH_OUTPUT = (
        "graph-output",
        "the output {detail} of {node} is an output of the graph",
        "drop that output at export if nobody needs the value before normalisation",
    )
    RESULT = (
        "result",
        "the result {detail} of {node} is an output of the graph",
        "nothing is wrong: outputs of the graph stay what they are",
    )
    CAPTURED = (
        "captured",
        "the output of {node} is also read inside {detail}",
        "nothing is wrong: without the reader in the body it would fold",
    )
    ANNOTATED = (
        "annotated",
        "the output {detail} of {node} has an entry in quantization_annotation or training_info",
        "remove the annotation if nobody needs that value as it is",
    )
    NO_LINEAR_PRODUCER = (
        "no-linear-producer",
        "{detail} stands before {node}, and bnfold folds nothing into it",
        "nothing is wrong where it has no weights; if it has, please report the operator",
    )
    CHANNEL_AXIS = (
        "channel-axis",
        "{node} has its channels on axis {detail}",
        "put a Transpose around it that makes the two axes one, if the numbers were meant to agree",
    )
    AXIS_LOST = (
        "axis-lost",
        "{node} mixes the channels with other axes, or drops them, so that no map per channel is "
        "left",
        "nothing is wrong: on the other side of this node the map has no simple form",
    )
    NEGATIVE_SCALE = (
        "negative-scale",
        "{node} keeps its meaning only under scales ≥ 0: {detail}",
        "nothing is wrong: a negative γ turns the order of numbers around",
    )
    SHIFT = (
        "shift",
        "{node} lets no shift pass: {detail}",
        "nothing is wrong: only the scale could move on (past a Relu, `allow_max=True` may help)",
    )
    ZERO_PADDING = (
        "zero-padding",
        "{node} mixes zeros from its padding in, which the shift does not reach: {detail}",
        "use a convolution without padding there, or train with β′ = 0",
    )
    BORDER = (
        "border",
        "{node} adds up fewer inputs at its border than inside, so that a shift has no one value: "
        "{detail}",
        "nothing is wrong: only the scale could be folded",
    )
    RUN_TIME_WEIGHT = (
        "run-time-weight",
        "the map stands on what {node} reads as its weight",
        "nothing is wrong: only the data input of this node can give up a map",
    )
    NO_PLACE_FOR_SHIFT = (
        "no-place-for-shift",
        "{node} has no bias, and its result is no matrix, so that it cannot become a Gemm",
        "put a constant Add behind it",
    )
    NOT_TRANSPARENT = (
        "not-transparent",
        "{detail} at {node} does not commute with a map per channel",
        "nothing is wrong: the map cannot be moved past this node",
    )
    NARROWER = (
        "narrower-type",
        "before {node} the map would be made in a type with fewer digits: {detail}",
        "nothing is wrong: convert the whole model to one float type, and fold that",
    )
    ROUNDING = (
        "rounding",
        "the map cannot be moved past {node}, where activations are rounded to integers",
        "fold first and quantise then: run bnfold on the model before its quantisation",
    )
    OTHER_BRANCH = (
        "other-branch",
        "{node} joins branches of which another one cannot take part: {detail}",
        "nothing is wrong: the other branch needs its values as they are",
    )
    BRANCHES = (
        "branches",
        "{node} joins branches that are linear in one value, but make no one convolution: {detail}",
        "nothing is wrong: the branches stay, and what they normalise with is folded on its own",
    )
    TOO_FAR = (
        "too-far",
        "what {node} needs lies more than {detail} nodes away",
        "nothing is wrong: please report the model if you think that it should fold",
    )
    SHADOWED = (
        "shadowed",
        "the name {detail} of {node} also names another value inside a body",
        "give each value of the model a name of its own",
    )
    TOO_LARGE = (
        "too-large",
        "{node} would need {detail}",
        "nothing is wrong: folding would make the model much larger, or take more memory than a "
        "model of this size is worth",
    )
    SHARED_WEIGHT = (
        "shared-weight",
        "{node} would need {detail}",
        "nothing is wrong: the copy would cost more than the node; where it is worth it to you, "
        "give each reader a weight of its own before",
    )
    MORE_NODES = (
        "more-nodes",
        "in a function {node} would need more new Constant nodes than go",
        "inline the local functions first: onnx.inliner.inline_local_functions",
    )
    OLD_BROADCASTING = (
        "old-broadcasting",
        "{node} is of opset {detail}, in which Mul and Add do not broadcast by NumPy's rules",
        'freeze it as a BatchNormalization: `form="batchnorm"`, or convert the model to a newer '
        "opset",
    )
    UNKNOWN_RANK = (
        "unknown-rank",
        "the shape of what {node} reads or makes cannot be inferred",
        "give the model's inputs their shapes, with onnxruntime.tools.make_dynamic_shape_fixed for "
        "example, and inline local functions",
    )


@dataclass(frozen=True)
class Refusal:
    """A fold that does not take place: the reason, the node that blocked it, what was found."""

    reason: Reason
    node: str
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The reason as one sentence about this node."""
        return self.reason.sentence.format(node=self.node, detail=self.detail)
