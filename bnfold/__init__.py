"""bnfold folds BatchNormalization into the weights of ONNX models and proves nothing else changed.

    result = bnfold.optimize("model.onnx")        # files: fold, compare in onnxruntime, write
    result = bnfold.fold(model)                   # a ModelProto or an onnx-graphsurgeon Graph
    comparison = bnfold.verify("model.onnx", "model.folded.onnx")
    inspection = bnfold.inspect("model.onnx")     # the verdicts, nothing written
    frozen = bnfold.freeze("model.onnx")          # BatchNormalizations as γ′x + β′, to be learned
    result = bnfold.stats("model.onnx", bnfold.Data("data.npz"))  # do the statistics fit?

Heavy modules are imported on first use, so that `import bnfold` and `bnfold --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bnfold.version import __version__

if TYPE_CHECKING:
    from bnfold.api import FoldResult, Inspection, OptimizeResult, fold, inspect, optimize, verify
    from bnfold.benchmark.ratios import BenchResult, bench
    from bnfold.diffing.model_diff import Change, Difference, diff
    from bnfold.errors import (
        BnfoldError,
        ModelError,
        NotBetterError,
        UndecidedError,
        UsageError,
        WorkerError,
    )
    from bnfold.graph.node_counts import NodeCounts
    from bnfold.options import Options, RunOptions
    from bnfold.pipeline.batch import ModelOutcome, optimize_many
    from bnfold.reasons import Reason, Refusal
    from bnfold.tuning.data_statistics import (
        Dataset,
        RecalibrateResult,
        StatsResult,
        recalibrate,
        stats,
    )
    from bnfold.tuning.drift import ChannelDrift, DriftLimits, Fit
    from bnfold.tuning.frozen_models import AssignResult, FreezeResult, assign, freeze
    from bnfold.verdict import Verdict
    from bnfold.verification.comparison import Comparison, NotEqualError, OutputDifference

_HOME = {
    "bnfold.api": (
        "FoldResult", "Inspection", "OptimizeResult", "fold", "inspect", "optimize", "verify",
    ),
    "bnfold.benchmark.ratios": ("BenchResult", "bench"),
    "bnfold.verification.comparison": ("Comparison", "NotEqualError", "OutputDifference"),
    "bnfold.graph.node_counts": ("NodeCounts",),
    "bnfold.diffing.model_diff": ("Change", "Difference", "diff"),
    "bnfold.tuning.drift": ("ChannelDrift", "Fit", "DriftLimits"),
    "bnfold.errors": (
        "BnfoldError", "WorkerError", "ModelError", "NotBetterError",
        "UndecidedError", "UsageError",
    ),
    "bnfold.pipeline.batch": ("ModelOutcome", "optimize_many"),
    "bnfold.options": ("Options", "RunOptions"),
    "bnfold.verdict": ("Verdict",),
    "bnfold.tuning.data_statistics": (
        "Dataset", "RecalibrateResult", "StatsResult", "recalibrate", "stats",
    ),
    "bnfold.reasons": ("Reason", "Refusal"),
    "bnfold.tuning.frozen_models": ("AssignResult", "FreezeResult", "assign", "freeze"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "AssignResult",
    "BenchResult",
    "BnfoldError",
    "Change",
    "ChannelDrift",
    "Comparison",
    "Dataset",
    "Difference",
    "DriftLimits",
    "Fit",
    "FoldResult",
    "FreezeResult",
    "Inspection",
    "ModelError",
    "ModelOutcome",
    "NodeCounts",
    "NotBetterError",
    "NotEqualError",
    "OptimizeResult",
    "Options",
    "OutputDifference",
    "Reason",
    "RecalibrateResult",
    "Refusal",
    "RunOptions",
    "StatsResult",
    "UndecidedError",
    "UsageError",
    "Verdict",
    "WorkerError",
    "__version__",
    "assign",
    "bench",
    "diff",
    "fold",
    "freeze",
    "inspect",
    "optimize",
    "optimize_many",
    "recalibrate",
    "stats",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
