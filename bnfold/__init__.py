"""bnfold folds BatchNormalization into the weights of ONNX models and proves nothing else changed.

    result = bnfold.optimize("model.onnx")        # files: fold, verify in onnxruntime, write
    result = bnfold.fold(model)                   # a ModelProto or an onnx-graphsurgeon Graph
    comparison = bnfold.verify("model.onnx", "model.folded.onnx")
    inspection = bnfold.inspect("model.onnx")     # what would fold, nothing is written
    results = bnfold.check(["models"])            # the gate of a pipeline
    frozen = bnfold.freeze("model.onnx")          # BatchNormalizations as γ′x + β′, to be learned
    result = bnfold.stats("model.onnx", bnfold.Dataset("data.npz"))  # do the statistics fit?

The names and their modules are listed in `__init__.pyi`. Each is loaded on first use, so that
`import bnfold` and `bnfold --help` stay fast.
"""

from typing import Any

import lazy_loader

from bnfold.version import __version__ as __version__

_load, _list, __all__ = lazy_loader.attach_stub(__name__, __file__)
_RENAMED = {
    "ChildError": "WorkerError",
    "Counts": "NodeCounts",
    "Data": "Dataset",
    "Done": "ModelOutcome",
    "Limits": "DriftLimits",
    "Trial": "RunOptions",
}


def __getattr__(name: str) -> Any:
    if name not in _RENAMED:
        return _load(name)
    from bnfold.deprecation import warn

    warn(f"bnfold.{name}", f"bnfold.{_RENAMED[name]}", level=2)
    return _load(_RENAMED[name])


def __dir__() -> list[str]:
    return _list()
