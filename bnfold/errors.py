"""What can go wrong, each with the exit code that the command line gives for it.

0 is "done and verified". 1 is kept for the one thing a CI step must never miss: the two models are
not equal. A crash of bnfold itself is 70 (EX_SOFTWARE), so that it is never taken for a verdict.
"""

from __future__ import annotations

INTERNAL_EXIT_CODE = 70


class BnfoldError(Exception):
    """Base of all errors that bnfold raises on purpose: one sentence, and what to do about it."""

    exit_code = INTERNAL_EXIT_CODE

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} ({remedy})" if remedy else message)
        self.message = message
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[BnfoldError], tuple[object, ...]]:
        """So that it comes through from another process as it was."""
        return type(self), (self.message, self.remedy)


class NotBetterError(BnfoldError):
    """New statistics would not raise the accuracy; nothing was written."""

    exit_code = 1


class UsageError(BnfoldError, ValueError):
    """The call cannot be carried out as given: a path, a parameter or an input does not fit."""

    exit_code = 2


class ModelError(BnfoldError):
    """The file cannot be read, or what it holds is not a valid ONNX model."""

    exit_code = 3


class UndecidedError(BnfoldError):
    """Equality could be neither shown nor refuted: no kernel, no runnable input, custom ops."""

    exit_code = 4


class WorkerError(BnfoldError):
    """The process that runs onnxruntime crashed, ran out of time or hit a limit."""

    exit_code = 5


def unexpected(error: Exception) -> BnfoldError:
    """What to say of an error that nobody foresaw. Raises the interrupt behind it, if there is."""
    if (interrupt := interrupt_behind(error)) is not None:
        raise interrupt
    return BnfoldError(
        f"bnfold itself failed: {type(error).__name__}: {error}",
        "please report it, with the traceback and if you may with the model",
    )


def interrupt_behind(error: BaseException | None) -> BaseException | None:
    """What was to end this process, and became another error: Python and C++ do so to some."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def first_line(error: Exception, most: int = 400) -> str:
    """What an error says, in one line of at most so many characters; its type where it is mute."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__
