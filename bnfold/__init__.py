"""bnfold folds BatchNormalization into the weights of ONNX models and proves nothing else changed.

    result = bnfold.optimize("model.onnx")        # files: fold, compare in onnxruntime, write
    result = bnfold.fold(model)                   # a ModelProto or an onnx-graphsurgeon Graph
    comparison = bnfold.verify("model.onnx", "model.folded.onnx")
    inspection = bnfold.inspect("model.onnx")     # the verdicts, nothing written

Heavy modules are imported on first use, so that `import bnfold` and `bnfold --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from bnfold.api import (
        FoldResult,
        Inspection,
        OptimizeResult,
        fold,
        inspect,
        optimize,
        verify,
    )
    from bnfold.compare import Trial
    from bnfold.comparison import Comparison, OutputDifference
    from bnfold.counts import Counts
    from bnfold.errors import (
        BnfoldError,
        ChildError,
        ModelError,
        NotEqualError,
        UndecidedError,
        UsageError,
    )
    from bnfold.options import Options
    from bnfold.plan import Verdict
    from bnfold.reasons import Reason, Refusal

_HOME = {
    "bnfold.api": (
        "FoldResult", "Inspection", "OptimizeResult", "fold", "inspect", "optimize", "verify",
    ),
    "bnfold.compare": ("Trial",),
    "bnfold.comparison": ("Comparison", "OutputDifference"),
    "bnfold.counts": ("Counts",),
    "bnfold.errors": (
        "BnfoldError", "ChildError", "ModelError", "NotEqualError", "UndecidedError", "UsageError",
    ),
    "bnfold.options": ("Options",),
    "bnfold.plan": ("Verdict",),
    "bnfold.reasons": ("Reason", "Refusal"),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BnfoldError",
    "ChildError",
    "Comparison",
    "Counts",
    "FoldResult",
    "Inspection",
    "ModelError",
    "NotEqualError",
    "OptimizeResult",
    "Options",
    "OutputDifference",
    "Reason",
    "Refusal",
    "Trial",
    "UndecidedError",
    "UsageError",
    "Verdict",
    "__version__",
    "fold",
    "inspect",
    "optimize",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bnfold' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
