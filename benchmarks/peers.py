"""Runs one optimiser on one file, as a process of its own: `python peers.py NAME IN OUT`.

Each the way its own documentation shows for a file, without comparing results, and with external
data where the input has it.
"""

from __future__ import annotations

import sys
from pathlib import Path


def load_save(source: str, target: str, *, external: bool) -> None:
    """The floor for whoever parses a model: read it, write it."""
    import onnx

    _save(onnx.load(source), target, external=external)


def load_and_run(source: str, _: str, *, external: bool) -> None:
    """The floor for whoever compares results: load it in onnxruntime, and run it twice."""
    import numpy as np
    import onnxruntime as ort

    del external
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feed = {
        value.name: np.zeros(
            [dim if isinstance(dim, int) else 1 for dim in value.shape], np.float32
        )
        for value in session.get_inputs()
    }
    for _ in range(2):
        session.run(None, feed)


def onnxruntime(source: str, target: str, *, external: bool) -> None:
    """Offline optimisation at the basic level, which folds BatchNormalization into Conv."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    options.log_severity_level = 3
    if external:
        name = f"{Path(target).name}.data"
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", name
        )
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnxsim(source: str, target: str, *, external: bool) -> None:
    """simplify, as its command does with --skip-... and no checks."""
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(source), check_n=0)
    _save(model, target, external=external)


def onnxslim(source: str, target: str, *, external: bool) -> None:
    """slim, as its command does."""
    import onnxslim

    onnxslim.slim(source, target, save_as_external_data=external)


def onnxoptimizer(source: str, target: str, *, external: bool) -> None:
    """The one pass that folds BatchNormalization."""
    import onnx
    import onnxoptimizer

    model = onnxoptimizer.optimize(onnx.load(source), ["fuse_bn_into_conv"])
    _save(model, target, external=external)


def onnxscript(source: str, target: str, *, external: bool) -> None:
    """The rewrite rules for BatchNormalization behind Conv, ConvTranspose and Gemm."""
    import onnx_ir as ir
    from onnxscript.rewriter import rewrite
    from onnxscript.rewriter.rules.common import (
        fuse_batchnorm_into_conv_rule,
        fuse_batchnorm_into_conv_transpose_rule,
        fuse_batchnorm_into_gemm_rule,
    )

    rules = [
        fuse_batchnorm_into_conv_rule,
        fuse_batchnorm_into_conv_transpose_rule,
        fuse_batchnorm_into_gemm_rule,
    ]
    model = rewrite(ir.load(source), pattern_rewrite_rules=rules)
    ir.save(model, target, external_data=f"{Path(target).name}.data" if external else None)


def _save(model: object, target: str, *, external: bool) -> None:
    import onnx

    name = f"{Path(target).name}.data"
    onnx.save(model, target, save_as_external_data=external, location=name)


FLOOR = "load and 2 runs"
PEERS = {
    FLOOR: load_and_run,
    "load and save": load_save,
    "onnxruntime": onnxruntime,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnxoptimizer": onnxoptimizer,
    "onnxscript": onnxscript,
}

if __name__ == "__main__":
    name, source, target, external = sys.argv[1:]
    PEERS[name](source, target, external=external == "external")
