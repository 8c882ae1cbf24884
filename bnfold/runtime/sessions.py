"""onnxruntime sessions, and what their errors mean for the verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnxruntime as ort

from bnfold.errors import BnfoldError, ModelError, UndecidedError, UsageError, first_line
from bnfold.onnx_io.protos import Array

Feed: TypeAlias = dict[str, Array]

CPU = ("CPUExecutionProvider",)
_MEMORY_WORDS = ("bad_alloc", "failed to allocate", "out of memory", "cannot allocate")


class NotLoadedError(Exception):
    """onnxruntime does not load a model.

    `kind` is the name of its error. What it says is given without the model's path, which may hold
    any words.
    """

    def __init__(self, error: Exception, model: str | bytes) -> None:
        said = str(error)
        if isinstance(model, str):
            said = said.replace(f"Load model from {model} failed:", "").replace(model, "the model")
        super().__init__(said)
        self.kind = type(error).__name__


@dataclass(frozen=True)
class SessionFactory:
    """How sessions are opened: on which execution providers, the first that can do it first.

    `threads` for each operator; 0 is onnxruntime's own choice.
    """

    providers: tuple[str, ...] = CPU
    threads: int = 0

    @classmethod
    def of(cls, names: Sequence[str], threads: int = 0) -> SessionFactory:
        """With these providers. Raises UsageError for one that this onnxruntime has not."""
        for name in names:
            if name not in ort.get_available_providers():
                raise UsageError(
                    f"`providers`: this onnxruntime has no {name!r}",
                    f"it has {', '.join(ort.get_available_providers())}",
                )
        return cls(tuple(names) or CPU, threads)

    def open(
        self, model: str | bytes, *, optimised: bool = False, save_as: str = ""
    ) -> ort.InferenceSession:
        """A session, with all graph optimisations off, or all on; the graph is saved on request.

        With the default level onnxruntime folds Conv + BatchNormalization itself, and one would
        compare its fold with ours. Raises NotLoadedError.
        """
        levels = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        )
        options.log_severity_level = 4
        options.intra_op_num_threads = self.threads
        if save_as:
            options.optimized_model_filepath = save_as
        try:
            return ort.InferenceSession(model, options, providers=list(self.providers))
        except Exception as error:
            raise NotLoadedError(error, model) from error


def run(
    session: ort.InferenceSession, feed: Feed, names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Outputs by name; all of them where no names are given."""
    if names is None:
        names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(list(names), feed), strict=True)) if names else {}


def load_error(error: Exception) -> BnfoldError:
    """Why onnxruntime would not load the original: an invalid model, or one it cannot run."""
    check_memory(error)
    text = first_line(error)
    kind = error.kind if isinstance(error, NotLoadedError) else type(error).__name__
    if (newer := _newer(str(error))) is not None:
        return newer
    if kind == "NotImplemented":
        return UndecidedError(
            f"onnxruntime has no kernel for this model: {text}",
            "its CPU provider has no double or bfloat16 Conv; compare a float32 export, or write "
            'without comparing: `verify="none"`',
        )
    if kind == "Fail" and "is not a registered function/op" in text:
        return UndecidedError(
            f"onnxruntime does not know what this model is made of: {text}",
            'it has custom operators; `verify="proof"` decides without running them',
        )
    if kind in ("InvalidGraph", "InvalidProtobuf", "InvalidArgument", "Fail", "NoSuchFile"):
        return ModelError(f"onnxruntime refuses the model: {text}", "fix the export")
    return UndecidedError(f"onnxruntime cannot load the model: {text}", "see its message")


_IR_VERSION = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development .*domain (\S+) is till opset (\d+)")


def _newer(text: str) -> UndecidedError | None:
    """What to say of a model that is newer than the onnxruntime that is installed."""
    own = f"onnxruntime {ort.__version__}"
    if found := _IR_VERSION.search(text):
        return UndecidedError(
            f"the model has IR version {found[1]}, {own} reads up to {found[2]}",
            f"install a newer onnxruntime, or save the model with model.ir_version = {found[2]}; "
            '`verify="proof"` decides without running it',
        )
    if found := _OPSET.search(text):
        return UndecidedError(
            f"the model is of opset {found[1]} of {found[2]}, {own} knows them up to {found[3]}",
            "install a newer onnxruntime, or convert the model with "
            f"onnx.version_converter.convert_version(model, {found[3]}); "
            '`verify="proof"` decides without running it',
        )
    return None


def check_memory(error: Exception) -> None:
    """Raise MemoryError where onnxruntime means that it got no memory."""
    if any(word in str(error).lower() for word in _MEMORY_WORDS):
        raise MemoryError from error


def is_float(array: Array) -> bool:
    """Whether the array holds floating-point numbers."""
    return np.issubdtype(array.dtype, np.floating)


def require_tensors(outputs: dict[str, Any]) -> Run:
    """The outputs, which must be tensors. Raises UndecidedError."""
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise UndecidedError(
                f"the output {name!r} is no tensor, which bnfold cannot compare",
                'write without comparing: `verify="none"`',
            )
    return outputs


Run: TypeAlias = dict[str, Array]
